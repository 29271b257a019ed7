"""The part of a network above one of its layers, as a function of that layer's maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from emergence_ext.lookup import optional
from emergence_ext.network.calling import classify, forward, logits, preserved
from emergence_ext.network.hooks import find_layers, recorder, regions
from emergence_ext.network.layout import Layout
from emergence_ext.network.trace import Call, observed


@dataclass(frozen=True, eq=False)
class Above:
    """The part of a network above a layer: maps in, logits out.

    Attributes:
        module: the network.
        layer: the layer's dotted name.
        images: `[n, 3, H', W']`, as the network takes them.
        maps: what the layer makes of them, `[n, K, H, W]`.
        others: tokens that are no part of the map (class token), `[n, K, skip + behind]`; they stay
            what they are whatever the map is.
        layout: how the layer itself gives its maps.
        alone: whether the logits depend on the images through this layer only. Then what lies below
            is run on one image, however many maps there are: its result is not used.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> with network.above(net, "0", torch.rand(2, 3, 8, 8)) as part:
        ...     print(part.maps.shape, part.alone)
        ...
        torch.Size([2, 4, 6, 6]) True
    """

    module: nn.Module
    layer: str
    images: Tensor
    maps: Tensor
    others: Tensor | None
    layout: Layout
    alone: bool = False

    def __call__(self, maps: Tensor) -> Tensor:
        """Return logits `[m * n, C]` for other maps `[m * n, K, H, W]`, every n of them in order.

        The layer's output is replaced by a hook that is gone when this returns.
        """
        times = len(maps) // len(self.images)
        images = self.images[:1] if self.alone else self.images.repeat(times, 1, 1, 1)
        others = None if self.others is None else self.others.repeat(times, 1, 1)
        # A copy, because a ReLU above the layer may work in place.
        output = self.layout.restore(maps, others)
        (layer,) = find_layers(self.module, [self.layer]).values()
        handle = layer.register_forward_hook(lambda *_: output)
        try:
            return logits(forward(self.module, images))
        finally:
            handle.remove()

    def subset(self, index: Tensor) -> Above:
        """Return the same of some of the images, by index or mask."""
        others = None if self.others is None else self.others[index]
        return replace(self, images=self.images[index], maps=self.maps[index], others=others)


@contextmanager
def above(module: nn.Module, layer: str, images: Tensor) -> Iterator[Above]:
    """Take a network apart at a layer, in eval mode, for the length of the block.

    Args:
        module: the network; modes and the global random state are given back on leaving.
        layer: dotted name of a layer that gives maps or tokens (`layout.py`).
        images: `[n, 3, H', W']`, as the network takes them.

    Raises:
        ValueError: an unknown layer, one that does not run or runs twice, one whose output is no
            map, or a network whose output is not logits.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> images = torch.rand(2, 3, 8, 8)
        >>> with torch.no_grad(), network.above(net, "0", images) as part:
        ...     print(torch.allclose(part(part.maps), net(images), atol=1e-6))
        ...
        True
    """
    with preserved(module):
        others: list[Tensor | None] = []

        def keep_others(call: Call) -> None:
            layout = record.layouts.get(layer)  # none yet while it is being read
            if layout is not None:
                others[:] = [layout.others(call.output.clone())]

        with (
            torch.no_grad(),
            recorder(module, [layer]) as record,
            observed(find_layers(module, [layer]), after=keep_others),
        ):
            classify(module, images)
        if layer not in record.outputs:
            raise ValueError(f"layer: {layer!r} never runs in the forward pass")
        part = Above(module, layer, images, record.outputs[layer], others[0], record.layouts[layer])
        yield replace(part, alone=_is_alone(part))


def _is_alone(part: Above) -> bool:
    """Say whether the logits come from the maps alone: whether one image will do for all."""
    maps = torch.cat([part.maps, part.maps / 2])
    with torch.no_grad():
        whole = part(maps)
        try:
            short = replace(part, alone=True)(maps)
        except (RuntimeError, ValueError, IndexError):
            return False  # something below met the maps of other images, and did not fit
    close = 1e-4 * whole.abs().max()
    return short.shape == whole.shape and bool(((short - whole).abs() <= close).all())


def region_cells(size: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """The region of each cell of a map, `[H', W']`, row-major.

    Adaptive pooling takes a cell on the border of two regions into both where the one size does not
    divide the other; here it belongs to the region that its centre lies in.

    Args:
        size: height and width of the map.
        grid: `(H, W)` of the regions.

    Raises:
        ValueError: a map with fewer rows or columns than the grid.

    Examples:
        >>> from emergence_ext import network
        >>> network.region_cells((4, 4), (2, 2))
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1],
                [2, 2, 3, 3],
                [2, 2, 3, 3]])
    """
    if size[0] < grid[0] or size[1] < grid[1]:
        raise ValueError(
            f"layer: its map of {size[0]} x {size[1]} is smaller than the grid of {grid[0]} x "
            f"{grid[1]} regions, so that regions share cells and none can be left out alone. "
            "Choose an earlier layer."
        )
    rows, columns = (
        (2 * torch.arange(cells) + 1) * count // (2 * cells)
        for cells, count in zip(size, grid, strict=True)
    )
    return rows[:, None] * grid[1] + columns


def grad_cam(part: Above, columns: Tensor, grid: tuple[int, int]) -> Tensor:
    """Grad-CAM of a layer before its ReLU, by captum, pooled to the grid, `[n, R]`.

    Args:
        part: the network above the layer, with the layer's maps of `n` images.
        columns: which output of the network counts, `[n]`.
        grid: `(H, W)` of the regions.

    Raises:
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> with network.above(net, "0", torch.rand(2, 3, 8, 8)) as part:
        ...     print(network.grad_cam(part, torch.tensor([1, 4]), (3, 3)).shape)
        ...
        torch.Size([2, 9])
    """
    entry = torch.nn.Identity()
    method = optional("captum.attr", "Grad-CAM").LayerGradCam(lambda maps: part(entry(maps)), entry)
    maps = part.maps.clone().requires_grad_()
    heat = method.attribute(maps, target=columns.to(maps.device))
    return regions(heat.detach(), grid)[..., 0].cpu()
