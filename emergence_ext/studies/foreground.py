"""Do knowledge points lie on the object? Their share inside of boxes or masks (Fig. 6, 14)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from emergence_ext.method import Interval, KnowledgePoints, bootstrap_ratio


@dataclass(frozen=True)
class Foreground:
    """Where the knowledge points of one layer lie.

    Attributes:
        images: with boxes or a mask, and looked at.
        points: share of the knowledge points that lie on the foreground, None without points.
        reliable: the same of the reliable ones.
        area: share of all regions there, what points would have by chance.
    """

    images: int
    points: Interval | None
    reliable: Interval | None
    area: float


def foreground(points: KnowledgePoints, inside: Tensor, random_state: int = 0) -> Foreground:
    """Count knowledge points on the foreground, with bootstrap intervals over images.

    Args:
        points: of `N` images with `R` regions.
        inside: which regions lie on the foreground, `[N, R]` bool.
        random_state: seed of the bootstrap.

    Raises:
        ValueError: another shape.
    """
    if inside.shape != points.point.shape:
        raise ValueError(
            f"inside must be [N, R] = {list(points.point.shape)}, got {list(inside.shape)}"
        )
    shares = [
        bootstrap_ratio((mask & inside).sum(1), mask.sum(1), random_state)
        for mask in (points.point, points.reliable)
    ]
    return Foreground(len(inside), shares[0], shares[1], float(inside.float().mean()))
