"""What the ops are meant to reach on one H200, and whether they did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.cases import Bench
from benchmarks.gpu import paths, peers
from benchmarks.gpu.cases import HEADLINE, WIDE
from benchmarks.growth import Point
from benchmarks.memory import Extra
from benchmarks.suite import FORWARD, MATCH_KL, SCALED, Row, Work, fastest_of, op_name
from benchmarks.targets import Target, flatness, ratio

DEVICE: Final = "H200"
MILLISECONDS: Final = (
    (HEADLINE, FORWARD, paths.PORTABLE, 1.55),
    (HEADLINE, FORWARD, paths.SPLIT, 0.8),
    (HEADLINE, MATCH_KL, paths.PORTABLE, 1.8),
    (HEADLINE, MATCH_KL, paths.SPLIT, 1.0),
    (WIDE, FORWARD, None, 14.0),
    (WIDE, SCALED, None, 28.0),
)
"""Case, op, path (None: the one it takes), and its time; of that device alone."""

AHEAD: Final = 1.3
"""How many times as fast as the portable path another has to be."""

OVER: Final = 1.1
"""Of `max_memory`, at most this may be taken."""


def judge(
    benches: Sequence[Bench],
    rows: Sequence[Row],
    growth: Sequence[Point],
    memory: Sequence[Extra],
    gpu: dict[str, Any],
) -> list[Target]:
    """Hold what was measured against every target."""
    narrow, wide = HEADLINE.name, WIDE.name
    judged = [_time(*wanted, rows, gpu) for wanted in MILLISECONDS]
    judged += [
        ratio(f"{narrow} {FORWARD.name}: torch.compile", 5, rows, HEADLINE, FORWARD, "compile"),
        ratio(f"{narrow} {MATCH_KL.name}: eager", 20, rows, HEADLINE, MATCH_KL, "eager"),
        ratio(
            f"{wide} {FORWARD.name}: Triton",
            1.8,
            rows,
            WIDE,
            FORWARD,
            *peers.GROUPS,
            precision=WIDE.precisions[0],
        ),
    ]
    judged += [target for bench in benches for target in _paths(bench, rows)]
    judged += flatness(growth)
    for extra in memory:
        if extra.most is None:
            continue
        what, wanted = f"extra memory of {extra.name}", f"under {OVER * extra.most / 2**20:.0f} MiB"
        if extra.bytes is None:
            judged.append(Target(what, wanted, f"not measured: {extra.why_not}", None))
        else:
            reached = f"{extra.bytes / 2**20:.1f} MiB"
            judged.append(Target(what, wanted, reached, extra.bytes <= OVER * extra.most))
    return judged


def _time(
    bench: Bench,
    work: Work,
    path: str | None,
    milliseconds: float,
    rows: Sequence[Row],
    gpu: dict[str, Any],
) -> Target:
    taken = _op(bench, work, bench.precisions[0], path, rows)
    what = f"{bench.name} {work.name}" + (f", {path}" if path else "")
    wanted = f"{milliseconds:g} ms"
    if taken is None:
        return Target(what, wanted, "not measured", None)
    met = 1e3 * taken <= milliseconds if DEVICE in gpu["name"] else None
    return Target(what, wanted, f"{1e3 * taken:.3g} ms", met)


def _paths(bench: Bench, rows: Sequence[Row]) -> Iterator[Target]:
    """Yield how far every path of a case is ahead of the portable one, where it was timed."""
    for work in (FORWARD, MATCH_KL, SCALED):
        for precision in bench.precisions:
            slow = _op(bench, work, precision, paths.PORTABLE, rows)
            for path in (paths.SPLIT, paths.HOPPER):
                fast = _op(bench, work, precision, path, rows)
                if slow is None or fast is None:
                    continue
                what = f"{bench.name} {work.name}, {precision}: {path} over {paths.PORTABLE}"
                ahead = slow / fast
                yield Target(what, f"{AHEAD:g}x", f"{ahead:.2f}x", ahead >= AHEAD)


def _op(
    bench: Bench, work: Work, precision: str, path: str | None, rows: Sequence[Row]
) -> float | None:
    place = (bench.name, work.name, op_name(precision, path))
    return fastest_of(row for row in rows if (row.case, row.work, row.name) == place)
