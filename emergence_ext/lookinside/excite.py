"""The images, and the patches in them, that excite a unit, a channel or any direction most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from emergence_ext.data import MapStyle
from emergence_ext.lookinside.stream import stream
from emergence_ext.lookup import require_kind
from emergence_ext.network import Precision
from emergence_ext.settings import require_count

_PRODUCTS: Final = 2**24
"""Values of directions at regions that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Excited:
    """The images that excite D directions most, the highest value first; ties to the lowest index.

    Attributes:
        values: `[D, k]`.
        images: their indices in the data set, `[D, k]`; each once in a row.
        places: row and column of the region with that value, `[D, k, 2]`; the first in row-major
            order where several have it.
        grid: `(H, W)` of the layer's map.
    """

    values: Tensor
    images: Tensor
    places: Tensor
    grid: tuple[int, int]


def excite(
    module: nn.Module,
    dataset: MapStyle,
    directions: Mapping[str, Tensor],
    *,
    k: int = 9,
    position: tuple[int, int] | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> dict[str, Excited]:
    """Find the images of a data set whose best region goes farthest along each direction.

    An image's value is `max_r <direction, F[r]>`, that of a unit of a layer the product at its one
    position. The data set is streamed: beside a batch, and at most 2^24 products at a time, only
    the k best of each direction are kept. That single channels are nothing special among all
    directions is what Szegedy et al. (Intriguing properties of neural networks, 2014) found, and
    CS231n points out.

    Args:
        module, dataset, preprocess, batch_size, precision, device: as `stream.stream` takes them.
        directions: dotted name of a layer -> `[D, K]` in the space of its K channels, of any
            length; a row of the identity is a channel.
        k: images for each direction; fewer where the data set is smaller.
        position: row and column of the map for a unit; None: wherever the value is highest.

    Returns:
        Dotted name -> what excites its directions.

    Raises:
        ValueError: directions of another width or that are not finite, k below 1, a position
            outside of the map, or as `stream.stream`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> import emergence_ext as ee
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> lookinside.excite.excite(net, images, {"0": torch.eye(4)}, k=2)["0"].images.shape
        torch.Size([4, 2])
    """
    require_kind(directions=(directions, Mapping))
    for layer, given in directions.items():
        require_kind(directions=(given, Tensor))
        if given.ndim != 2 or not len(given) or not given.isfinite().all():
            raise ValueError(
                f"directions: expected [D, K], finite, at least one, for layer {layer!r}, got "
                f"{list(given.shape)}"
            )
    require_count("k", k, 1)
    if position is not None and not (isinstance(position, tuple | list) and len(position) == 2):
        raise ValueError(f"position: expected (row, column), got {position!r}")
    best = {layer: _Best(len(given), k) for layer, given in directions.items()}

    def keep(start: int, parts: Mapping[str, Tensor]) -> None:
        for layer, maps in parts.items():
            given = directions[layer].to(maps)
            if maps.shape[1] != given.shape[1]:
                raise ValueError(
                    f"directions: layer {layer!r} has {maps.shape[1]} channels, the directions "
                    f"{given.shape[1]}"
                )
            best[layer].grid = (maps.shape[2], maps.shape[3])
            F = maps.flatten(2) if position is None else _at(maps, position)  # [B, K, R]
            best[layer].add(start, *_highest(given, F))

    stream(
        module,
        dataset,
        directions,
        keep,
        preprocess=preprocess,
        batch_size=batch_size,
        precision=precision,
        device=device,
    )
    return {layer: kept.result(position) for layer, kept in best.items()}


def random_directions(D: int, K: int, random_state: int = 0) -> Tensor:
    """Draw D orthonormal directions `[D, K]` evenly: the first rows of a random rotation.

    Raises:
        ValueError: more directions than dimensions.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.excite.random_directions(2, 8).norm(dim=1)
        tensor([1., 1.])
    """
    require_count("D", D, 0)
    if not 1 <= D <= K:
        raise ValueError(f"D: expected 1..{K} directions in {K} dimensions, got {D}")
    generator = torch.Generator().manual_seed(random_state)
    normal = torch.randn(K, D, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    # Without the signs of the diagonal the rotation would not be drawn evenly (Mezzadri 2007).
    return (q * r.diagonal().sign()).t().float().contiguous()


class _Best:
    """The k highest values of each of D rows so far, in falling order, and where they are from."""

    def __init__(self, D: int, k: int) -> None:
        self.k = k
        self.grid = (0, 0)
        self.values = torch.empty(D, 0)
        self.images, self.places = torch.empty(2, D, 0, dtype=torch.int64)

    def add(self, start: int, values: Tensor, places: Tensor) -> None:
        """Take in values `[D, B]` of the images from index `start` on."""
        index = torch.arange(start, start + values.shape[1]).expand(len(values), -1)
        values = torch.cat([self.values, values], dim=1)
        # Stable, and what is known stands first: of equals the lowest index stays in front.
        self.values, order = (
            part[:, : self.k] for part in values.sort(dim=1, descending=True, stable=True)
        )
        self.images = torch.cat([self.images, index], dim=1).gather(1, order)
        self.places = torch.cat([self.places, places], dim=1).gather(1, order)

    def result(self, position: tuple[int, int] | None) -> Excited:
        if position is None:
            width = self.grid[1]
            places = torch.stack([self.places // width, self.places % width], dim=2)
        else:
            places = torch.tensor(position).repeat(*self.images.shape, 1)
        return Excited(self.values, self.images, places, self.grid)


def _highest(given: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """How far the best region goes along directions, and the first of equals, `[D, B]` on the CPU.

    Args:
        given: directions `[D, K]`.
        F: regions of images, `[B, K, R]`.
    """
    D, R = len(given), F.shape[2]
    at_once = max(1, min(D, _PRODUCTS // R))
    images = max(1, _PRODUCTS // (at_once * R))
    values, places = torch.empty(D, len(F)), torch.empty(D, len(F), dtype=torch.int64)
    for d in range(0, D, at_once):
        for b in range(0, len(F), images):
            part = slice(d, d + at_once), slice(b, b + images)
            best = (given[part[0]] @ F[part[1]]).max(dim=2)
            values[part], places[part] = best.values.t(), best.indices.t()
    return values, places


def _at(maps: Tensor, position: tuple[int, int]) -> Tensor:
    """One position of maps `[B, K, H, W]`, `[B, K, 1]`."""
    row, column = position
    if not (0 <= row < maps.shape[2] and 0 <= column < maps.shape[3]):
        raise ValueError(
            f"position: expected one in the map of {maps.shape[2]} x {maps.shape[3]}, got "
            f"{position}"
        )
    return maps[:, :, row, column, None]
