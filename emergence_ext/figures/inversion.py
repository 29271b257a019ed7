"""Images beside what layers still know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, show_image
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.style import MUTED, PAGE, inch_axes, literal_name, new_figure, styled

_GAP, _HEAD, _EDGE = 0.07, 0.22, 0.05


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
    """
    sizes = Sizes("inversions")
    names = sizes.names("layers", layers, "L")
    pixels = as_pixels(sizes, images)
    found = [as_pixels(sizes, x) for x in inverted]
    if len(found) != len(names):
        raise ValueError(f"inversions: inverted must hold L={len(names)} batches, got {len(found)}")
    error = sizes.numbers("errors", errors, "L n")
    columns = len(names) + 1
    side = min(1.6, (PAGE - 2 * _EDGE - _GAP * (columns - 1)) / columns)
    step = side * pixels.shape[1] / pixels.shape[2] + _HEAD
    width = max(3.0, 2 * _EDGE + columns * (side + _GAP))
    figure = new_figure(width, 0.22 + len(pixels) * step, constrained=False)
    for row, image in enumerate(pixels):
        for column, shown in enumerate([image, *(batch[row] for batch in found)]):
            left, top = _EDGE + column * (side + _GAP), 0.22 + row * step
            axes = inch_axes(figure, left, top, side, step - _HEAD)
            show_image(axes, shown)
            if row == 0:
                name = literal_name(names[column - 1], 16) if column else "image"
                axes.set_title(name, fontsize=7.5, pad=3)
            told = f"code error {error[column - 1, row]:.3f}" if column else ""
            axes.text(0, -0.03, told, transform=axes.transAxes, va="top", fontsize=6.5, color=MUTED)
    return figure
