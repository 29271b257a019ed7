"""Small images on one page, in inches: where they lie, their words, one pair of axes for many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emergence_ext.figures.inputs import Array
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    PAPER,
    category_style,
    inch_axes,
    new_figure,
)

Place = tuple[float, float, float, float]
"""Left, top, width and height, in inches from the upper left corner of the page."""


class ImageGrid:
    """Where images lie on a page: `columns` blocks in a row, `cells` images side by side in each.

    Args:
        count: blocks.
        columns: blocks in a row.
        cells: images in a block.
        width: of the page.
        edges: kept free at its left and right.
        top: kept free above the first row.
        head, foot: kept free above and below the images of every row.
        gap: between the images of a block.
        between: between blocks.
        largest: side of an image; it is smaller where the blocks are narrow.
        aspect: height of an image in units of its width.

    Attributes:
        block: width of a block; its images fill it where they are not at their `largest`.
        side, height: width and height of an image.
        step: from one row to the next.
        bottom: lower end of the last row, from the top of the page.
    """

    def __init__(
        self,
        count: int,
        columns: int = 1,
        cells: int = 1,
        *,
        width: float = PAGE,
        edges: tuple[float, float] = (0.05, 0.05),
        top: float = 0.0,
        head: float = 0.0,
        foot: float = 0.0,
        gap: float = 0.0,
        between: float = 0.0,
        largest: float = math.inf,
        aspect: float = 1.0,
    ) -> None:
        self.columns, self.gap = columns, gap
        self.left, self.top, self.head, self.between = edges[0], top, head, between
        self.block = (width - sum(edges) - between * (columns - 1)) / columns
        self.side = min((self.block - gap * (cells - 1)) / cells, largest)
        self.height = aspect * self.side
        self.step = head + self.height + foot
        self.bottom = top + math.ceil(count / columns) * self.step

    def place(self, block: int, cell: int = 0) -> Place:
        """Return where image `cell` of a block lies."""
        row, column = divmod(block, self.columns)
        left = self.left + column * (self.block + self.between) + cell * (self.side + self.gap)
        return left, self.top + row * self.step + self.head, self.side, self.height

    def axes(self, figure: Figure, block: int, cell: int = 0) -> Axes:
        """Add axes for image `cell` of a block."""
        return inch_axes(figure, *self.place(block, cell))

    def head_axes(self, figure: Figure, block: int, width: float = 2.0) -> Axes:
        """Add `text_axes` of that width into the head above a block."""
        left, top, _, _ = self.place(block)
        return text_axes(figure, left, top - self.head, width, self.head)


def text_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes for words and marks, in inches from their lower left corner."""
    axes = inch_axes(figure, left, top, width, height)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def name_column(figure: Figure, layout: ImageGrid, block: int, cell: int, name: str) -> None:
    """Write what stands in a column of images above the first row."""
    left, _, width, _ = layout.place(block, cell)
    axes = inch_axes(figure, left, 0, width, layout.top)
    axes.text(0, 0.1, name, va="bottom", fontsize=7, color=MUTED)
    axes.axis("off")


def name_category(axes: Axes, name: str, category: int, middle: float, size: float = 7.5) -> None:
    """Write the mark and name of a category into `text_axes`, `middle` inches above their foot."""
    look = category_style(category)
    axes.plot(0.05, middle, look.marker, color=look.color, mec=look.edge, ms=4.5, mew=0.4)
    axes.text(0.14, middle, name, va="center", fontsize=size)


def write_above(axes: Axes, text: str, size: float = 7, color: str = INK) -> None:
    """Write above the left end of an image."""
    axes.text(0, 1.025, text, transform=axes.transAxes, fontsize=size, va="bottom", color=color)


def write_below(axes: Axes, text: str, size: float = 6.3, color: str = INK) -> None:
    """Write below the left end of an image."""
    axes.text(0, -0.03, text, transform=axes.transAxes, va="top", fontsize=size, color=color)


def color_key(
    figure: Figure, colored: Any, title: str, middle: float, top: float, width: float = 2.7
) -> None:
    """Draw what the colours of `colored` mean, around `middle`, from `top` inches down."""
    bar = inch_axes(figure, middle - width / 2, top, width, 0.09)
    figure.colorbar(colored, cax=bar, orientation="horizontal")
    bar.set_xlabel(title)
    bar.grid(False)


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
    axes: Axes,
    box: Any,
    size: tuple[int, int],
    place: Place,
    widths: tuple[float, float] = (1.9, 0.9),
    **look: Any,
) -> None:
    """Draw a box (top, left, bottom, right) of pixels over an image of `size` at its place.

    It is white on a wider black one, of `widths` points, so that it shows on any image.
    """
    left, top, width, height = place
    down, across = height / size[0], width / size[1]
    corner = (left + box[1] * across, top + box[0] * down)
    for color, thick in zip((INK, PAPER), widths, strict=True):
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


def three_digits(value: float) -> str:
    """Return a number as it is written under a tile."""
    text = f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "\u2212")
