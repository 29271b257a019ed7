"""How near the forward pass comes to what the machine's arithmetic allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cases import Bench
from benchmarks.peak import Peak
from benchmarks.suite import FORWARD, Row

NARROW: Final = 8
"""Up to this width (kNarrow of csrc/cpu/kernels.h) a match costs more than its multiply-adds: per
register D multiply-adds, a comparison, a maximum and a move of the place."""


@dataclass(frozen=True)
class Share:
    """What one forward call reaches.

    `flops` counts 2 D per match. `share` is of the peak of multiply-adds in `arithmetic`, None
    where that was not measured; `operations`, for narrow rows, is all vector operations per second
    over the multiply-adds per second of the peak: machines that compare beside multiplying can
    pass 1.
    """

    case: str
    name: str
    matches: float  # per second
    flops: float  # per second
    arithmetic: str
    share: float | None
    operations: float | None


def shares(benches: Sequence[Bench], rows: Sequence[Row], peak: Peak, pairs: bool) -> list[Share]:
    """Set the op and the product alone beside the peak.

    Args:
        benches: sizes of the cases.
        rows: what was timed.
        peak: the machine's.
        pairs: whether "medium" takes products of bfloat16 pairs here.
    """
    bars = []
    sizes = {bench.name: bench for bench in benches}
    for row in rows:
        if row.work != FORWARD.name or row.group not in ("op", "sgemm") or row.timing is None:
            continue
        bench = sizes[row.case]
        matches = (bench.N * bench.R) ** 2 / row.timing.median
        flops = 2 * bench.D * matches
        medium = pairs and "medium" in row.name
        top = peak.bfloat16 if medium else peak.float32
        share = flops / (1e9 * top) if top else None
        narrow = bench.D <= NARROW and share is not None
        operations = share * (bench.D + 3) / bench.D if narrow else None
        kind = "bfloat16 pairs" if medium else "float32"
        bars.append(Share(row.case, row.name, matches, flops, kind, share, operations))
    return bars
