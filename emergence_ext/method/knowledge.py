"""Knowledge points: regions that tell a category on their own (Sec. 3.4, appendix F)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final

import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method.frame import Frame
from emergence_ext.method.intervals import Interval, bootstrap_ratio, bootstrap_sums
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.solver import require_finite
from emergence_ext.settings import PAPER_TAU, require_count
from emergence_ext.store import Saved

SHARED: Final = 0.1  # a second-best category within this of the best shares the region
BATCH: Final = 2**20  # probabilities at a time


@dataclass(frozen=True, eq=False)
class KnowledgePoints(Saved):
    """What each region says about the category, and which regions say it clearly.

    Attributes:
        confidence: `max_y p(y|h)`, `[N, R]`; 0 where the region has no strength.
        category: the y of that maximum, `[N, R]`.
        runner_up: the second-best `p(y|h)`, `[N, R]`.
        y: true categories, `[N]`.
        tau: a region is a knowledge point where its confidence is above.

    Examples:
        >>> import emergence_ext as ee
        >>> points = ee.KnowledgePoints(
        ...     confidence=torch.tensor([[0.9, 0.3]]), category=torch.tensor([[1, 0]]),
        ...     runner_up=torch.tensor([[0.1, 0.3]]), y=torch.tensor([1]),
        ... )
        >>> points.point, points.reliable
        (tensor([[ True, False]]), tensor([[ True, False]]))
    """

    confidence: Tensor
    category: Tensor
    runner_up: Tensor
    y: Tensor
    tau: float = PAPER_TAU

    @property
    def point(self) -> Tensor:
        """Where a region is a knowledge point, `[N, R]`."""
        return self.confidence > self.tau

    @property
    def reliable(self) -> Tensor:
        """Where it is one for the true category, `[N, R]`."""
        return self.point & (self.category == self.y[:, None])

    def shared(self, distance: float = SHARED) -> Tensor:
        """Knowledge points whose second-best p is within `distance` of the best, `[N, R]`."""
        return self.point & (self.confidence - self.runner_up <= distance)

    def per_image(self) -> Tensor:
        """Numbers of points, of reliable and of shared ones in each image, `[3, N]`."""
        return torch.stack([x.sum(1) for x in (self.point, self.reliable, self.shared())])

    def count(self, random_state: int = 0) -> PointCount:
        """Totals over the images with bootstrap intervals over images."""
        return point_count(self.per_image(), random_state)

    def curve(self, taus: Sequence[float]) -> Tensor:
        """Number of points and of reliable ones at each threshold, `[len(taus), 2]`."""
        require_kind(taus=(taus, Iterable))
        right = self.category == self.y[:, None]
        rows = [
            ((self.confidence > tau).sum(), ((self.confidence > tau) & right).sum()) for tau in taus
        ]
        return torch.tensor(rows)

    def subset(self, index: Tensor) -> KnowledgePoints:
        """The same of some of the images, by index or mask."""
        return KnowledgePoints(
            self.confidence[index],
            self.category[index],
            self.runner_up[index],
            self.y[index],
            self.tau,
        )


@dataclass(frozen=True)
class PointCount:
    """Numbers of knowledge points on `images` images; ratio is reliable / total, None without.

    Examples:
        >>> import emergence_ext as ee
        >>> everything, held_out = ee.FinishedRun.open("runs/demo").emergence.counts[-1][-1]
        >>> count = everything.total
        >>> everything.images, count.low <= count.value <= count.high
        (19, True)
    """

    images: int
    total: Interval
    reliable: Interval
    shared: Interval
    ratio: Interval | None


@takes_numpy
def point_count(per_image: Tensor, random_state: int = 0) -> PointCount:
    """Add up points, reliable and shared ones of images, `[3, N]`, with bootstrap intervals.

    Raises:
        ValueError: another shape.

    Examples:
        >>> from emergence_ext import method
        >>> points = torch.tensor([[4.0, 6.0], [3.0, 6.0], [1.0, 0.0]])  # of two images
        >>> count = method.point_count(points)
        >>> count.total.value, round(count.ratio.value, 2)
        (10.0, 0.9)
    """
    if per_image.ndim != 2 or len(per_image) != 3 or not per_image.numel():
        raise ValueError(f"per_image must be [3, N], got {tuple(per_image.shape)}")
    total, reliable, shared = bootstrap_sums([*per_image], random_state)
    ratio = bootstrap_ratio(per_image[1], per_image[0], random_state)
    return PointCount(per_image.shape[1], total, reliable, shared, ratio)


@takes_numpy
def knowledge_points(
    h: Tensor, frame: Frame, labels: Tensor, tau: float | None = None
) -> KnowledgePoints:
    """Find regions that are discriminative for some category, and for the right one (Sec. 3.4).

    Args:
        h: projected regional features, `[N, R, dim]`, strengths already on the scale of the frame.
        frame: categories, in which `p(y|h)` is read.
        labels: true categories, `[N]`, integers in `[0, C)`.
        tau: a region counts where `max_y p(y|h) > tau`; `1/C <= tau < 1`; None: `usual_tau`.

    Raises:
        ValueError: a label outside `[0, C)`, a tau outside its range, another `dim` than the
            frame's, or features that are not finite.

    Examples:
        >>> import emergence_ext as ee
        >>> frame = ee.Frame(
        ...     priors=torch.tensor([0.5, 0.5]), directions=torch.eye(3)[:2], kappa=ee.ExactKappa(3)
        ... )
        >>> h = torch.tensor([[[4.0, 0, 0], [0, 4.0, 0], [0.1, 0.1, 0]]])  # three regions
        >>> points = ee.knowledge_points(h, frame, labels=torch.tensor([0]), tau=0.6)
        >>> points.point, points.reliable
        (tensor([[ True,  True, False]]), tensor([[ True, False, False]]))
    """
    require_kind(frame=(frame, Frame))
    C = len(frame.priors)
    if h.ndim != 3 or labels.shape != h.shape[:1]:
        raise ValueError(
            f"h must be [N, R, dim] and labels [N]; got {tuple(h.shape)} and {tuple(labels.shape)}"
        )
    tau = usual_tau(C) if tau is None else tau
    check_tau(tau, C)
    if labels.is_floating_point():
        raise TypeError(f"labels: expected whole numbers, got {labels.dtype}; labels.long()")
    require_finite(h=h)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < C:
        raise ValueError(
            f"labels must lie in [0, {C}); got {int(labels.min())} .. {int(labels.max())}"
        )
    p, y = _best_two(h, frame)
    # Without strength there is no direction: the posterior is the prior, which no region says.
    confidence = torch.where(h.square().sum(-1) > 0, p[..., 0], 0)
    return KnowledgePoints(confidence, y[..., 0], p[..., 1], labels, tau)


@takes_numpy
def shared_categories(h: Tensor, frame: Frame, tau: float | None = None) -> Tensor:
    """Name the two categories that share a region: a knowledge point for one, nearly for the other.

    Args:
        h, frame, tau: as in `knowledge_points`.

    Returns:
        The two by number, the lower first, `[N, R, 2]`; -1 where no two share the region.

    Raises:
        ValueError: another shape.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import method
        >>> frame = ee.Frame(torch.ones(3) / 3, torch.eye(3), ee.ExactKappa(3))
        >>> between, clear = torch.tensor([3.0, 3.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])
        >>> method.shared_categories(torch.stack([between, clear])[None], frame, tau=0.4)
        tensor([[[ 0,  1],
                 [-1, -1]]])
    """
    require_kind(frame=(frame, Frame))
    if h.ndim != 3:
        raise ValueError(f"h must be [N, R, dim], got {tuple(h.shape)}")
    tau = usual_tau(len(frame.priors)) if tau is None else tau
    _require_number(tau)
    p, y = _best_two(h, frame)
    first, second = p.unbind(-1)
    shared = (first > tau) & (first - second <= SHARED) & (h.square().sum(-1) > 0)
    return torch.where(shared[..., None], y.sort(dim=-1).values, -1)


def _best_two(h: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return the two largest `p(y|h)` of regions `[N, R, dim]`, and their y, `[N, R, 2]` each."""
    # Some images at a time: `[N, R, C]` is gigabytes where there are many categories.
    images = max(1, BATCH // max(1, h.shape[1] * len(frame.priors)))
    best = [frame.posterior(part).topk(2, dim=-1) for part in h.split(images)]
    return torch.cat([x.values for x in best]), torch.cat([x.indices for x in best])


def _require_number(tau: object) -> None:
    if not isinstance(tau, Real):
        raise TypeError(f"tau: expected a number, got {tau!r}")


def usual_tau(C: int) -> float:
    """The paper's 0.4, or 1.2 / C where that is more: of two categories every region passes 0.4.

    Examples:
        >>> from emergence_ext import method
        >>> method.usual_tau(10), method.usual_tau(2)
        (0.4, 0.6)
    """
    require_count("C", C, 1)
    return max(PAPER_TAU, 1.2 / C)


def check_tau(tau: float, C: int) -> None:
    """Refuse a threshold that every region passes, or none.

    Raises:
        ValueError: tau outside of `[1/C, 1)` for C categories.

    Examples:
        >>> from emergence_ext import method
        >>> method.check_tau(0.4, C=10)  # of two categories 0.4 would be refused
    """
    _require_number(tau)
    require_count("C", C, 1)
    if not 1 / C <= tau < 1:
        raise ValueError(
            f"tau must be in [1/C, 1) = [{1 / C:.3g}, 1) for {C} categories, got {tau}; give "
            "another tau (--tau)"
        )
