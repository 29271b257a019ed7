"""A network beside people: confusions, agreement, and the images that they see apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, show_image
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    PAGE,
    display_name,
    inch_axes,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, Place, write_above

_NUMBERED = 12  # categories or raters up to which cells hold their numbers
_BARS = 3  # categories that are told of an image


@styled
def confusions(confusion: Any, titles: Sequence[str], categories: Sequence[str]) -> Figure:
    """Draw confusion matrices side by side: what is said, by true category.

    Args:
        confusion: counts, true categories by rows, `[panels, C, C]`.
        titles: of the panels.
        categories: names, `[C]`.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> confusion = [[[8, 2], [1, 9]], [[9, 1], [0, 10]]]
        >>> figures.confusions(confusion, ["network", "Ann"], ["cat", "dog"])
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("confusions")
    names = sizes.names("categories", categories, "C")
    heads = sizes.names("titles", titles, "panels")
    counts = sizes.numbers("confusion", confusion, "panels C C")
    total = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    figure = new_figure(PAGE, 0.9 + (PAGE - 1.2) / len(heads))
    panels = figure.subplots(1, len(heads), squeeze=False, sharey=True)[0]
    ticks = [display_name(name, 12) for name in names]
    for axes, title, share, count in zip(panels, heads, shares, counts, strict=True):
        colored = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(literal_name(title, 40))
        axes.set_xticks(range(len(names)), ticks, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), ticks)
        axes.set_xlabel("says")
        axes.grid(False)
        if len(names) <= _NUMBERED:
            _write_cells(axes, share, [[f"{c:.0f}" if c else "" for c in row] for row in count])
    panels[0].set_ylabel("true category")
    bar = figure.colorbar(colored, ax=list(panels), shrink=0.7, pad=0.01, aspect=30)
    bar.set_label("share of the true category")
    return figure


@styled
def agreement(cohen: Any, raters: Sequence[str]) -> Figure:
    """Draw Cohen's kappa of all pairs of raters.

    Args:
        cohen: `[raters, raters]`, NaN where it is undefined.
        raters: names; the first is the network.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.agreement([[1.0, 0.7], [0.7, 1.0]], ["network", "Ann"])
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("agreement")
    names = [literal_name(name, 16) for name in sizes.names("raters", raters, "A")]
    kappa = sizes.numbers("cohen", cohen, "A A")
    side = min(PAGE, 1.9 + 0.32 * len(names))
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    colored = axes.imshow(kappa, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Cohen's kappa")
    axes.grid(False)
    if len(names) <= _NUMBERED:
        text = [[f"{k:.2f}".replace("-", "\u2212") if k == k else "" for k in row] for row in kappa]
        _write_cells(axes, np.abs(kappa), text)
    figure.colorbar(colored, ax=axes, shrink=0.7)
    return figure


@styled
def seen_apart(
    images: Any,
    p: Any,
    votes: Any,
    distance: Any,
    labels: Any,
    categories: Sequence[str],
    *,
    columns: int = 3,
) -> Figure:
    """Show images with what the network and what people say of them.

    Bars tell the categories that either holds most likely, the network's probability above the
    share of the people's votes.

    Args:
        images: in 0..1, `[n, 3, height, width]` or `[n, 1, height, width]`.
        p: probabilities of the network, `[n, C]`.
        votes: how many people said each category, `[n, C]`, at least one an image.
        distance: between both, written above, `[n]`.
        labels: true categories, `[n]`.
        categories: names, `[C]`.
        columns: images in a row.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> p, votes = [[0.9, 0.1]], [[1, 4]]
        >>> figures.seen_apart(torch.rand(1, 3, 8, 8), p, votes, [0.7], [0], ["cat", "dog"])
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("seen_apart")
    names = sizes.names("categories", categories, "C")
    pixels = as_pixels(sizes, images)
    sure = sizes.numbers("p", p, "n C")
    voted = sizes.numbers("votes", votes, "n C")
    shares = voted / voted.sum(axis=1, keepdims=True)
    apart = sizes.numbers("distance", distance, "n")
    y = sizes.labels(labels, names, "n")
    layout = ImageGrid(sizes["n"], columns, head=0.2, largest=0.95)
    figure = new_figure(PAGE, layout.bottom + 0.3, constrained=False)
    for index in range(sizes["n"]):
        axes = layout.axes(figure, index)
        show_image(axes, pixels[index])
        title = f"{display_name(names[y[index]], 18)}: apart by {apart[index]:.2f}"
        write_above(axes, title)
        left, top, side, _ = layout.place(index)
        place = (left + side + 0.06, top, layout.block - side - 0.15, side)
        _draw_bars(figure, sure[index], shares[index], names, place)
    axes = inch_axes(figure, 0.05, layout.bottom + 0.04, PAGE - 0.1, 0.22)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    for x, color, text in ((0.0, ACCENT, "network, p"), (0.16, CONTRAST, "people, share of votes")):
        axes.plot([x, x + 0.02], [0.5, 0.5], color=color, lw=4, solid_capstyle="butt")
        axes.text(x + 0.028, 0.5, text, va="center", fontsize=7)
    return figure


def _draw_bars(figure: Figure, p: Array, shares: Array, names: Sequence[str], place: Place) -> None:
    """Draw the likeliest categories of both as bars."""
    first = [int(p.argmax()), int(shares.argmax())]
    rest = np.argsort(-(p + shares), kind="stable").tolist()
    chosen = [c for c in dict.fromkeys([*first, *rest]) if p[c] + shares[c] > 0.005][:_BARS]
    axes = inch_axes(figure, *place)
    axes.set(xlim=(0, 1.28), ylim=(_BARS, 0))
    axes.axis("off")
    for k, c in enumerate(chosen):
        axes.text(0, k + 0.33, display_name(names[c], 20), va="bottom", fontsize=6.5, color=INK)
        for y, value, color in ((k + 0.5, p[c], ACCENT), (k + 0.74, shares[c], CONTRAST)):
            axes.barh(y, value, 0.2, color=color)
            axes.text(value + 0.02, y, f"{value:.2f}", va="center", fontsize=5.5, color=MUTED)


def _write_cells(axes: Any, dark: Array, text: list[list[str]]) -> None:
    """Write a text into each cell, white where the cell is dark."""
    for i, line in enumerate(text):
        for j, word in enumerate(line):
            color = "white" if dark[i, j] > 0.6 else INK
            axes.text(j, i, word, ha="center", va="center", fontsize=6, color=color)
