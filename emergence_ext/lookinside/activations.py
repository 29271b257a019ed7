"""Activations of a layer, filters that never fire, and how sparse the layers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.data import MapStyle
from emergence_ext.lookinside.stream import layer_maps, stream
from emergence_ext.network import Precision


@dataclass(frozen=True, eq=False)
class Activations:
    """Maps of one layer for a batch of images.

    Attributes:
        maps: as the layer gives them, `[B, K, H, W]`.
        order: channels of each image by falling peak, `[B, K]`; ties to the lowest channel.
    """

    maps: Tensor
    order: Tensor


@dataclass(frozen=True, eq=False)
class Sparsity:
    """How much of one layer is zero over a data set.

    Attributes:
        images: how many were looked at.
        zeros: share of each channel's values that are exactly zero, `[K]`.
        peak: largest value of each channel, `[K]`.
        least: smallest value of each channel, `[K]`.
        firing: share of the images in which a channel is above zero anywhere, `[K]`.
    """

    images: int
    zeros: Tensor
    peak: Tensor
    least: Tensor
    firing: Tensor

    @property
    def dead(self) -> Tensor:
        """Channels that are above zero in no image, `[K]` bool."""
        return self.peak <= 0

    @property
    def signed(self) -> bool:
        """Whether there are values below zero: the layer is not taken after a ReLU."""
        return bool((self.least < 0).any())

    @property
    def zero_share(self) -> float:
        """Share of all values that are exactly zero."""
        return float(self.zeros.mean())


def activations(module: nn.Module, images: Tensor, layer: str) -> Activations:
    """Record what a layer makes of images.

    Args:
        module: the network; comes back as it was.
        images: `[B, channels, H', W']`, as the network takes them.
        layer: dotted name of a layer that gives maps or tokens.

    Raises:
        ValueError: an unknown layer, one that gives no map, that never runs or runs twice.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> found = lookinside.activations.activations(net, torch.rand(2, 3, 8, 8), "1")
        >>> found.maps.shape
        torch.Size([2, 4, 6, 6])
    """
    maps = layer_maps(module, images, layer)
    peaks = maps.flatten(2).amax(dim=2)
    return Activations(maps, peaks.sort(dim=1, descending=True, stable=True).indices)


def sparsity(
    module: nn.Module,
    dataset: MapStyle,
    layers: Sequence[str],
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> Mapping[str, Sparsity]:
    """Count over a data set how much of each layer is zero, and which filters never fire.

    A filter is dead where no image of the data set brings it above zero anywhere. CS231n: that many
    such filters can be a symptom of a learning rate that was set too high.

    Args:
        module, dataset, preprocess, batch_size, precision, device: as `stream.stream` takes them.
        layers: dotted names.

    Returns:
        Dotted name -> counts.

    Raises:
        ValueError: as `stream.stream`; no images.

    Examples:
        >>> from emergence_ext import lookinside
        >>> import emergence_ext as ee
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3),
        ...     torch.nn.ReLU(),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(784, 3),
        ... )
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> found = lookinside.activations.sparsity(net, images, ["1"])["1"]
        >>> found.zeros.shape
        torch.Size([4])
    """
    layers = [layers] if isinstance(layers, str) else layers
    counts: dict[str, _Count] = {}

    def count(start: int, maps: Mapping[str, Tensor]) -> None:
        for name, batch in maps.items():
            counts.setdefault(name, _Count(batch.shape[1])).add(batch.flatten(2).cpu())

    stream(
        module,
        dataset,
        layers,
        count,
        preprocess=preprocess,
        batch_size=batch_size,
        precision=precision,
        device=device,
    )
    return {name: counts[name].result() for name in layers}


class _Count:
    """What is known of a layer of K channels after some of the images."""

    def __init__(self, K: int) -> None:
        self.images = self.values = 0  # values of one channel
        self.zeros, self.firing = torch.zeros(2, K, dtype=torch.int64)
        self.peak, self.least = torch.full((K,), -torch.inf), torch.full((K,), torch.inf)

    def add(self, values: Tensor) -> None:
        """Count values `[B, K, R]`."""
        most = values.amax(dim=2)
        self.images += len(values)
        self.values += len(values) * values.shape[2]
        self.zeros += (values == 0).sum(dim=(0, 2))
        self.firing += (most > 0).sum(dim=0)
        self.peak = torch.maximum(self.peak, most.amax(dim=0))
        self.least = torch.minimum(self.least, values.amin(dim=(0, 2)))

    def result(self) -> Sparsity:
        return Sparsity(
            self.images,
            self.zeros / self.values,
            self.peak,
            self.least,
            self.firing / self.images,
        )
