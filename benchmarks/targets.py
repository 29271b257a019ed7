"""What the ops are meant to reach on two cores, and whether they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cases import HEADLINE, WIDE, Bench
from benchmarks.growth import Point
from benchmarks.memory import Extra
from benchmarks.suite import FORWARD, MATCH_KL, Row, Work, fastest_of, op_name

FLAT: Final = 0.15
MEMORY: Final = 64 << 20


@dataclass(frozen=True)
class Target:
    """One figure to reach; `met` is None where it was not measured."""

    what: str
    wanted: str
    reached: str
    met: bool | None


def judge(rows: Sequence[Row], growth: Sequence[Point], memory: Sequence[Extra]) -> list[Target]:
    """Hold what was measured against every target.

    A ratio is to the fastest peer of its kind; what the first of that kind reaches, which is
    written as one would without thinking of speed, is told beside it.
    """
    narrow = f"D={HEADLINE.D} R={HEADLINE.R} N={HEADLINE.N}"
    forward, both = f"{narrow} forward with indices", f"{narrow} match_kl forward + backward"
    wide = f"D={WIDE.D} forward with indices"
    medium = f"{wide}, medium: eager float32"
    judged = [
        ratio(f"{forward}: torch.compile", 25, rows, HEADLINE, FORWARD, "compile"),
        ratio(f"{forward}: eager", 100, rows, HEADLINE, FORWARD, "eager"),
        ratio(f"{forward}: KeOps", 100, rows, HEADLINE, FORWARD, "keops"),
        ratio(f"{both}: eager autograd", 40, rows, HEADLINE, MATCH_KL, "eager"),
        ratio(f"{wide}, highest: sgemm alone", 1, rows, WIDE, FORWARD, "sgemm"),
        ratio(medium, 3, rows, WIDE, FORWARD, "eager", precision="medium"),
    ]
    judged += flatness(growth)
    for extra in memory:
        what, wanted = f"extra memory of {extra.name}", f"under {MEMORY >> 20} MiB"
        if extra.bytes is None:
            judged.append(Target(what, wanted, f"not measured: {extra.why_not}", None))
        else:
            reached = f"{extra.bytes / 2**20:.1f} MiB"
            judged.append(Target(what, wanted, reached, extra.bytes < MEMORY))
    return judged


def flatness(growth: Sequence[Point]) -> list[Target]:
    """Hold the time per element at every number of regions against that of the fewest images."""
    judged = []
    for R in sorted({point.R for point in growth}):
        points = [point for point in growth if point.R == R]
        most = max(abs(point.relative - 1) for point in points)
        what = f"time per element, D=3 R={R}, N={points[0].N} to {points[-1].N}"
        reached = f"within {100 * most:.0f} %"
        judged.append(Target(what, f"within {100 * FLAT:.0f} %", reached, most <= FLAT))
    return judged


def ratio(
    what: str,
    wanted: float,
    rows: Sequence[Row],
    bench: Bench,
    work: Work,
    *groups: str,
    precision: str = "highest",
) -> Target:
    """Hold the op at a precision against the fastest peer of the groups."""
    here = [row for row in rows if (row.case, row.work) == (bench.name, work.name)]
    op = fastest_of(row for row in here if row.name == op_name(precision))
    peers = [(row.timing.median, row.name) for row in here if row.group in groups and row.timing]
    if op is None or not peers:
        return Target(what, f"{wanted:g}x", "not measured", None)
    (fastest, name), (plain, plain_name) = min(peers), peers[0]
    reached = f"{fastest / op:.1f}x ({name})"
    if plain_name != name:
        reached += f", {plain / op:.1f}x ({plain_name})"
    return Target(what, f"{wanted:g}x", reached, fastest / op >= wanted)
