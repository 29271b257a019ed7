"""Activations of a layer as a sorted grid, and how sparse the layers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.samples import checkpoint_name
from emergence_ext.figures.style import (
    INK,
    PAGE,
    PAPER,
    display_name,
    figure_note,
    literal_name,
    new_figure,
    ordered_colors,
    styled,
)
from emergence_ext.figures.tiles import open_page, put_image

_EDGE, _GAP, _TILE_GAP, _HEAD = 0.08, 0.07, 0.025, 0.2  # inches
_BELOW = np.array([0.95, 0.45, 0.0])  # orange


@styled
def activation_grid(
    images: Any,
    maps: Any,
    channels: Any,
    layer: str,
    total: int,
    *,
    names: Sequence[str] | None = None,
    rows: int = 3,
) -> Figure:
    """Show the channels of a layer that an image excites most, beside the image.

    All tiles of an image share one scale, so that the grid fades as the activations do. Values
    below zero, where a layer has them, are orange.

    Args:
        images: in 0..1, `[n, channels, H', W']`.
        maps: maps of the strongest channels, by falling peak, `[n, k, H, W]`.
        channels: their numbers, `[n, k]`.
        layer: its name.
        total: how many channels the layer has.
        names: what to write above each image, `[n]`.
        rows: of tiles beside an image.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> maps = torch.rand(1, 6, 4, 4)
        >>> figures.activation_grid(torch.rand(1, 3, 8, 8), maps, [range(6)], "conv1", total=64)
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("activation_grid")
    pixels = as_pixels(sizes, images)
    values = sizes.numbers("maps", maps, "n k H W")
    numbers = sizes.numbers("channels", channels, "n k").astype(int)
    titles = sizes.names("names", names, "n") if names is not None else [""] * sizes["n"]
    columns = -(-sizes["k"] // rows)
    side = 1.2
    tile = min((PAGE - 2 * _EDGE - side - 0.1) / columns, side / rows) - _TILE_GAP
    block = _HEAD + max(side, rows * (tile + _TILE_GAP)) + _GAP
    figure, page = open_page(PAGE, sizes["n"] * block + 0.38)
    for i, picture in enumerate(pixels):
        top = i * block + _HEAD
        put_image(page, picture, (_EDGE, top, side, side))
        page.text(_EDGE, top - 0.04, display_name(titles[i], 20), fontsize=7.5)
        scale = float(np.abs(values[i]).max()) or 1.0
        for place in range(sizes["k"]):
            row, column = divmod(place, columns)
            left = _EDGE + side + 0.1 + column * (tile + _TILE_GAP)
            upper = top + row * (tile + _TILE_GAP)
            put_image(page, _shaded(values[i, place], scale), (left, upper, tile, tile))
            page.text(
                left + 0.02, upper + 0.02, str(numbers[i, place]), va="top", fontsize=4,
                color=PAPER, bbox={"facecolor": INK, "alpha": 0.55, "lw": 0, "pad": 0.5},
            )  # fmt: skip
    figure_note(
        figure,
        f"{literal_name(layer)}: the {sizes['k']} of its {total} channels with the highest peak, "
        "row by row from the highest. Number: channel.\nBlack is 0, white the highest value on "
        "that image; brightness is the square root"
        + ("; orange is below 0." if values.min() < 0 else "."),
        0.06,
    )
    return figure


def _shaded(values: Array, scale: float) -> Array:
    """Return a map as a picture: black at zero, white at `scale`, orange below zero."""
    shade = np.sqrt(np.abs(values) / scale)  # most values are far below the highest
    above, below = np.where(values > 0, shade, 0), np.where(values < 0, shade, 0)
    return np.asarray(np.clip(above[..., None] + below[..., None] * _BELOW, 0, 1))


@styled
def layer_sparsity(
    zeros: Any, dead: Any, channels: Any, layers: Sequence[str], epochs: Sequence[Any]
) -> Figure:
    """Draw how much of each layer is zero, and how many of its filters never fire.

    Through training where there is more than one checkpoint, else by layer.

    Args:
        zeros: share of values that are zero, `[T, L]`.
        dead: filters that never fire, `[T, L]`.
        channels: filters of each layer, `[L]`.
        layers: names, `[L]`.
        epochs: names of the checkpoints, `[T]`; numbers are shown as "epoch n".

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.layer_sparsity(
        ...     [[0.5, 0.8]], [[0, 3]], [64, 128], ["conv1", "conv2"], ["epoch 10"]
        ... )
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("layer_sparsity")
    depths = [literal_name(x, 14) for x in sizes.names("layers", layers, "L")]
    times = [checkpoint_name(x) for x in sizes.names("epochs", epochs, "T")]
    share = 100 * sizes.numbers("zeros", zeros, "T L")
    count = sizes.numbers("channels", channels, "L")
    lost = 100 * sizes.numbers("dead", dead, "T L") / count
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, 2)
    for axes, values, title in zip(
        panels,
        (share, lost),
        ("Values that are zero, %", "Filters that never fire, %"),
        strict=True,
    ):
        axes.set_title(title)
        if sizes["T"] == 1:
            bars = axes.bar(range(len(depths)), values[0], color=ordered_colors(len(depths)))
            axes.bar_label(bars, [f"{x:.3g}" for x in values[0]], fontsize=6.5, padding=1)
            axes.set_xticks(range(len(depths)), depths)
            axes.grid(axis="x", visible=False)
        else:
            for k, color in enumerate(ordered_colors(len(depths))):
                axes.plot(values[:, k], "o-", color=color, ms=3, label=depths[k])
            axes.set_xticks(
                range(len(times)), times, rotation=30, ha="right", rotation_mode="anchor"
            )
        axes.set_ylim(0, max(1.0, 1.12 * float(values.max())))
    if sizes["T"] > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=min(len(depths), 6))  # fmt: skip
    return figure
