"""Values with their 95 % intervals: Wilson's, Student's, the rest by the bootstrap over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.settings import require_count

CONFIDENCE: Final = 0.95  # of all intervals
RESAMPLES: Final = 1000
BATCH: Final = 100  # resamples at a time: thousands of images are slow all at once
DRAWN: Final = 2**20  # images drawn at a time, at most, so that memory does not grow with them

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval.

    Examples:
        >>> from emergence_ext import method
        >>> method.Interval(0.8, low=0.49, high=0.94).high
        0.94
    """

    value: float
    low: float
    high: float


@takes_numpy
def bootstrap_ratio(part: Tensor, whole: Tensor, random_state: int = 0) -> Interval | None:
    """Divide the sum of `part` by that of `whole`, with a bootstrap interval over images.

    Args:
        part, whole: numbers for each of `N` images, `[N]`.
        random_state: seed of the bootstrap.

    Returns:
        The ratio, None where `whole` sums to nothing.

    Raises:
        ValueError: numbers of other images.

    Examples:
        >>> from emergence_ext import method
        >>> ratio = method.bootstrap_ratio(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> ratio.value
        0.5
    """
    if part.ndim != 1 or part.shape != whole.shape:
        raise ValueError(
            f"part and whole must be [N], got {tuple(part.shape)} and {tuple(whole.shape)}"
        )
    if not whole.sum():
        return None
    parts, wholes = _resampled_sums([part, whole], random_state)
    some = wholes > 0
    return Interval(float(part.sum() / whole.sum()), *_bounds(parts[some] / wholes[some]))


def bootstrap_sums(per_image: Sequence[Tensor], random_state: int = 0) -> list[Interval]:
    """Sums of several numbers for each of `N` images, `[N]`, with bootstrap intervals over them."""
    resampled = _resampled_sums(per_image, random_state)
    return [
        Interval(float(x.sum()), *_bounds(sums))
        for x, sums in zip(per_image, resampled, strict=True)
    ]


@takes_numpy
def mean_interval(r: Tensor, random_state: int = 0) -> Interval | None:
    """Mean of the finite ones of `[n]` with a bootstrap interval over them; None if none is.

    With one of them the interval is unknown: its ends are NaN.

    Examples:
        >>> from emergence_ext import method
        >>> mean = method.mean_interval(torch.tensor([0.2, 0.4, 0.6, float("nan")]))
        >>> round(mean.value, 3), mean.low < mean.value < mean.high
        (0.4, True)
    """
    r = r[r.isfinite()]
    if len(r) == 1:
        return Interval(float(r[0]), float("nan"), float("nan"))
    return bootstrap_ratio(r, torch.ones_like(r), random_state)


def proportion(part: int, whole: int) -> Interval:
    """Share of `part` in `whole`, at least 1, with Wilson's interval.

    Raises:
        ValueError: a part of more than the whole, or numbers out of their range.

    Examples:
        >>> from emergence_ext import method
        >>> share = method.proportion(8, 10)
        >>> f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
        '80% (49% to 94%)'
    """
    require_count("whole", whole, 1)
    require_count("part", part, 0)
    if part > whole:
        raise ValueError(f"part: expected at most the whole, {whole}, got {part}")
    test = stats.binomtest(part, whole)
    ends = test.proportion_ci(CONFIDENCE, method="wilson")
    return Interval(test.statistic, float(ends.low), float(ends.high))


def student_interval(values: Sequence[float]) -> Interval | None:
    """Mean and Student's 95 % interval of the mean, of the values that are numbers.

    With one of them the interval is unknown: its ends are NaN. Of none there is no mean: None.

    Examples:
        >>> from emergence_ext import method
        >>> mean = method.student_interval([1.0, 2.0, 3.0])
        >>> f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"
        '2.00 (-0.48 to 4.48)'
    """
    x = [v for v in values if not math.isnan(v)]
    if len(x) < 2:
        return Interval(x[0], math.nan, math.nan) if x else None
    mean = float(np.mean(x))
    # Unscaled, since values that are all alike would have the scale 0, which SciPy refuses.
    half = float(stats.t.interval(CONFIDENCE, len(x) - 1)[1] * stats.sem(x))
    return Interval(mean, mean - half, mean + half)


def _resampled_sums(per_image: Sequence[Tensor], random_state: int) -> Array:
    """Sums over images drawn with replacement, `[k, RESAMPLES]` from `k` times `[N]`."""
    numbers = [x.detach().cpu().double().numpy() for x in per_image]
    if len(numbers[0]) == 1:  # which SciPy refuses
        return np.repeat(np.stack(numbers), RESAMPLES, axis=1)

    def sums(*resamples: Array, axis: int) -> Array:
        return np.stack([x.sum(axis) for x in resamples])

    batch = max(1, min(BATCH, DRAWN // len(numbers[0])))
    return stats.bootstrap(
        numbers, sums, n_resamples=RESAMPLES, batch=batch, vectorized=True, paired=True,
        method="percentile", rng=random_state,
    ).bootstrap_distribution  # fmt: skip


def _bounds(values: Array) -> tuple[float, float]:
    """Ends of the interval that holds most of resampled values `[n]`."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
