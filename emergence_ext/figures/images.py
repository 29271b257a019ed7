"""What lies in the images: regions of knowledge points (Fig. 6 right) and importance maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from .inputs import Array, Sizes
from .style import PAGE, category_style, display_name, inch_axes, new_figure, styled

_NAMES = 1.2  # inches, the column of the categories' names
_GAP = 0.05
_RELIABLE, _WRONG, _DASHES = "#ffd23c", "#ffffff", (0, (1.5, 1.0))
_SHADOW = [Stroke(linewidth=2.4, foreground="#1d2330"), Normal()]


@styled
def point_regions(
    images: Any,
    labels: Any,
    is_point: Any,
    is_reliable: Any,
    confidence: Any,
    grid: tuple[int, int],
    categories: Sequence[str],
    *,
    columns: int = 8,
) -> Figure:
    """Show which image regions are knowledge points, a row per category (Fig. 6 right).

    Regions that are no knowledge points are dimmed. A solid outline holds reliable points, a dashed
    one points for a wrong category; the number is the greatest confidence in the image.

    Args:
        images: in 0..1, `[n, 3, H', W']` or `[n, 1, H', W']`.
        labels: true categories, `[n]`.
        is_point: which regions are knowledge points, `[n, R]`.
        is_reliable: which of them are reliable, `[n, R]`.
        confidence: `max_y p(y|h)`, `[n, R]`.
        grid: height and width of the map of regions, `R = H * W`.
        categories: names, `[C]`.
        columns: at most so many images of a category, the first ones.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.
    """
    sizes = Sizes("point_regions")
    names = sizes.names("categories", categories, "C")
    pixels = _pixels(sizes, images)
    y = sizes.labels(labels, names, "n")
    point = _maps(sizes.flags("is_point", is_point, "n R"), grid, sizes)
    reliable = _maps(sizes.flags("is_reliable", is_reliable, "n R"), grid, sizes)
    sure = sizes.numbers("confidence", confidence, "n R")
    rows = [(c, np.flatnonzero(y == c)[:columns]) for c in np.unique(y)]
    widest = max(len(members) for _, members in rows)
    step = (PAGE - _NAMES) / max(widest, 4)
    figure = new_figure(PAGE, len(rows) * step + 0.3, constrained=False)
    for row, (category, members) in enumerate(rows):
        _name_row(figure, names[category], category, row * step, step)
        for column, image in enumerate(members):
            left = _NAMES + column * step
            axes = inch_axes(figure, left, row * step, step - _GAP, step - _GAP)
            _show(axes, _dimmed(pixels[image], point[image]))
            _outline(axes, point[image] & ~reliable[image], pixels.shape[1:3], _WRONG, _DASHES)
            _outline(axes, reliable[image], pixels.shape[1:3], _RELIABLE, "solid")
            best = np.nanmax(sure[image]) if np.isfinite(sure[image]).any() else np.nan
            axes.text(
                0.96,
                0.05,
                f"{best:.2f}" if np.isfinite(best) else "no p",
                transform=axes.transAxes,
                ha="right",
                fontsize=6,
                color="white",
                bbox={"facecolor": "#000000", "alpha": 0.55, "pad": 1.0, "linewidth": 0},
            )
    key = [
        Line2D([], [], color=_RELIABLE, lw=2, path_effects=_SHADOW),
        Line2D([], [], color=_WRONG, lw=2, ls=_DASHES, path_effects=_SHADOW),
    ]
    told = ["reliable: for the true category", "for another category"]
    figure.legend(key, told, loc="lower center", ncols=2, borderaxespad=0.2)
    return figure


def _name_row(figure: Figure, name: str, category: int, top: float, height: float) -> None:
    look = category_style(category)
    axes = inch_axes(figure, 0, top, _NAMES, height - _GAP)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    axes.plot(0.06, 0.5, look.marker, color=look.color, mec=look.edge, ms=5, mew=0.4)
    axes.text(0.13, 0.5, display_name(name), va="center", fontsize=7.5)


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

    A map is scaled to uniform importance: 1 is the share that every region would have if all
    counted equally.

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
    """
    sizes = Sizes("importance_maps")
    pixels = _pixels(sizes, images)
    share = _maps(sizes.numbers("w", w, "n R") * sizes["R"], grid, sizes)
    if (labels is None) != (categories is None):
        raise ValueError("importance_maps: labels and categories belong together, got one of them")
    titles = [""] * sizes["n"]
    if labels is not None and categories is not None:
        names = sizes.names("categories", categories, "C")
        titles = [display_name(names[c], 22) for c in sizes.labels(labels, names, "n")]
    finite = share[np.isfinite(share)]
    top = max(2.0, float(np.quantile(finite, 0.99))) if finite.size else 2.0
    side = (PAGE - 0.15 * (columns - 1)) / (2 * columns) - _GAP / 2
    rows = -(-sizes["n"] // columns)
    head = 0.17 if any(titles) else 0.05
    figure = new_figure(PAGE, rows * (side + head) + 0.6, constrained=False)
    drawn = None
    for index in range(sizes["n"]):
        row, column = divmod(index, columns)
        left = column * (2 * side + _GAP + 0.15)
        upper = row * (side + head) + head
        axes = inch_axes(figure, left, upper, side, side)
        _show(axes, pixels[index])
        axes.text(0, 1.03, titles[index], transform=axes.transAxes, fontsize=7, va="bottom")
        axes = inch_axes(figure, left + side + _GAP, upper, side, side)
        drawn = axes.imshow(share[index], cmap="cividis", vmin=0, vmax=top, aspect="auto")
        axes.axis("off")
    bar = inch_axes(figure, PAGE / 2 - 1.5, rows * (side + head) + 0.14, 3.0, 0.09)
    if drawn is not None:
        figure.colorbar(drawn, cax=bar, orientation="horizontal")
    bar.set_xlabel("importance w, in shares of a uniform one")
    bar.grid(False)
    return figure


def _pixels(sizes: Sizes, images: Any) -> Array:
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


def _maps(values: Array, grid: tuple[int, int], sizes: Sizes) -> Array:
    """Return regions `[n, R]` as maps `[n, H, W]`, row-major.

    Raises:
        ValueError: `H * W` other than R.
    """
    height, width = grid
    if height * width != values.shape[1]:
        raise ValueError(
            f"{sizes.figure}: grid {height} x {width} holds {height * width} regions, "
            f"the arrays have R={values.shape[1]}"
        )
    return values.reshape(-1, height, width)


def _region_of(size: int, cells: int) -> Array:
    """Return for each of `size` pixels the cell of the map that its centre lies in."""
    return np.minimum((np.arange(size) + 0.5) * cells / size, cells - 1).astype(int)


def _dimmed(image: Array, keep: Array) -> Array:
    """Return the image `[H', W', 3]` with all but the kept cells `[H, W]` pale and grey."""
    rows = _region_of(image.shape[0], keep.shape[0])
    columns = _region_of(image.shape[1], keep.shape[1])
    mask = keep[np.ix_(rows, columns)][..., None]
    grey = image.mean(axis=2, keepdims=True)
    return np.where(mask, image, 0.35 * grey + 0.08)


def _outline(axes: Axes, cells: Array, size: tuple[int, ...], color: str, style: Any) -> None:
    """Draw the border of the marked cells `[H, W]` in the pixel frame of an image of `size`."""
    padded = np.pad(cells, 1).astype(int)
    down, right = size[0] / cells.shape[0], size[1] / cells.shape[1]
    scale = np.array([right, down])
    across = np.argwhere(np.diff(padded[:, 1:-1], axis=0))[:, ::-1]
    upright = np.argwhere(np.diff(padded[1:-1], axis=1))[:, ::-1]
    sides = [(start * scale, (start + np.array([1, 0])) * scale) for start in across]
    sides += [(start * scale, (start + np.array([0, 1])) * scale) for start in upright]
    lines = LineCollection(sides, colors=color, linewidths=1.1, linestyles=[style])
    lines.set_path_effects(_SHADOW)
    axes.add_collection(lines)


def _show(axes: Axes, image: Array) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
