"""What lies in the images: regions of knowledge points (Fig. 6 right) and importance maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    display_name,
    inch_axes,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, color_key, name_category, write_above
from emergence_ext.settings import require_grid

_GAP = 0.05  # inches between an image and its map
_EDGE = 0.05  # inches kept free at the edges of the page
_BETWEEN = 0.15  # inches between blocks of images
_HEAD = 0.19  # inches above the images, for names
_HEAT = ListedColormap(
    [(0.93, 0.36, 0.0, 0.7 * x) for x in np.linspace(0, 1, 256)], name="confidence"
)
_HATCH = "////"


@styled
def point_regions(
    images: Any,
    labels: Any,
    is_point: Any,
    is_reliable: Any,
    truth: Any,
    grid: tuple[int, int],
    categories: Sequence[str],
    *,
    columns: int = 3,
) -> Figure:
    """Show which image regions are knowledge points, by category (Fig. 6 right).

    Beside each image stands its map: the stronger the colour over a region, the more the region
    says the true category. An outline holds the reliable points, hatching marks points for another
    category; the rest are no knowledge points.

    Args:
        images: in 0..1, `[n, 3, H', W']` or `[n, 1, H', W']`.
        labels: true categories, `[n]`.
        is_point: which regions are knowledge points, `[n, R]`.
        is_reliable: which of them are reliable, `[n, R]`.
        truth: p of the true category, `[n, R]`, in 0..1.
        grid: height and width of the map of regions, `R = H * W`.
        categories: names, `[C]`.
        columns: at most so many images of a category, the first ones.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> p = torch.rand(2, 4)
        >>> images, names = torch.rand(2, 3, 8, 8), ["cat", "dog"]
        >>> figures.point_regions(images, [0, 1], p > 0.4, p > 0.6, p, (2, 2), names)
        <ShownFigure size ... with 7 Axes>
    """
    sizes = Sizes("point_regions")
    names = sizes.names("categories", categories, "C")
    pixels = as_pixels(sizes, images)
    y = sizes.labels(labels, names, "n")
    point = region_maps(sizes.flags("is_point", is_point, "n R"), grid, sizes)
    reliable = region_maps(sizes.flags("is_reliable", is_reliable, "n R"), grid, sizes)
    sure = region_maps(sizes.numbers("truth", truth, "n R"), grid, sizes)
    blocks = [(c, np.flatnonzero(y == c)[:columns]) for c in np.unique(y)]
    abreast = 2 if columns <= 4 and len(blocks) > 1 else 1
    layout = ImageGrid(
        len(blocks), abreast, 2 * columns, head=_HEAD, foot=_GAP, gap=_GAP, between=_BETWEEN,
        largest=0.75 - _GAP,
    )  # fmt: skip
    below = 0.62
    figure = new_figure(PAGE, layout.bottom + below, constrained=False)
    for block, (category, members) in enumerate(blocks):
        head = layout.head_axes(figure, block)
        name_category(head, display_name(names[category], 30), category, 0.45 * _HEAD)
        for column, image in enumerate(members):
            show_image(layout.axes(figure, block, 2 * column), pixels[image])
            axes = layout.axes(figure, block, 2 * column + 1)
            show_image(axes, pale(pixels[image]))
            heat(axes, sure[image])
            _hatch(axes, point[image] & ~reliable[image])
            outline(axes, reliable[image])
    _point_key(figure, below)
    return figure


def _point_key(figure: Figure, below: float) -> None:
    """Draw what colour, outline and hatching mean into the `below` inches at the lower edge."""
    height = figure.get_size_inches()[1]
    bar = inch_axes(figure, 0.6, height - below + 0.16, 1.9, 0.09)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=_HEAT, aspect="auto", extent=(0, 1, 0, 1))
    bar.set(yticks=[], xticks=[0, 0.5, 1], xlabel="p(true category | h)")
    bar.grid(False)
    key = [
        Patch(facecolor="none", edgecolor=INK, lw=1.0),
        Patch(facecolor="none", edgecolor=INK, lw=0, hatch=2 * _HATCH),
    ]
    figure.legend(
        key,
        ["knowledge point for the true category", "for another category"],
        loc="center left",
        bbox_to_anchor=(2.75 / PAGE, (below - 0.25) / height),
        ncols=2,
        handlelength=1.6,
        borderaxespad=0,
    )


@styled
def shared_regions(
    images: Any,
    is_shared: Any,
    grid: tuple[int, int],
    titles: Sequence[str],
    notes: Sequence[str],
    *,
    columns: int = 4,
) -> Figure:
    """Show image regions that two categories share, by pair of categories (Fig. 2, 10).

    Args:
        images: in 0..1, `[pairs, columns, 3, H', W']` or with one channel.
        is_shared: which regions both share, `[pairs, columns, R]`; an image without any is left
            out.
        grid: height and width of the map of regions, `R = H * W`.
        titles: the two categories, `[pairs]`.
        notes: what is said of them, `[pairs]`.
        columns: images of a pair.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> shared = torch.rand(1, 2, 4) > 0.5
        >>> images = torch.rand(1, 2, 3, 8, 8)
        >>> figures.shared_regions(
        ...     images, shared, (2, 2), ["cat and dog"], ["2 regions"], columns=2
        ... )
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("shared_regions")
    heads = sizes.names("titles", titles, "pairs")
    remarks = sizes.names("notes", notes, "pairs")
    shared = sizes.flags("is_shared", is_shared, "pairs columns R").reshape(-1, sizes["R"])
    maps = region_maps(shared, grid, sizes)
    every = sizes.numbers("images", images, "pairs columns channels height width")
    pixels = as_pixels(Sizes("shared_regions"), every.reshape(-1, *every.shape[2:]))
    layout = ImageGrid(
        len(heads), 2 if len(heads) > 1 else 1, columns, head=1.7 * _HEAD, foot=_GAP, gap=_GAP,
        between=_BETWEEN, largest=1.5 - _GAP,
    )  # fmt: skip
    figure = new_figure(PAGE, layout.bottom + _EDGE, constrained=False)
    for pair, (title, remark) in enumerate(zip(heads, remarks, strict=True)):
        for column in range(columns):
            cells, image = maps[pair * columns + column], pixels[pair * columns + column]
            if not cells.any():
                continue
            axes = layout.axes(figure, pair, column)
            show_image(axes, image)
            veil = np.zeros((*cells.shape, 4))
            veil[..., :3], veil[..., 3] = 1, 0.68 * ~cells
            axes.imshow(veil, extent=_frame(axes), interpolation="nearest", aspect="auto")
            outline(axes, cells)
        axes = layout.head_axes(figure, pair)
        axes.text(0, 0.55, title, fontsize=7.5, transform=axes.transAxes)
        axes.text(0, 0.14, remark, fontsize=6.5, color=MUTED, transform=axes.transAxes)
    return figure


@styled
def importance_maps(
    images: Any,
    w: Any,
    grid: tuple[int, int],
    *,
    labels: Any | None = None,
    categories: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Show the region importance w as a map beside each image (Sec. 3.3).

    A map is scaled to uniform importance: 1, drawn white, is the share that every region would have
    if all counted equally.

    Args:
        images: in 0..1, `[n, 3, H', W']` or `[n, 1, H', W']`.
        w: region importance, `[n, R]`, each row of sum 1.
        grid: height and width of the map of regions, `R = H * W`.
        labels: true categories, `[n]`, written above the images with `categories`.
        categories: names, `[C]`.
        columns: pairs of image and map in a row.

    Raises:
        ValueError: shapes that do not fit, a grid that does not hold R regions, or only one of
            labels and categories.

    Examples:
        >>> from emergence_ext import figures
        >>> w = torch.rand(2, 4).softmax(1)
        >>> figures.importance_maps(torch.rand(2, 3, 8, 8), w, (2, 2))
        <ShownFigure size ... with 5 Axes>
    """
    sizes = Sizes("importance_maps")
    pixels = as_pixels(sizes, images)
    share = region_maps(sizes.numbers("w", w, "n R") * sizes["R"], grid, sizes)
    if (labels is None) != (categories is None):
        raise ValueError("importance_maps: labels and categories belong together, got one of them")
    titles = [""] * sizes["n"]
    if labels is not None and categories is not None:
        names = sizes.names("categories", categories, "C")
        titles = [display_name(names[c], 22) for c in sizes.labels(labels, names, "n")]
    finite = share[np.isfinite(share)]
    top = max(2.0, float(np.quantile(finite, 0.99))) if finite.size else 2.0
    scale = TwoSlopeNorm(1.0, vmin=0.0, vmax=top)
    layout = ImageGrid(
        sizes["n"], columns, 2, head=_HEAD if any(titles) else _EDGE, gap=_GAP, between=_BETWEEN
    )
    figure = new_figure(PAGE, layout.bottom + 0.6, constrained=False)
    for index, title in enumerate(titles):
        axes = layout.axes(figure, index)
        show_image(axes, pixels[index])
        write_above(axes, title)
        axes = layout.axes(figure, index, 1)
        colored = axes.imshow(share[index], cmap="PuOr_r", norm=scale, aspect="auto")
        axes.axis("off")
    meaning = "importance w, in shares of a uniform one"
    color_key(figure, colored, meaning, PAGE / 2, layout.bottom + 0.14, 3.0)
    return figure


def as_pixels(sizes: Sizes, images: Any) -> Array:
    """Return images `[n, H', W', 3]` in 0..1.

    Raises:
        ValueError: another number of colour channels, or values far outside 0..1.
    """
    array = sizes.numbers("images", images, "n channels height width")
    if sizes["channels"] not in (1, 3):
        raise ValueError(
            f"{sizes.figure}: images must have 1 or 3 channels, got {sizes['channels']}"
        )
    if np.nanmax(array) > 1.01 or np.nanmin(array) < -0.01:
        raise ValueError(
            f"{sizes.figure}: images must lie in 0..1, got {np.nanmin(array):.3g} to "
            f"{np.nanmax(array):.3g}. Undo the normalisation of the network first."
        )
    array = np.nan_to_num(np.clip(array, 0, 1)).transpose(0, 2, 3, 1)
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def by_largest(values: Array) -> tuple[Array, Array]:
    """Return values `[n, ...]` in shares of the largest absolute one of each of n, and that."""
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    divisor = np.where(largest > 0, largest, 1).reshape(-1, *[1] * (values.ndim - 1))
    return values / divisor, largest


def region_maps(values: Array, grid: tuple[int, int], sizes: Sizes) -> Array:
    """Return regions `[n, R]` as maps `[n, H, W]`, row-major.

    Raises:
        ValueError: `H * W` other than R.
    """
    require_grid(grid)
    height, width = grid
    if height * width != values.shape[1]:
        raise ValueError(
            f"{sizes.figure}: grid {height} x {width} holds {height * width} regions, "
            f"the arrays have R={values.shape[1]}"
        )
    return values.reshape(-1, height, width)


def pale(image: Array) -> Array:
    """Return the image `[H', W', 3]` in light greys, on which colour and hatching show."""
    return np.asarray(0.62 + 0.36 * np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2))


def heat(axes: Axes, values: Array) -> None:
    """Lay the map `[H, W]` of values in 0..1 over the image in the axes."""
    axes.imshow(values, cmap=_HEAT, vmin=0, vmax=1, extent=_frame(axes), aspect="auto", zorder=1)


def _frame(axes: Axes) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the image in the axes."""
    return (*axes.get_xlim(), *axes.get_ylim())


def _cell_size(axes: Axes, shape: tuple[int, ...]) -> Array:
    """Return width and height of one cell of a map of `shape` `(H, W)`, in pixels."""
    _, right, bottom, _ = _frame(axes)
    return np.array([right / shape[1], bottom / shape[0]])


def _hatch(axes: Axes, cells: Array) -> None:
    """Hatch the marked cells `[H, W]`."""
    with matplotlib.rc_context({"hatch.linewidth": 0.5}):
        cover(axes, cells, facecolor="none", edgecolor=INK, hatch=2 * _HATCH)


def cover(axes: Axes, cells: Array, **look: Any) -> None:
    """Lay patches of that look over the marked cells `[H, W]`."""
    scale = _cell_size(axes, cells.shape)
    squares = [Rectangle(tuple(at * scale), *scale) for at in np.argwhere(cells)[:, ::-1]]
    axes.add_collection(PatchCollection(squares, linewidth=0, zorder=2, **look))


def outline(axes: Axes, cells: Array) -> None:
    """Draw the border of the marked cells `[H, W]`."""
    padded = np.pad(cells, 1).astype(int)
    scale = _cell_size(axes, cells.shape)
    across = np.argwhere(np.diff(padded[:, 1:-1], axis=0))[:, ::-1]
    upright = np.argwhere(np.diff(padded[1:-1], axis=1))[:, ::-1]
    sides = [(start * scale, (start + np.array([1, 0])) * scale) for start in across]
    sides += [(start * scale, (start + np.array([0, 1])) * scale) for start in upright]
    axes.add_collection(
        LineCollection(sides, colors=INK, linewidths=0.9, capstyle="projecting", zorder=3)
    )


def show_image(axes: Axes, image: Array) -> None:
    """Fill the axes with the image `[H', W', 3]`, a data unit a pixel."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
