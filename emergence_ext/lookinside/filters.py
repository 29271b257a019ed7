"""The filters of convolutions, and how smooth they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from emergence_ext.method import takes_numpy
from emergence_ext.network import find_layers, trace

DRAWS: Final = 9999
"""Filters of noise that the smoothness is held against."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters of one convolution.

    Attributes:
        name: dotted name of the convolution.
        weight: `[K, channels, h, w]`; with groups the channels are those of a group.
        first: whether it takes the image itself.
    """

    name: str
    weight: Tensor
    first: bool


@dataclass(frozen=True, eq=False)
class Smoothness:
    """How alike neighbouring weights of each filter are.

    Attributes:
        score: `[K]`, 0 for noise, 1 for a filter that is the same all over, negative where it
            alternates; NaN for a filter of a single pixel or of zeros.
        p: share of filters of noise that are as smooth, `[K]`; NaN as above.
    """

    score: Tensor
    p: Tensor

    @property
    def noisy(self) -> Tensor:
        """Filters that are no smoother than noise, `p > 0.05`, `[K]` bool."""
        return self.p > 0.05


def filters(module: nn.Module, images: Tensor, layer: str | None = None) -> Filters:
    """Return the filters of the first convolution, or of the last one in or before a layer.

    Args:
        module: the network; comes back as it was.
        images: `[B, channels, H', W']`, as the network takes them; they show what runs when.
        layer: dotted name, such as that of a ReLU; None for the first convolution.

    Raises:
        ValueError: an unknown layer, no two-dimensional convolution runs there, or what
            `check_open` says.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> found = lookinside.filters.filters(net, torch.rand(1, 3, 8, 8))
        >>> found.name, found.weight.shape
        ('0', torch.Size([4, 3, 3, 3]))
    """
    if layer is not None:
        find_layers(module, [layer])
    order: list[str] = []
    trace(module, images, after=lambda call: order.append(call.name))
    parts = dict(module.named_modules())
    if layer is not None and layer not in order:
        raise ValueError(f"layer: {layer!r} never runs in the forward pass")
    ran = order if layer is None else order[: order.index(layer) + 1]
    convolutions = [name for name in ran if isinstance(parts[name], nn.Conv2d)]
    if not convolutions:
        where = "the network" if layer is None else f"or before layer {layer!r}"
        raise ValueError(f"filters: no nn.Conv2d runs in {where}")
    name = convolutions[0 if layer is None else -1]
    weight = parts[name].weight.detach().float().cpu().clone()
    return Filters(name, weight, name == convolutions[0])


@takes_numpy
def smoothness(weight: Tensor, random_state: int = 0) -> Smoothness:
    """Score how smooth filters are: filters of a well-trained first layer are, noisy ones are not.

    CS231n: noisy filters can show a network that was not trained long enough, or too little
    regularisation. The score is 1 less the mean squared difference of neighbours over twice the
    mean square of the weights: the ratio of von Neumann (Annals of Mathematical Statistics, 1941)
    without its subtraction of the mean, since a filter for a plain colour is smooth. It is held
    against filters of Gaussian noise of the same shape.

    Args:
        weight: filters `[K, channels, h, w]`.
        random_state: seed of the noise.

    Raises:
        ValueError: another number of dimensions.

    Examples:
        >>> from emergence_ext import lookinside
        >>> ramp = torch.linspace(-1, 1, 25).reshape(1, 1, 5, 5)
        >>> found = lookinside.filters.smoothness(torch.cat([ramp, torch.randn(1, 1, 5, 5)]))
        >>> bool(found.score[0] > found.score[1])
        True
    """
    if weight.ndim != 4:
        raise ValueError(f"weight: expected [K, channels, h, w], got {list(weight.shape)}")
    score = _smoothness(weight.detach().double().cpu())
    generator = torch.Generator().manual_seed(random_state)
    block = max(1, 2**22 // weight[0].numel())  # so that wide filters need no more memory
    noise = torch.cat(
        [
            _smoothness(torch.randn(n, *weight.shape[1:], generator=generator).double())
            for n in (min(block, DRAWS - start) for start in range(0, DRAWS, block))
        ]
    ).sort()[0]
    as_smooth = DRAWS - torch.searchsorted(noise, score.nan_to_num())
    p = (1 + as_smooth) / (DRAWS + 1)
    return Smoothness(score.float(), torch.where(score.isnan(), torch.nan, p).float())


def _smoothness(x: Tensor) -> Tensor:
    """Score filters `[K, channels, h, w]`, `[K]`."""
    h, w = x.shape[2:]
    pairs = h * (w - 1) + w * (h - 1)
    jumps = x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))
    size = x.square().sum((1, 2, 3))
    ratio = (jumps / pairs) / (2 * size / (h * w)) if pairs else torch.nan * size
    return torch.where(size > 0, 1 - ratio, torch.nan)
