"""Two states side by side: what changed by layer and category, and the regions that moved most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, heat, outline, pale, region_maps, show_image
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    category_legend,
    category_style,
    display_name,
    figure_note,
    legend_height,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, put_box, write_below

_LAYOUT: dict[str, Any] = {"edges": (0.08, 0.08), "head": 0.2}  # inches
_SPREAD = 0.3  # how far the categories stand beside their layer


@styled
def layer_differences(
    measures: Mapping[str, Band],
    layers: Sequence[str],
    categories: Sequence[str],
    *,
    between: tuple[str, str] = ("A", "B"),
    remark: str = "",
) -> Figure:
    """Draw how much changed from one state to the other, by layer and category.

    The line is that of all images, in its interval; marks with bars are the categories.

    Args:
        measures: what it is -> means and ends of the intervals, three arrays `[L, 1 + C]`: all
            images first, then each category; NaN where there is none.
        layers: names of the layers, `[L]`.
        categories: names, `[C]`.
        between: names of the two states.
        remark: what else has to be said of the whole figure.

    Raises:
        ValueError: no measure, or shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> turned = figures.Band(*torch.rand(3, 2, 3))
        >>> figures.layer_differences({"turned": turned}, ["conv1", "conv2"], ["cat", "dog"])
        <ShownFigure size ... with 2 Axes>
    """
    if not measures:
        raise ValueError("layer_differences: measures is empty: there is nothing to draw")
    sizes = Sizes("layer_differences")
    depths = [literal_name(x, 14) for x in sizes.names("layers", layers, "L")]
    names = sizes.names("categories", categories, "C")
    sizes.known["columns"] = 1 + len(names)
    rows, key = -(-len(measures) // 2), legend_height(names, PAGE)
    figure = new_figure(PAGE, 1.95 * rows + key + 0.38)
    a, b = (literal_name(name, 48) for name in between)
    legend = "Line: all images. Marks: by category. Band and bars: 95 % intervals over images."
    legend = f"{legend} {remark}".rstrip()
    figure.suptitle(f"A: {a}, B: {b}\n{legend}", x=0.01, ha="left", fontsize=7, color=MUTED)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (title, band) in zip(panels, measures.items(), strict=False):
        value, low, high = sizes.band(title, band, "L columns")
        axes.set_title(title)
        _draw_measure(axes, value, low, high)
        crowded = 0.062 * (max(map(len, depths)) + 1) * len(depths) > PAGE / 2 - 0.5
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(len(depths)), depths, **turn)
        axes.set_xlim(-0.5, len(depths) - 0.5)
    for axes in panels[len(measures) :]:
        axes.axis("off")
    category_legend(figure, names)
    return figure


def _draw_measure(axes: Axes, value: Array, low: Array, high: Array) -> None:
    steps = np.arange(len(value))
    count = value.shape[1] - 1
    axes.axhline(0, color=MUTED, lw=0.6, zorder=1)
    if len(steps) == 1:
        axes.plot([-0.4] * 2, [low[0, 0], high[0, 0]], color=INK, lw=1)
        axes.plot(-0.4, value[0, 0], "_", color=INK, ms=9, mew=1.4)
    else:
        axes.fill_between(steps, low[:, 0], high[:, 0], color=INK, alpha=0.15, lw=0, zorder=2)
        axes.plot(steps, value[:, 0], color=INK, lw=1.3, zorder=3)
    aside = np.linspace(-_SPREAD, _SPREAD, count) if count > 1 else np.zeros(1)
    for category in range(count):
        look, at = category_style(category), steps + aside[category]
        column = category + 1
        axes.vlines(at, low[:, column], high[:, column], color=look.color, lw=0.7, zorder=3)
        axes.plot(
            at, value[:, column], look.marker, color=look.color, mec=look.edge, ms=3, mew=0.3,
            zorder=4,
        )  # fmt: skip


@styled
def moved_regions(
    images: Any,
    cells: Any,
    labels: Any,
    distance: Any,
    truth: Any,
    states: Sequence[tuple[str, str]],
    categories: Sequence[str],
    *,
    fields: Any | None = None,
    remark: str = "",
    columns: int = 6,
) -> Figure:
    """Show the regions that moved most on their images, in the given order.

    Args:
        images: of each region, in 0..1, `[n, channels, H', W']`.
        cells: (top, left, bottom, right) of the region in pixels, `[n, 4]`.
        labels: true categories of the images, `[n]`.
        distance: how far the region moved, `[n]`.
        truth: p of the true category before and after, `[n, 2]`.
        states: what the region was and is a knowledge point for, `[n]` pairs.
        categories: names, `[C]`.
        fields: all that the region sees of its image, as `cells`; drawn dashed.
        remark: what else has to be said of the whole figure.
        columns: images in a row.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> images, cells, p = torch.rand(1, 3, 8, 8), [[0, 0, 4, 4]], [[0.2, 0.9]]
        >>> figures.moved_regions(
        ...     images, cells, [0], [1.5], p, [("no point", "cat")], ["cat", "dog"]
        ... )
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("moved_regions")
    names = sizes.names("categories", categories, "C")
    pictures = as_pixels(sizes, images)
    boxes = sizes.numbers("cells", cells, "n 4")
    wide = None if fields is None else sizes.numbers("fields", fields, "n 4")
    y = sizes.labels(labels, names, "n")
    far, p = sizes.numbers("distance", distance, "n"), sizes.numbers("truth", truth, "n 2")
    if len(states) != len(y):
        raise ValueError(f"moved_regions: states must name n={len(y)} items, got {len(states)}")
    layout = ImageGrid(len(y), columns, **_LAYOUT, foot=0.54, between=0.08)
    figure = new_figure(PAGE, layout.bottom + 0.4, constrained=False)
    limit = max(6, int(layout.side / 0.056))
    for index, picture in enumerate(pictures):
        _name_image(layout.head_axes(figure, index, layout.side), names[y[index]], int(y[index]))
        axes = layout.axes(figure, index)
        show_image(axes, picture)
        # A data unit of the image's axes is a pixel.
        unit = ((1, 1), (0, 0, 1, 1), (2.2, 1.0))
        put_box(axes, boxes[index], *unit)
        if wide is not None:
            put_box(axes, wide[index], *unit, ls=(0, (2, 2)))
        before, after = states[index]
        lines = [f"moved {far[index]:.2g}", f"p {p[index, 0]:.2f} \u2192 {p[index, 1]:.2f}"]
        lines += [display_name(before, limit), f"\u2192 {display_name(after, limit - 2)}"]
        write_below(axes, "\n".join(lines))
    seen = ", dashed what it sees." if wide is not None else "; it sees more of the image."
    figure_note(
        figure,
        "p: probability of the true category; below, what the region is a knowledge point for. "
        f"The box is the region{seen}\n{remark}".strip(),
        0.06,
    )
    return figure


@styled
def moved_images(
    images: Any,
    distance: Any,
    gained: Any,
    lost: Any,
    grid: tuple[int, int],
    labels: Any,
    categories: Sequence[str],
    *,
    remark: str = "",
    columns: int = 4,
) -> Figure:
    """Show the images whose regions moved most, in the given order, each beside its map.

    Args:
        images: in 0..1, `[n, channels, H', W']`.
        distance: how far every region moved, `[n, R]`.
        gained: regions that became reliable points, `[n, R]`; outlined.
        lost: regions that were reliable points and are no more, `[n, R]`; crossed out.
        grid: height and width of the map of regions, `R = H * W`.
        labels: true categories, `[n]`.
        categories: names, `[C]`.
        remark: what else has to be said of the whole figure.
        columns: pairs of image and map in a row.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> distance = torch.rand(2, 4)
        >>> args = (distance, distance > 0.8, distance < 0.1, (2, 2), [0, 1], ["cat", "dog"])
        >>> figures.moved_images(torch.rand(2, 3, 8, 8), *args)
        <ShownFigure size ... with 6 Axes>
    """
    sizes = Sizes("moved_images")
    names = sizes.names("categories", categories, "C")
    pictures = as_pixels(sizes, images)
    far = region_maps(sizes.numbers("distance", distance, "n R"), grid, sizes)
    more = region_maps(sizes.flags("gained", gained, "n R"), grid, sizes)
    less = region_maps(sizes.flags("lost", lost, "n R"), grid, sizes)
    y = sizes.labels(labels, names, "n")
    most = float(np.nanmax(far)) or 1.0
    layout = ImageGrid(len(y), columns, 2, **_LAYOUT, foot=0.2, gap=0.04, between=0.16)
    figure = new_figure(PAGE, layout.bottom + 0.4, constrained=False)
    for index, picture in enumerate(pictures):
        head = layout.head_axes(figure, index, 2 * layout.side)
        _name_image(head, names[y[index]], int(y[index]))
        show_image(layout.axes(figure, index), picture)
        axes = layout.axes(figure, index, 1)
        show_image(axes, pale(picture))
        heat(axes, far[index] / most)
        outline(axes, more[index])
        _cross(axes, less[index])
        counts = f"+{more[index].sum()} \u2212{less[index].sum()}"
        write_below(axes, f"mean {far[index].mean():.2g}, {counts}")
    figure_note(
        figure,
        f"Colour: how far a region moved, full at {most:.3g}. Outlined: became a reliable point "
        f"(+); crossed: is one no more (\u2212).\n{remark}".strip(),
        0.06,
    )
    return figure


def _name_image(axes: Axes, name: str, category: int) -> None:
    """Write mark and name of a category above an image, smaller than above a block of them."""
    look = category_style(category)
    axes.plot(0.05, 0.07, look.marker, color=look.color, mec=look.edge, ms=4, mew=0.4)
    limit = max(6, int((axes.get_xlim()[1] - 0.12) / 0.06))
    axes.text(0.12, 0.07, display_name(name, limit), va="center", fontsize=7)


def _cross(axes: Axes, cells: Array) -> None:
    """Cross out the marked cells `[H, W]`."""
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    rows, columns = np.nonzero(cells)
    x = (columns + 0.5) * right / cells.shape[1]
    y = (rows + 0.5) * bottom / cells.shape[0]
    axes.plot(x, y, "x", color=INK, ms=3, mew=0.8, zorder=3)
