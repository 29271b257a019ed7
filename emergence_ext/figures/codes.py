"""Codes of images in the plane: as marks, and as the images themselves on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emergence_ext.figures.images import as_pixels
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.style import (
    PAGE,
    category_legend,
    category_style,
    figure_note,
    legend_height,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import open_page

_EDGE = 0.08  # inches


@styled
def code_scatter(
    points: Any, labels: Any, categories: Sequence[str], *, remark: str = ""
) -> Figure:
    """Draw the embedded codes as marks of their categories.

    Args:
        points: `[N, 2]`.
        labels: categories of the images, `[N]`.
        categories: names, `[C]`.
        remark: what has to be said of the embedding.

    Raises:
        ValueError: shapes that do not fit, or labels outside `[0, C)`.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.code_scatter(torch.randn(20, 2), [0, 1] * 10, ["cat", "dog"])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("code_scatter")
    names = sizes.names("categories", categories, "C")
    at = sizes.numbers("points", points, "N 2")
    y = sizes.labels(labels, names)
    span = np.ptp(at, axis=0).clip(1e-9)
    high = float(np.clip(PAGE * span[1] / span[0], 3.0, PAGE))
    figure = new_figure(PAGE, high + 0.25 + legend_height(names, PAGE))
    axes = figure.subplots()
    # Marks one by one in a random order, so that no category hides the others.
    order = np.random.default_rng(0).permutation(len(at))
    size = float(np.clip(90 / np.sqrt(len(at)), 2.0, 5.0))
    for i in order:
        look = category_style(y[i])
        axes.add_line(
            Line2D(
                at[i : i + 1, 0], at[i : i + 1, 1], linestyle="", marker=look.marker,
                color=look.color, mec=look.edge, ms=size, mew=0.3, alpha=0.85,
            )
        )  # fmt: skip
    low, top = at.min(axis=0) - 0.03 * span, at.max(axis=0) + 0.03 * span
    axes.set(xlim=(low[0], top[0]), ylim=(low[1], top[1]), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.set_xlabel(remark, fontsize=6.5)
    category_legend(figure, names)
    return figure


@styled
def code_grid(images: Any, cells: Any, *, remark: str = "") -> Figure:
    """Draw all images on a grid on which images with like codes are neighbours.

    Args:
        images: in 0..1, small, `[N, channels, height, width]`.
        cells: the image of each cell, `[H, W]`, every image once.
        remark: what has to be said of the grid.

    Raises:
        ValueError: shapes that do not fit, or cells that do not hold every image once.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.code_grid(torch.rand(4, 3, 8, 8), [[3, 0], [1, 2]])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("code_grid")
    pixels = as_pixels(sizes, images)
    order = sizes.numbers("cells", cells, "H W").astype(int)
    if not np.array_equal(np.sort(order.ravel()), np.arange(len(pixels))):
        raise ValueError("code_grid: cells must hold every image once")
    H, W = order.shape
    tiles = pixels[order]  # [H, W, height, width, 3]
    wall = tiles.transpose(0, 2, 1, 3, 4).reshape(H * sizes["height"], W * sizes["width"], 3)
    width = float(np.clip(0.2 * W, PAGE, 2 * PAGE))
    side = (width - 2 * _EDGE) / W
    height = side * H * sizes["height"] / sizes["width"]
    figure, page = open_page(width, _EDGE + height + 0.3)
    page.imshow(
        wall,
        extent=(_EDGE, width - _EDGE, _EDGE + height, _EDGE),
        interpolation="antialiased",
        aspect="auto",
    )
    figure_note(figure, remark, 0.08)
    return figure
