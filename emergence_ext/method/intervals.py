"""Values with their 95 % intervals: shares by Wilson, the rest by the bootstrap over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from scipy.stats import binomtest
from torch import Tensor

CONFIDENCE: Final = 0.95  # of all intervals
RESAMPLES: Final = 1000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap_ratio(part: Tensor, whole: Tensor, random_state: int = 0) -> Interval | None:
    """Divide the sum of `part` by that of `whole`, with a bootstrap interval over images.

    Args:
        part, whole: numbers for each of `N` images, `[N]`.
        random_state: seed of the bootstrap.

    Returns:
        The ratio, None where `whole` sums to nothing.
    """
    if not whole.sum():
        return None
    sums = resampled(torch.stack([part, whole]).double(), random_state)
    some = sums[1] > 0
    return Interval(float(part.sum() / whole.sum()), *bounds(sums[0, some] / sums[1, some]))


def mean_interval(r: Tensor, random_state: int = 0) -> Interval | None:
    """Mean of the finite ones of `[n]` with a bootstrap interval over them; None if none is.

    With one of them the interval is unknown: its ends are NaN.
    """
    r = r[r.isfinite()]
    if len(r) == 1:
        return Interval(float(r[0]), float("nan"), float("nan"))
    return bootstrap_ratio(r, torch.ones_like(r), random_state)


def proportion(part: int, whole: int) -> Interval:
    """Share of `part` in `whole`, at least 1, with Wilson's interval."""
    found = binomtest(part, whole)
    ends = found.proportion_ci(CONFIDENCE, method="wilson")
    return Interval(found.statistic, float(ends.low), float(ends.high))


def resampled(per_image: Tensor, random_state: int) -> Tensor:
    """Sums over images drawn with replacement, `[k, RESAMPLES]` from `[k, N]`."""
    N = per_image.shape[1]
    generator = torch.Generator().manual_seed(random_state)
    drawn = torch.randint(N, (RESAMPLES, N), generator=generator)
    return per_image[:, drawn].sum(-1)


def bounds(values: Tensor) -> tuple[float, float]:
    """Ends of the interval that holds most of resampled values `[n]`; NaN where there are none."""
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high
