"""How near an op comes to what the multiprocessors of a GPU can do, by counting.

A match is D multiply-adds and a maximum. What a multiprocessor does of each in a clock is in the
table of arithmetic throughput of NVIDIA's CUDA C++ programming guide; of 16-bit multiply-adds with
sums in float32, in the whitepapers of the A100 and the H100 (dense rates over multiprocessors and
clock). The bound is of the forward pass at the clock that the device reports, also for an op with
gradients, which touch S times fewer items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bounds import NARROW
from benchmarks.cases import Bench
from benchmarks.gpu import paths
from benchmarks.peak import Peak
from benchmarks.suite import Row, op_name


@dataclass(frozen=True)
class Rates:
    """Operations of one multiprocessor in a clock."""

    multiply_adds: int  # of float32
    maxima: int  # of float32
    issued: int  # instructions times lanes of a warp
    products: int  # multiply-adds of 16-bit numbers by tensor cores


RATES: Final = {
    (8, 0): Rates(multiply_adds=64, maxima=64, issued=128, products=1024),
    (9, 0): Rates(multiply_adds=128, maxima=64, issued=128, products=2048),
}
"""By compute capability: those whose rates are known here."""

SPLIT_CHANNELS: Final = 16
"""Channels that a row takes in the split path: high and low parts fill one piece of the product."""


@dataclass(frozen=True)
class Limit:
    """What a forward pass does for each match, and how many matches a multiprocessor can clock."""

    what: str
    per_clock: float
    flops: float  # of those that `peak` counts
    peak: str | None  # "float32", "bfloat16", or neither


@dataclass(frozen=True)
class Share:
    """What an op reaches: of the `bound`, in seconds, and of the peak that was measured.

    `of_peak` is None where no peak fits.
    """

    case: str
    work: str
    name: str
    limit: str
    seconds: float
    bound: float
    share: float
    of_peak: float | None


def limit(bench: Bench, precision: str, path: str, rates: Rates) -> Limit:
    """Say what bounds a case at a precision on a path."""
    D = bench.D
    if path == paths.SPLIT and D <= NARROW:
        products = rates.products / SPLIT_CHANNELS
        return Limit("maxima", min(rates.maxima, products), 0, None)
    if paths.uses_tensor_cores(bench, precision):
        times = 3 if bench.dtype == "float32" and precision == "high" else 1
        per_clock = min(rates.maxima, rates.products / (times * D))
        return Limit(f"{times} x 16-bit products", per_clock, 2.0 * times * D, "bfloat16")
    per_clock = min(rates.multiply_adds / D, rates.maxima, rates.issued / (D + 1))
    return Limit("multiply-adds, maximum", per_clock, 2.0 * D, "float32")


def shares(
    benches: Sequence[Bench],
    rows: Sequence[Row],
    peak: Peak,
    gpu: dict[str, Any],
    built: Sequence[str],
) -> list[Share]:
    """Set the ops beside their bounds; nothing where the rates or the clock are not known.

    Args:
        benches: the cases.
        rows: what was timed.
        peak: what was measured of this device.
        gpu: `device.describe` of it.
        built: names of the paths there are; the op left alone is held against the bound of the
            fastest that applies.
    """
    rates = RATES.get(tuple(gpu["capability"]))
    if rates is None or peak.clock is None:
        return []
    clocks = 1e6 * peak.clock * gpu["multiprocessors"]
    bars = []
    for bench in benches:
        for precision in bench.precisions:
            applying = paths.applying(bench, precision, built) or [paths.PORTABLE]
            limits = {path: limit(bench, precision, path, rates) for path in applying}
            fastest = max(limits.values(), key=lambda by: by.per_clock)
            for path in (None, *applying):
                name = op_name(precision, path)
                by = limits[path] if path else fastest
                matches = (bench.N * bench.R) ** 2
                for row in rows:
                    if (row.case, row.name) != (bench.name, name) or row.timing is None:
                        continue
                    seconds, bound = row.timing.median, matches / (by.per_clock * clocks)
                    top = getattr(peak, by.peak) if by.peak else None
                    of_peak = by.flops * matches / seconds / (1e9 * top) if top else None
                    bars.append(
                        Share(
                            row.case,
                            row.work,
                            name,
                            by.what,
                            seconds,
                            bound,
                            bound / seconds,
                            of_peak,
                        )
                    )
    return bars
