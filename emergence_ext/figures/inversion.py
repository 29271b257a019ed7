"""Images beside what layers still know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, show_image
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.style import MUTED, literal_name, new_figure, styled
from emergence_ext.figures.tiles import ImageGrid, write_below

_GAP = 0.07  # inches


@styled
def inversions(images: Any, inverted: Sequence[Any], errors: Any, layers: Sequence[str]) -> Figure:
    """Show images and, beside each, what has the same code in one layer after the other.

    Args:
        images: in 0..1, `[n, channels, H', W']` with 1 or 3 channels.
        inverted: for every layer, `[L]` times `[n, channels, H', W']`.
        errors: relative code error, `[L, n]`, written under each.
        layers: names, `[L]`.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> images = torch.rand(1, 3, 8, 8)
        >>> figures.inversions(
        ...     images, [images, images.roll(1, -1)], [[0.1], [0.4]], ["conv1", "conv2"]
        ... )
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("inversions")
    names = sizes.names("layers", layers, "L")
    pixels = as_pixels(sizes, images)
    batches = [as_pixels(sizes, x) for x in inverted]
    if len(batches) != len(names):
        raise ValueError(
            f"inversions: inverted must hold L={len(names)} batches, got {len(batches)}"
        )
    error = sizes.numbers("errors", errors, "L n")
    columns = len(names) + 1
    layout = ImageGrid(
        len(pixels), cells=columns, top=0.22, foot=0.22, gap=_GAP, largest=1.6,
        aspect=pixels.shape[1] / pixels.shape[2],
    )  # fmt: skip
    width = max(3.0, 0.1 + columns * (layout.side + _GAP))
    figure = new_figure(width, layout.bottom, constrained=False)
    for row, image in enumerate(pixels):
        for column, picture in enumerate([image, *(batch[row] for batch in batches)]):
            axes = layout.axes(figure, row, column)
            show_image(axes, picture)
            if row == 0:
                name = literal_name(names[column - 1], 16) if column else "image"
                axes.set_title(name, fontsize=7.5, pad=3)
            if column:
                write_below(axes, f"code error {error[column - 1, row]:.3f}", 6.5, MUTED)
    return figure
