"""The part of the image that a regional feature sees, found from the network itself.

The network runs once with its operations made linear and positive (`structure.py`). The support of
a region's input gradient is then its receptive field, whatever the strides, branches and residual
connections, because positive numbers never cancel. The model and its weights are not touched.

Statistics that a normalisation takes over the whole map are not counted; attention and
squeeze-and-excitation are, and make the field the whole image.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.network.calling import forward, input_channels
from emergence_ext.network.hooks import find_layers, recorder
from emergence_ext.network.layout import Layout, read_layouts
from emergence_ext.network.structure import Structure

logger = logging.getLogger(__name__)

# A field longer than the image is measured on a longer one, doubled up to so many pixels.
_LARGEST_CANVAS = 2048

Span = tuple[int, int]
PixelBox = tuple[int, int, int, int]
Spans = dict[int, Span] | list[Span]


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive fields of all regions of one layer, in pixels.

    Attributes:
        layer: dotted name.
        input_size: `(height, width)` of the images.
        grid: `(H, W)` of the layer's own map.
        size: height and width of a field that no border of the image cuts; where the network takes
            no image that is large enough, as much of it as the image shows.
        stride: pixels between the fields of neighbouring regions, down and across.
        offset: first row and column of the field of region (0, 0), negative where it begins outside
            the image.
        rows: first and last row (exclusive) seen by each row of the map, `[H]`, within the image.
        columns: the same for columns, `[W]`.
    """

    layer: str
    input_size: tuple[int, int]
    grid: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[float, float]
    offset: tuple[float, float]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def box(self, row: int, col: int) -> PixelBox:
        """Return `(top, left, bottom, right)` of a region's field within the image, ends exclusive.

        Raises:
            IndexError: a region outside the layer's map.
        """
        if not (0 <= row < self.grid[0] and 0 <= col < self.grid[1]):
            raise IndexError(f"region ({row}, {col}) is outside the map {self.grid}")
        (top, bottom), (left, right) = self.rows[row], self.columns[col]
        return top, left, bottom, right


@dataclass(frozen=True, eq=False)
class RegionBoxes:
    """Boxes `(top, left, bottom, right)` of the regions of a grid, in pixels, ends exclusive.

    Attributes:
        cells: the part of the image that each cell of the grid covers, `[R, 4]`, int64, row-major.
        fields: the receptive field around it, `[R, 4]`, int64.
    """

    cells: Tensor
    fields: Tensor


def receptive_field(
    module: nn.Module,
    layer: str,
    input_size: int | tuple[int, int],
    *,
    layout: Layout | None = None,
) -> ReceptiveField:
    """Measure the receptive fields of the regions of a layer.

    Args:
        module: the network, for images `[B, channels, height, width]`.
        layer: dotted name of a layer that gives a map `[B, K, H, W]` or tokens `[B, T, K]`.
        input_size: `(height, width)` of the images, or the side of square ones.
        layout: how the layer gives its map, where that is known; else a forward pass of a few
            images tells.

    Raises:
        ValueError: an unknown layer, or one that does not depend on the image.
        TypeError: no size.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
        >>> field = network.receptive_field(net, "1", 16)
        >>> field.size, field.stride, field.box(0, 0)
        ((5, 5), (1.0, 1.0), (0, 0, 5, 5))
    """
    if not isinstance(input_size, int | tuple | list):
        raise TypeError(
            "input_size: expected (height, width) or a side in pixels, got "
            f"{type(input_size).__name__}"
        )
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    layout = layout or _layout(module, layer, (height, width))
    image, output = _image_and_map(module, layer, layout, (height, width))
    rows, columns = _all_spans(image, output)
    down = _regular(rows, height) or _on_canvas(module, layer, layout, (height, width), axis=0)
    down = down or _as_far_as_seen(rows, height)
    across = _regular(columns, width) or _on_canvas(module, layer, layout, (height, width), axis=1)
    across = across or _as_far_as_seen(columns, width)
    return ReceptiveField(
        layer=layer,
        input_size=(height, width),
        grid=(len(rows), len(columns)),
        size=(down.size, across.size),
        stride=(down.stride, across.stride),
        offset=(down.offset, across.offset),
        rows=tuple(rows),
        columns=tuple(columns),
    )


def region_boxes(field: ReceptiveField | tuple[int, int], grid: tuple[int, int]) -> RegionBoxes:
    """Return the image regions of a grid to which a layer's map was resized.

    Args:
        field: receptive fields of the layer, or only the `(height, width)` of the images; then the
            cells stand for the fields.
        grid: `(H, W)` of the resized map (adaptive average pooling of the layer's own).

    Raises:
        ValueError: a grid without cells.

    Examples:
        >>> from emergence_ext import network
        >>> network.region_boxes((8, 8), (2, 2)).cells
        tensor([[0, 0, 4, 4],
                [0, 4, 4, 8],
                [4, 0, 8, 4],
                [4, 4, 8, 8]])
    """
    if min(grid) < 1:
        raise ValueError(f"grid: expected at least one cell in each direction, got {grid}")
    size = field.input_size if isinstance(field, ReceptiveField) else field
    cells = _product(*([_pooled(i, size[a], grid[a]) for i in range(grid[a])] for a in (0, 1)))
    if not isinstance(field, ReceptiveField):
        return RegionBoxes(cells, cells)
    spans = []
    for own, count in zip((field.rows, field.columns), grid, strict=True):
        pooled = [_pooled(i, len(own), count) for i in range(count)]
        spans.append([(own[first][0], own[last - 1][1]) for first, last in pooled])
    return RegionBoxes(cells, _product(*spans))


def _pooled(index: int, length: int, count: int) -> Span:
    """What cell `index` of adaptive average pooling from `length` to `count` covers."""
    return index * length // count, -(-(index + 1) * length // count)


def _product(rows: list[Span], columns: list[Span]) -> Tensor:
    return torch.tensor(
        [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    )


@dataclass(frozen=True)
class _Rule:
    """Fields of one axis: the one of position `i` begins at `offset + stride i`."""

    size: int
    stride: float
    offset: float

    def span(self, index: int, length: int) -> Span:
        first = round(self.offset + self.stride * index)
        return max(0, first), min(length, first + self.size)


def _regular(spans: Spans, length: int) -> _Rule | None:
    """The rule of neighbours that no border cuts; None where there are none."""
    known = dict(spans) if isinstance(spans, dict) else dict(enumerate(spans))
    inside = [i for i, (first, last) in known.items() if first > 0 and last < length]
    pairs = [i for i in inside if i + 1 in inside]
    if not pairs:
        return None
    middle, end = pairs[len(pairs) // 2], pairs[-1] + 1
    first, last = known[middle]
    stride = (known[end][0] - known[pairs[0]][0]) / (end - pairs[0])
    return _Rule(last - first, stride, first - stride * middle)


def _as_far_as_seen(spans: list[Span], length: int) -> _Rule:
    return _Rule(max(b - a for a, b in spans), length / len(spans), float(spans[0][0]))


def _on_canvas(
    module: nn.Module, layer: str, layout: Layout, size: tuple[int, int], axis: int
) -> _Rule | None:
    """The rule of one axis from the two regions in the middle of images that are longer there."""
    length = 2 * size[axis]
    while length <= _LARGEST_CANVAS:
        height, width = (length, size[1]) if axis == 0 else (size[0], length)
        try:
            image, output = _image_and_map(module, layer, layout, (height, width))
        except (RuntimeError, ValueError, AssertionError) as error:
            logger.debug("layer %s takes no %d x %d image: %s", layer, height, width, error)
            return None
        middles = [[max(0, n // 2 - 1), n // 2] for n in output.shape[2:]]
        rule = _regular(_measure(image, output, *middles)[axis], length)
        if rule is not None:
            return rule
        length *= 2
    return None


def _all_spans(image: Tensor, output: Tensor) -> tuple[list[Span], list[Span]]:
    """Spans of all rows and columns of the map; of a large regular one only some are measured."""
    lengths = image.shape[2:]
    wanted = [_probes(count) for count in output.shape[2:]]
    complete = []
    for known, count, length in zip(
        _measure(image, output, *wanted), output.shape[2:], lengths, strict=True
    ):
        rule = _regular(known, length)
        regular = rule is not None and all(
            rule.span(i, length) == span for i, span in known.items()
        )
        if rule is not None and regular:
            complete.append([rule.span(i, length) for i in range(count)])
        elif len(known) == count:
            complete.append(list(known.values()))
        elif len(set(known.values())) == 1:  # all of the image, from the first to the last
            complete.append([known[0]] * count)
    if len(complete) < 2:
        everything = _measure(image, output, *(list(range(n)) for n in output.shape[2:]))
        complete = [list(known.values()) for known in everything]
    return complete[0], complete[1]


def _probes(count: int) -> list[int]:
    """All positions of an axis, or of a long one those at both ends and in the middle."""
    if count <= 24:
        return list(range(count))
    middle = range(count // 2 - 2, count // 2 + 3)
    return [*range(4), *middle, *range(count - 4, count)]


def _measure(
    image: Tensor, output: Tensor, rows: list[int], columns: list[int]
) -> tuple[dict[int, Span], dict[int, Span]]:
    """Rows and columns of the image that rows and columns of the map `[1, K, H, W]` see."""
    down, across = {}, {}
    for i in range(max(len(rows), len(columns))):
        row, col = rows[min(i, len(rows) - 1)], columns[min(i, len(columns) - 1)]
        (gradient,) = torch.autograd.grad(
            output[0, :, row, col].sum(), image, retain_graph=True, allow_unused=True
        )
        if gradient is None:
            raise ValueError("layer: it does not depend on the image")
        seen = gradient[0].ne(0).any(dim=0)
        down[row], across[col] = _span(seen.any(dim=1)), _span(seen.any(dim=0))
    return down, across


def _span(seen: Tensor) -> Span:
    positions = seen.nonzero()
    if not len(positions):
        raise ValueError("layer: it does not depend on the image")
    return int(positions[0]), int(positions[-1]) + 1


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked for; the rest may not fit the canvas."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _blank(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """An image `[1, channels, height, width]` as the network takes it."""
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.ones(()))
    channels = input_channels(module)
    return torch.ones(1, channels, *size, device=parameter.device, dtype=parameter.dtype)


def _layout(module: nn.Module, layer: str, size: tuple[int, int]) -> Layout:
    """How the layer gives its map, told with the network as it is: made linear, tokens are alike.

    Where weights let nothing through, or the image has other channels, a map is what it looks like.
    """
    layers = find_layers(module, [layer])
    try:
        found = read_layouts(module, _blank(module, size), layers)
    except (ValueError, RuntimeError):
        return Layout("map", size)
    if layer not in found:
        raise ValueError(f"layer: {layer!r} never runs in the forward pass")
    return found[layer]


def _image_and_map(
    module: nn.Module, layer: str, layout: Layout, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """An image and the layer's map of it, `[1, K, H, W]`, joined by positive linear operations."""
    image = _blank(module, size).requires_grad_()

    def stop(output: Tensor) -> None:
        if output.ndim != 4:
            raise ValueError(f"layer: {layer!r} gives no map of the image")
        raise _Reached(output)

    try:
        layouts = {layer: layout}
        with (
            torch.enable_grad(),
            recorder(module, [layer], keep=stop, layouts=layouts),
            Structure(),
        ):
            forward(module, image.clone())
    except _Reached as reached:
        if not reached.output.requires_grad:
            raise ValueError(f"layer: {layer!r} does not depend on the image") from None
        return image, reached.output
    raise ValueError(f"layer: {layer!r} never runs in the forward pass")
