"""The short table at the end of a check: what a person wants to know first, in some sixty lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.gpu import paths
from benchmarks.gpu.peers import GROUPS
from benchmarks.gpu.phase import Outcome
from benchmarks.results import Results, percent, table
from benchmarks.suite import Row, fastest_of, op_name

LINES: Final = 60
WIDTH: Final = 140
PEERS: Final = {
    "compile": ("compile",),
    "eager": ("eager", "reference", "product"),
    "Triton": GROUPS,
}


def summary(
    part: str, gpu: Mapping[str, Any], outcomes: Sequence[Outcome], measured: Results | None
) -> str:
    """Set the ops beside bounds and peers, the targets that are missed, at last what failed."""
    lines = [f"part {part}: {gpu['name']}, driver {gpu['driver']}"]
    if measured is not None:
        lines[0] += f", torch {measured.versions['torch']}, {measured.revision}"
        lines += _measured(measured)
    failed = [x for x in outcomes if x.failed]
    told = [f"  {x.name}: {line}" for x in failed for line in x.told]
    last = [str(x) for x in failed] or [f"nothing failed in {len(outcomes)} phases"]
    room = max(3, LINES - len(lines) - len(last))
    if len(told) > room:
        told[room - 1 :] = [f"  and {len(told) - room + 1} lines more in the JSON"]
    return "\n".join(line[:WIDTH] for line in [*lines, *told, *last])


def _measured(measured: Results) -> list[str]:
    ops = _ops(measured).splitlines() if measured.rows else []
    met = sum(target.met is True for target in measured.targets)
    wanted = [f"{met} of {len(measured.targets)} targets met"] if measured.targets else []
    wanted += [
        f"{'not judged' if x.met is None else 'not met'}: {x.what}: {x.reached}, wanted {x.wanted}"
        for x in measured.targets
        if not x.met
    ]
    return ["peak: " + (", ".join(_peaks(measured.peak)) or "not measured"), *ops, *wanted]


def _peaks(peak: Any) -> list[str]:
    rates = [f"products of bfloat16 {peak.bfloat16 / 1e3:.0f} TFLOP/s"] if peak.bfloat16 else []
    rates += [f"copy {peak.copy:.0f} GB/s"] if peak.copy else []
    if peak.float32:
        rates.append(f"float32 {peak.float32 / 1e3:.1f} TFLOP/s at {peak.busy_clock:.0f} MHz")
    return rates + ([peak.why_not] if peak.why_not else [])


def _ops(measured: Results) -> str:
    """One line for each op at each precision: its time by path, its bound, how far peers are."""
    shares = {(x.case, x.work, x.name): x.share for x in measured.gpu_shares}
    lines = []
    for case, work in dict.fromkeys((row.case, row.work) for row in measured.rows):
        here = [row for row in measured.rows if (row.case, row.work) == (case, work)]
        names = [row.name for row in here if row.group == "op" and row.name.count(",") == 1]
        short = work.removesuffix(" forward + backward").removesuffix(" with indices")
        for name in names:
            precision = name.partition(", ")[2]
            op = fastest_of(row for row in here if row.name == name)
            lines.append(
                [
                    f"{case} {short}",
                    precision,
                    *(_milliseconds(here, precision, path) for path in (None, *paths.WAYS)),
                    percent(shares.get((case, work, name))),
                    *(_times(here, groups, op) for groups in PEERS.values()),
                ]
            )
    head = ["ms", "", "op", *paths.WAYS, "of bound", *PEERS]
    return table(head, lines)


def _milliseconds(rows: Sequence[Row], precision: str, path: str | None) -> str:
    row = next((row for row in rows if row.name == op_name(precision, path)), None)
    if row is None:
        return ""
    return f"{1e3 * row.timing.median:.3g}" if row.timing else "failed"


def _times(rows: Sequence[Row], groups: Sequence[str], op: float | None) -> str:
    fastest = fastest_of(row for row in rows if row.group in groups)
    return f"{fastest / op:.3g}x" if fastest and op else ""
