"""Shapley values of regions: on the images, and beside other importances (Fig. 5, 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emergence_ext.figures.images import as_pixels, region_maps, show_image
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    PAPER,
    display_name,
    inch_axes,
    literal_name,
    new_figure,
    ordered_colors,
    signed_text,
    styled,
)

_EDGE, _GAP, _BETWEEN = 0.05, 0.04, 0.16  # inches: page, image to map, block to block
_HEAD = 0.19  # inches above the images, for names
_SCALES = (
    "Shapley value, in shares of the image's largest",
    "w less a uniform one, in shares of the % above the map",
)
_TOP = 0.2  # inches above the first row, for what stands in the columns


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
    """
    sizes = Sizes("shapley_correlations")
    shown = sizes.names("layers", layers, "L")
    measures = sizes.names("spearman", list(spearman), "M")
    if list(pearson) != list(spearman):
        raise ValueError(
            f"shapley_correlations: pearson must name {measures} like spearman, got {list(pearson)}"
        )
    colors = ordered_colors(len(shown))
    figure = new_figure(PAGE, 0.75 + 0.16 * len(measures) * (len(shown) + 1))
    panels = figure.subplots(1, 2, sharey=True)
    found = (("Spearman's ρ", spearman), ("Pearson's r", pearson))
    for axes, (told, coefficients) in zip(panels, found, strict=True):
        for row, (name, (r, band)) in enumerate(coefficients.items()):
            values = sizes.numbers(name, r, "L n")
            ends = [
                sizes.numbers(f"{name}, {end}", getattr(band, end), "L")
                for end in ("value", "low", "high")
            ]
            for k in range(len(shown)):
                y = row + 0.8 * ((k + 0.5) / len(shown) - 0.5)
                _coefficients(
                    axes, y, 0.3 / len(shown), values[k], [float(end[k]) for end in ends], colors[k]
                )
        axes.axvline(0, color=INK, lw=0.6)
        axes.set(xlabel=f"{told} with the Shapley values", xlim=(-1.04, 1.04))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(measures)), [literal_name(name) for name in measures])
    panels[0].set_ylim(len(measures) - 0.5, -0.5)
    panels[0].tick_params(axis="y", labelsize=8, length=0)
    handles = [
        Line2D(
            [], [], color=color, marker="o", ms=5, mec="white", mew=0.6, label=literal_name(name)
        )
        for name, color in zip(shown, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(shown), 6))
    return figure


def _coefficients(
    axes: Axes, y: float, spread: float, values: Array, band: list[float], color: Any
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
    """
    sizes = Sizes("shapley_maps")
    pixels = as_pixels(sizes, images)
    phi = region_maps(sizes.numbers("values", values, "n R"), grid, sizes)
    share = region_maps(sizes.numbers("w", w, "n R") * sizes["R"], grid, sizes)
    share, most = _departures(share - 1)
    phi, _ = _departures(phi)
    rho = sizes.numbers("spearman", spearman, "n")
    names = sizes.names("categories", categories, "C")
    y = sizes.labels(labels, names, "n")
    block = (PAGE - 2 * _EDGE - _BETWEEN * (columns - 1)) / columns
    side = (block - 2 * _GAP) / 3
    rows = -(-sizes["n"] // columns)
    figure = new_figure(PAGE, _TOP + rows * (side + _HEAD) + 0.62, constrained=False)
    for column in range(min(columns, sizes["n"])):
        for k, told in enumerate(("image", "Shapley", "w")):
            left = _EDGE + column * (block + _BETWEEN) + k * (side + _GAP)
            axes = inch_axes(figure, left, 0, side, _TOP)
            axes.text(0, 0.1, told, va="bottom", fontsize=7, color=MUTED)
            axes.axis("off")
    for index in range(sizes["n"]):
        row, column = divmod(index, columns)
        left = _EDGE + column * (block + _BETWEEN)
        top = _TOP + row * (side + _HEAD) + _HEAD
        axes = inch_axes(figure, left, top, side, side)
        show_image(axes, pixels[index])
        told = f"ρ = {signed_text(rho[index])}" if np.isfinite(rho[index]) else "ρ undefined"
        _title(axes, f"{display_name(names[y[index]], 16)}: {told}")
        for k, (map_, colors) in enumerate(((phi, "RdBu_r"), (share, "PuOr_r")), start=1):
            axes = inch_axes(figure, left + k * (side + _GAP), top, side, side)
            drawn = axes.imshow(map_[index], cmap=colors, vmin=-1, vmax=1, aspect="auto")
            axes.axis("off")
            if index == 0:
                lower = _TOP + rows * (side + _HEAD) + 0.14
                bar = inch_axes(figure, PAGE * (2 * k - 1) / 4 - 1.25, lower, 2.5, 0.09)
                figure.colorbar(drawn, cax=bar, orientation="horizontal")
                bar.set_xlabel(_SCALES[k - 1])
                bar.grid(False)
        percent = 100 * most[index]
        _title(axes, f"± {percent:.0f} %" if percent >= 10 else f"± {percent:.2g} %")
    return figure


def _departures(maps: Array) -> tuple[Array, Array]:
    """Return maps `[n, H, W]` divided by their largest absolute value, and that, `[n]`."""
    largest = np.abs(maps).max(axis=(1, 2))
    return maps / np.where(largest > 0, largest, 1)[:, None, None], largest


def _title(axes: Axes, text: str) -> None:
    axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=7, va="bottom")
