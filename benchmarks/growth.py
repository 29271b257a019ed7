"""How time grows with the number of images: per element it should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cases import problem
from benchmarks.peers import op_gradients
from benchmarks.timing import Timing, measure

D: Final = 3
REGIONS: Final = (49, 196)
FULL: Final = (100, 200, 500, 1000, 2000)
QUICK: Final = (50, 100, 200)


@dataclass(frozen=True)
class Point:
    """`match_kl` with all gradients at N = B images with R = S regions.

    `per_element` is seconds over N^2 R^2 D, `relative` that over the one of the smallest N.
    """

    N: int
    R: int
    timing: Timing
    per_element: float
    relative: float


def measure_growth(images: Sequence[int], seconds: float) -> list[Point]:
    """Time every number of images, in ascending order, at every number of regions."""
    points: list[Point] = []
    for R in REGIONS:
        first = None
        for N in images:
            x = problem(N, R, D)
            call = op_gradients("highest", scaled=False)
            timing = measure(lambda: call(x), seconds)  # noqa: B023 (called in this turn)
            per_element = timing.median / (N**2 * R**2 * D)
            first = first or per_element
            points.append(Point(N, R, timing, per_element, per_element / first))
    return points
