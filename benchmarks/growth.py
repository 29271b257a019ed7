"""How time grows with the number of images: per element it should not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from benchmarks.cases import problem
from benchmarks.peers import op_gradients
from benchmarks.timing import Timing, measure

D: Final = 3
REGIONS: Final = (49, 196)
FULL: Final = (100, 200, 500, 1000, 2000)
QUICK: Final = (50, 100, 200)


@dataclass(frozen=True)
class Point:
    """`match_kl` with all gradients at N images with R = S regions, B of them conditioning.

    `per_element` is seconds over N B R^2 D, `relative` that over the one of the smallest N. `B` is
    None where it is N.
    """

    N: int
    R: int
    timing: Timing
    per_element: float
    relative: float
    B: int | None = None


def measure_growth(
    images: Sequence[int],
    seconds: float,
    *,
    device: torch.device | str = "cpu",
    most_matches: float = math.inf,
) -> list[Point]:
    """Time every number of images, in ascending order, at every number of regions.

    Of the conditioning images, to which time is proportional, there are no more than give
    `most_matches`.
    """
    points: list[Point] = []
    for R in REGIONS:
        first = None
        for N in images:
            B = int(min(N, max(1, most_matches / (N * R**2))))
            x = problem(N, R, D, B=B, device=device)
            call = op_gradients(scaled=False)
            timing = measure(
                lambda: call(x),  # noqa: B023 (called in this turn)
                seconds,
                device=device,
            )
            per_element = timing.median / (N * B * R**2 * D)
            first = first or per_element
            relative = per_element / first
            points.append(Point(N, R, timing, per_element, relative, B if B < N else None))
    return points
