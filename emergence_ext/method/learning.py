"""How fast, how simultaneously and how straight knowledge points are learned.

After Cheng et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
Classification" (arXiv 2208.08741, Sec. 3.3), which measures the way by the distance that the
weights have gone where this measures it in epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emergence_ext.method.intervals import Interval, mean_interval
from emergence_ext.method.numpy_arrays import tensor_of


@dataclass(frozen=True)
class Learning:
    """The way to the reliable knowledge points of each image; NaN of an image that never has any.

    Attributes:
        epoch: of the checkpoint at which an image has most of them, the first of equals, `[N]`.
        kept: share of the regions that ever were such points that are at the end, `[N]`.

    Examples:
        >>> from emergence_ext import method
        >>> points = torch.tensor([[[True, False]], [[True, True]], [[False, True]]])
        >>> method.learning(points, [0, 10, 20]).kept
        tensor([0.5000])
    """

    epoch: Tensor
    kept: Tensor

    @property
    def images(self) -> int:
        """How many images ever have a point."""
        return int(self.epoch.isfinite().sum())

    @property
    def mean_epoch(self) -> Interval | None:
        """How late the points are there, over images: the lower, the faster."""
        return mean_interval(self.epoch)

    @property
    def spread(self) -> float:
        """Standard deviation of that over images: the lower, the more simultaneously."""
        there = self.epoch[self.epoch.isfinite()]
        return float(there.std()) if len(there) > 1 else float("nan")

    @property
    def steadiness(self) -> Interval | None:
        """Mean of `kept` over images: the higher, the fewer detours the optimisation made."""
        return mean_interval(self.kept)


def learning(reliable: Iterable[Tensor], epochs: Sequence[int]) -> Learning:
    """Follow the reliable knowledge points of images through checkpoints.

    Args:
        reliable: where regions are such points, `[N, R]` bool for each checkpoint in turn.
        epochs: of the checkpoints, ascending.

    Raises:
        ValueError: no checkpoint, another number of them than epochs, or what is not `[N, R]`.

    Examples:
        >>> from emergence_ext import method
        >>> at = [torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])]
        >>> found = method.learning(at, epochs=[1, 8])
        >>> found.epoch, found.kept
        (tensor([8.]), tensor([1.]))
    """
    states = iter(reliable)
    most = ever = last = torch.empty(0)
    epoch = torch.empty(0)
    for number, (at, state) in enumerate(zip(epochs, states, strict=True)):
        state = tensor_of("reliable", state)
        if state.ndim != 2 or state.dtype != torch.bool or (number and state.shape != last.shape):
            raise ValueError(
                "reliable: expected bool [N, R] for each checkpoint, of the same images, got "
                f"{state.dtype} {list(state.shape)}"
            )
        count = state.sum(1)
        if number == 0:
            most, ever = torch.zeros_like(count), torch.zeros_like(state)
            epoch = torch.full(count.shape, torch.nan)
        epoch = torch.where(count > most, float(at), epoch)
        most, ever, last = torch.maximum(most, count), ever | state, state
    if not len(epochs):
        raise ValueError("epochs: there are no checkpoints to follow")
    whole = ever.sum(1)
    kept = torch.where(whole > 0, last.sum(1) / whole.clamp_min(1), torch.nan)
    return Learning(epoch, kept)
