"""How similar the categories are to the network, by the angles of their directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.inputs import Array, Sizes, plain
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    display_name,
    new_figure,
    readable_on,
    signed_text,
    styled,
)

_VALUES_UP_TO = 16  # categories; beyond that the numbers would be too small to read


@styled
def category_similarity(
    cosines: Any, categories: Sequence[str], *, shown: Any | None = None, pairs: int = 6
) -> Figure:
    """Draw the cosines of the category directions as a map and list the nearest pairs.

    Args:
        cosines: cos(mu_c, mu_c'), `[C, C]`, symmetric, in -1..1.
        categories: names, `[C]`.
        shown: numbers of the categories that the map holds, `[c]`; None: all.
        pairs: so many of the nearest pairs, of all categories, are listed.

    Raises:
        ValueError: no square matrix of C rows, or values outside -1..1.

    Examples:
        >>> from emergence_ext import figures
        >>> cosines = [[1.0, 0.8, -0.5], [0.8, 1.0, -0.4], [-0.5, -0.4, 1.0]]
        >>> figures.category_similarity(cosines, ["cat", "dog", "bus"], pairs=1)
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("category_similarity")
    names = [display_name(c) for c in sizes.names("categories", categories, "C")]
    values = sizes.numbers("cosines", cosines, "C C")
    if (np.abs(values) > 1 + 1e-4).any():
        raise ValueError(
            f"category_similarity: cosines must lie in -1..1, got {np.nanmax(np.abs(values)):.3g}"
        )
    chosen = np.arange(len(names)) if shown is None else plain(shown)
    mapped, part = [names[c] for c in chosen], values[np.ix_(chosen, chosen)]
    count = len(mapped)
    side = min(max(0.29 * count, 1.6), 4.4)
    figure = new_figure(PAGE, side + 1.15)
    axes, beside = figure.subplots(1, 2, width_ratios=(2.2, 1))
    # Only one half is drawn: the matrix is symmetric and its diagonal says nothing.
    lower = np.where(np.tri(count, k=-1, dtype=bool), part, np.nan)[1:, :-1]
    if count == 1:
        lower = part
    image = axes.imshow(lower, cmap="PuOr_r", vmin=-1, vmax=1)
    across, down = (mapped, mapped) if count == 1 else (mapped[:-1], mapped[1:])
    axes.set_xticks(range(len(across)), across, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), down)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if count <= _VALUES_UP_TO:
        for row, column in np.argwhere(np.isfinite(lower)):
            value = lower[row, column]
            axes.text(
                column,
                row,
                signed_text(value),
                ha="center",
                va="center",
                fontsize=6,
                color=readable_on(image.cmap(image.norm(value))),
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("cosine")
    bar.ax.grid(False)
    _list_pairs(beside, _nearest(values, pairs), names, side)
    return figure


def _list_pairs(
    beside: Axes, pairs: Sequence[tuple[float, int, int]], names: Sequence[str], side: float
) -> None:
    """Write the pairs into the axes of `side` inches: on one line each, if all are short."""
    beside.axis("off")
    beside.set_title("Nearest pairs")
    short = all(len(names[a]) + len(names[b]) <= 16 for _, a, b in pairs)
    step = 0.2 if short else 0.38
    for line, (value, first, second) in enumerate(pairs):
        words = (signed_text(value), names[first], names[second])
        for x, text, color in (
            (0, words[0], MUTED),
            (0.2, f"{words[1]}, {words[2]}" if short else f"{words[1]},\n{words[2]}", INK),
        ):
            beside.text(
                x,
                0.97 - step * line / side,
                text,
                transform=beside.transAxes,
                va="top",
                fontsize=7.5,
                linespacing=1.25,
                color=color,
            )


def _nearest(values: Array, most: int) -> list[tuple[float, int, int]]:
    """Return pairs of different categories, the most similar first; NaN is left out."""
    rows, columns = np.triu_indices(len(values), 1)
    cosines = values[rows, columns]
    order = np.lexsort((-columns, -rows, -cosines))
    order = order[np.isfinite(cosines[order])][:most]
    return [(float(cosines[i]), int(rows[i]), int(columns[i])) for i in order]
