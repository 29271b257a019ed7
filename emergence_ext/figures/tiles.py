"""Many small images on one page: one pair of axes in inches, which is quick where hundreds are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emergence_ext.figures.inputs import Array
from emergence_ext.figures.style import INK, PAPER, inch_axes, new_figure

Place = tuple[float, float, float, float]
"""Left, top, width and height, in inches from the upper left corner of the page."""


def open_page(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure and axes over all of it, in inches from the upper left corner."""
    figure = new_figure(width, height, constrained=False)
    axes = inch_axes(figure, 0, 0, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.set_autoscale_on(False)
    return figure, axes


def put_image(axes: Axes, image: Array, place: Place) -> None:
    """Put an image `[h, w, 3]`, or grey `[h, w]` in 0..1, on the page."""
    left, top, width, height = place
    picture = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    axes.imshow(
        picture,
        extent=(left, left + width, top + height, top),
        interpolation="nearest",
        aspect="auto",
    )


def put_box(
    axes: Axes, box: Sequence[float], size: tuple[int, int], place: Place, **look: Any
) -> None:
    """Draw a box (top, left, bottom, right) of pixels over an image of `size`, to show on any."""
    left, top, width, height = place
    down, across = height / size[0], width / size[1]
    corner = (left + box[1] * across, top + box[0] * down)
    for color, thick in ((INK, 1.9), (PAPER, 0.9)):
        style = look if color == PAPER else {}
        axes.add_patch(
            Rectangle(
                corner,
                (box[3] - box[1]) * across,
                (box[2] - box[0]) * down,
                fill=False,
                color=color,
                lw=thick,
                **style,
            )
        )


def number(value: float) -> str:
    """Return a number in three digits as it is written under a tile."""
    text = f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "\u2212")
