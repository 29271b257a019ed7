"""Filters of convolutions: of the first layer as images, of later ones as signed grey tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    CONTRAST,
    MUTED,
    PAGE,
    figure_note,
    literal_name,
    signed_text,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, open_page, put_image

_EDGE, _GAP = 0.08, 0.06  # inches


@styled
def first_filters(weight: Any, smoothness: Any, noisy: Any, layer: str) -> Figure:
    """Show the filters of the first convolution as images, the smoothest first.

    One scale holds for all: mid-grey is 0, and the largest weight of all reaches black or white.

    Args:
        weight: `[K, channels, h, w]`; one or three channels are shown as grey or RGB, of another
            number the mean.
        smoothness: score of each filter, `[K]`, NaN where it has none.
        noisy: filters that are flagged, `[K]`.
        layer: name of the convolution.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> weight = torch.randn(4, 3, 5, 5)
        >>> figures.first_filters(
        ...     weight, [0.9, 0.8, 0.7, 0.1], [False, False, False, True], "conv1"
        ... )
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("first_filters")
    values = sizes.numbers("weight", weight, "K channels h w")
    score = sizes.numbers("smoothness", smoothness, "K")
    flagged = sizes.flags("noisy", noisy, "K")
    if sizes["channels"] not in (1, 3):
        values = values.mean(axis=1, keepdims=True)
    tiles = _signed(values, float(np.abs(values).max())).transpose(0, 2, 3, 1)
    tiles = np.repeat(tiles, 3, axis=3) if tiles.shape[3] == 1 else tiles
    columns = 16 if len(tiles) > 32 else 12 if len(tiles) > 16 else 8
    layout = ImageGrid(len(tiles), columns, edges=(_EDGE, _EDGE), top=_EDGE, foot=0.2, between=_GAP)
    figure, page = open_page(PAGE, layout.bottom + 0.36)
    for rank, k in enumerate(np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")):
        left, top, side, _ = place = layout.place(rank)
        put_image(page, tiles[k], place)
        if flagged[k]:
            page.add_patch(
                Rectangle((left, top), side, side, fill=False, ls="--", color=CONTRAST, lw=1.2)
            )
        text = "" if np.isnan(score[k]) else signed_text(score[k], plus=False)
        under: dict[str, Any] = {"y": top + side + 0.03, "va": "top", "fontsize": 5.5}
        page.text(left, s=f"{k}", **under)
        color = CONTRAST if flagged[k] else MUTED
        page.text(left + side, s=text, ha="right", color=color, **under)
    figure_note(
        figure,
        f"{literal_name(layer)}: {sizes['K']} filters of {sizes['h']} x {sizes['w']}, one scale "
        f"for all, grey is 0. Left the number, right the smoothness: 0 is noise, 1 the smoothest.\n"
        f"Dashed: no smoother than noise ({int(flagged.sum())}).",
        0.06,
    )
    return figure


@styled
def deep_filters(
    weight: Any, rows: Any, columns: Any, layer: str, total: tuple[int, int]
) -> Figure:
    """Show filters of a later convolution as grey tiles, a row for a filter, with their sign.

    Args:
        weight: `[n, m, h, w]`, of some filters, each on some of its input channels.
        rows: numbers of the filters, `[n]`.
        columns: numbers of the input channels, `[n, m]`.
        layer: name of the convolution.
        total: how many filters and input channels it has.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> weight = torch.randn(2, 3, 3, 3)
        >>> figures.deep_filters(weight, [0, 5], [[0, 1, 2], [3, 4, 5]], "conv2", total=(64, 32))
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("deep_filters")
    values = sizes.numbers("weight", weight, "n m h w")
    numbers = sizes.numbers("rows", rows, "n").astype(int)
    inputs = sizes.numbers("columns", columns, "n m").astype(int)
    tiles = _signed(values, float(np.quantile(np.abs(values), 0.999)))
    layout = ImageGrid(
        sizes["n"], cells=sizes["m"], edges=(0.32, _EDGE), top=_EDGE, foot=0.15, gap=_GAP,
        largest=0.42,
    )  # fmt: skip
    figure, page = open_page(PAGE, layout.bottom + 0.38)
    for i, j in np.ndindex(*inputs.shape):
        left, top, side, _ = place = layout.place(i, j)
        put_image(page, tiles[i, j], place)
        page.text(left, top + side + 0.02, str(inputs[i, j]), va="top", color=MUTED, fontsize=5)
        if j == 0:
            page.text(
                left - 0.05, top + side / 2, str(numbers[i]), ha="right", va="center", fontsize=6.5
            )
    figure_note(
        figure,
        f"{literal_name(layer)}: {sizes['n']} of {total[0]} filters (rows), the strongest by norm, "
        f"each on {sizes['m']} of its {total[1]} input channels (numbers), again the strongest.\n"
        "Grey is 0, white excites, black inhibits; one scale for all.",
        0.06,
    )
    return figure


def _signed(values: Array, scale: float) -> Array:
    """Return weights as grey in 0..1 with 0 in the middle."""
    return np.asarray(np.clip(0.5 + 0.5 * values / (scale or 1.0), 0, 1))
