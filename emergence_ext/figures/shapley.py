"""Shapley values of regions: on the images, and beside other importances (Fig. 5, 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emergence_ext.figures.images import as_pixels, by_largest, region_maps, show_image
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    PAPER,
    correlation_text,
    display_name,
    literal_name,
    new_figure,
    ordered_colors,
    signed_text,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, color_key, name_column, write_above

_SCALES = (
    "Shapley value, in shares of the image's largest",
    "w less a uniform one, in shares of the % above the map",
)


@styled
def shapley_correlations(
    spearman: Mapping[str, tuple[Any, Band]],
    pearson: Mapping[str, tuple[Any, Band]],
    layers: Sequence[str],
) -> Figure:
    """Draw how importances of regions go with Shapley values within each image.

    A point is an image; the mark is the mean over images, its line the interval of the mean.

    Args:
        spearman: name of an importance -> its coefficient in each image, `[L, n]`, NaN where it is
            undefined, and mean with interval, `[L]`, NaN where there is none.
        pearson: the same of Pearson's coefficient, for the same names.
        layers: names, `[L]`.

    Raises:
        ValueError: shapes that do not fit, an empty array, or other names in the second.

    Examples:
        >>> from emergence_ext import figures
        >>> each, mean = torch.rand(1, 5), figures.Band([0.5], [0.3], [0.7])
        >>> figures.shapley_correlations({"w": (each, mean)}, {"w": (each, mean)}, ["conv1"])
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("shapley_correlations")
    names = sizes.names("layers", layers, "L")
    importances = sizes.names("spearman", list(spearman), "M")
    if list(pearson) != list(spearman):
        raise ValueError(
            f"shapley_correlations: pearson must name {importances} like spearman, "
            f"got {list(pearson)}"
        )
    colors = ordered_colors(len(names))
    figure = new_figure(PAGE, 0.75 + 0.16 * len(importances) * (len(names) + 1))
    panels = figure.subplots(1, 2, sharey=True)
    measured = (("Spearman's ρ", spearman), ("Pearson's r", pearson))
    for axes, (measure, coefficients) in zip(panels, measured, strict=True):
        for row, (name, (r, band)) in enumerate(coefficients.items()):
            values = sizes.numbers(name, r, "L n")
            ends = sizes.band(name, band, "L")
            for k, color in enumerate(colors):
                y = row + 0.8 * ((k + 0.5) / len(names) - 0.5)
                one = Band(*(end[k] for end in ends))
                _draw_coefficients(axes, y, 0.3 / len(names), values[k], one, color)
        axes.axvline(0, color=INK, lw=0.6)
        axes.set(xlabel=f"{measure} with the Shapley values", xlim=(-1.04, 1.04))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(importances)), [literal_name(x) for x in importances])
    panels[0].set_ylim(len(importances) - 0.5, -0.5)
    panels[0].tick_params(axis="y", labelsize=8, length=0)
    handles = [
        Line2D(
            [], [], color=color, marker="o", ms=5, mec="white", mew=0.6, label=literal_name(name)
        )
        for name, color in zip(names, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(names), 6))
    return figure


def _draw_coefficients(
    axes: Axes, y: float, spread: float, values: Array, band: Band, color: Any
) -> None:
    """Draw the coefficients `[n]` of images around the height y, their mean and its interval."""
    good = values[np.isfinite(values)]
    mean, low, high = band
    if not good.size or not np.isfinite(mean):
        axes.text(0.02, y, "undefined", va="center", fontsize=6.5, color=MUTED)
        return
    # Up and down by the golden ratio, so that equal values lie apart, the same ones every time.
    offset = (np.arange(good.size) * 0.618034) % 1 - 0.5
    axes.scatter(good, y + spread * offset, s=3, color=[color], alpha=0.3, linewidths=0)
    axes.plot([low, high], [y, y], color=color, lw=2.2)
    axes.plot(mean, y, "o", color=color, ms=5, mec="white", mew=0.6, zorder=3)
    axes.annotate(
        signed_text(mean, plus=False),
        (mean, y),
        xytext=(0, 4.5),
        textcoords="offset points",
        ha="center",
        fontsize=6.5,
        color=INK,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.8},
    )


@styled
def shapley_maps(
    images: Any,
    values: Any,
    w: Any,
    spearman: Any,
    grid: tuple[int, int],
    labels: Any,
    categories: Sequence[str],
    *,
    columns: int = 3,
) -> Figure:
    """Show the Shapley values of regions and their importance w as maps beside each image (Fig. 5).

    Each map is scaled to the largest departure in its image: Shapley values from zero, w from a
    uniform one, whose largest departure is written above it.

    Args:
        images: in 0..1, `[n, 3, H', W']` or `[n, 1, H', W']`.
        values: Shapley values, `[n, R]`, finite.
        w: region importance, `[n, R]`, each row of sum 1.
        spearman: coefficient of the two, `[n]`, written above; NaN where it is undefined.
        grid: height and width of the map of regions, `R = H * W`.
        labels: true categories, `[n]`.
        categories: names, `[C]`.
        columns: images in a row.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> values, w = torch.randn(1, 4), torch.rand(1, 4).softmax(1)
        >>> figures.shapley_maps(
        ...     torch.rand(1, 3, 8, 8), values, w, [0.8], (2, 2), [0], ["cat", "dog"]
        ... )
        <ShownFigure size ... with 8 Axes>
    """
    sizes = Sizes("shapley_maps")
    pixels = as_pixels(sizes, images)
    phi = region_maps(sizes.numbers("values", values, "n R"), grid, sizes)
    share = region_maps(sizes.numbers("w", w, "n R") * sizes["R"], grid, sizes)
    share, most = by_largest(share - 1)
    phi, _ = by_largest(phi)
    rho = sizes.numbers("spearman", spearman, "n")
    names = sizes.names("categories", categories, "C")
    y = sizes.labels(labels, names, "n")
    layout = ImageGrid(sizes["n"], columns, 3, top=0.2, head=0.19, gap=0.04, between=0.16)
    figure = new_figure(PAGE, layout.bottom + 0.62, constrained=False)
    for column in range(min(columns, sizes["n"])):
        for k, meaning in enumerate(("image", "Shapley", "w")):
            name_column(figure, layout, column, k, meaning)
    for index in range(sizes["n"]):
        axes = layout.axes(figure, index)
        show_image(axes, pixels[index])
        write_above(axes, f"{display_name(names[y[index]], 16)}: {correlation_text(rho[index])}")
        for k, (map_, colors) in enumerate(((phi, "RdBu_r"), (share, "PuOr_r")), start=1):
            axes = layout.axes(figure, index, k)
            colored = axes.imshow(map_[index], cmap=colors, vmin=-1, vmax=1, aspect="auto")
            axes.axis("off")
            if index == 0:
                middle = PAGE * (2 * k - 1) / 4
                color_key(figure, colored, _SCALES[k - 1], middle, layout.bottom + 0.14, 2.5)
        percent = 100 * most[index]
        write_above(axes, f"± {percent:.0f} %" if percent >= 10 else f"± {percent:.2g} %")
    return figure
