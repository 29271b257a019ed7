"""Accuracy as a function of what images are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from emergence_ext.figures.images import as_pixels, show_image
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    MUTED,
    PAGE,
    axes_note,
    inch_axes,
    literal_name,
    new_figure,
    styled,
)

_ACROSS = 3
_HEIGHT, _HEAD, _FOOT, _PICTURE = 1.25, 0.28, 0.36, 0.36  # inches, of and around a panel
_LEFT, _BETWEEN = 0.55, 0.2


class AttributePanel(NamedTuple):
    """One attribute: `B` groups of images, and some images from its least to its largest value.

    Attributes:
        names: of the groups, where the attribute is a word; else empty.
        spans: smallest and largest value of each group, `[B, 2]`, where it is a number.
        middle: their medians, `[B]`.
        accuracy: three arrays `[B]`, in 0..1.
        images: of each group, `[B]`.
        examples: `[k, channels, height, width]` in 0..1; None for none.

    Examples:
        >>> from emergence_ext import figures
        >>> share = figures.Band([0.9, 0.6], [0.8, 0.5], [1.0, 0.7])
        >>> panel = figures.AttributePanel(["day", "night"], None, [0, 1], share, images=[40, 25])
        >>> panel.names, panel.accuracy.value
        (['day', 'night'], [0.9, 0.6])
    """

    names: Sequence[str]
    spans: Any
    middle: Any
    accuracy: Band
    images: Any
    examples: Any = None


@styled
def accuracy_by_attribute(panels: Mapping[str, AttributePanel], overall: float) -> Figure:
    """Draw accuracy against attributes of images, a panel each, with intervals.

    A group's bar is its interval, and its line spans the values of its images; how many they are
    stands in the corner, or with the names. The line across is the accuracy of all images. Images
    under a panel show what its axis means, from the least value to the largest.

    Args:
        panels: name of an attribute -> its groups.
        overall: accuracy of all images, in 0..1.

    Raises:
        ValueError: no panel, or shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> share = figures.Band([0.9, 0.6], [0.8, 0.5], [1.0, 0.7])
        >>> panel = figures.AttributePanel(["day", "night"], None, [0, 1], share, [40, 25])
        >>> figures.accuracy_by_attribute({"light": panel}, overall=0.78)
        <ShownFigure size ... with 1 Axes>
    """
    titles = Sizes("accuracy_by_attribute").names("panels", list(panels), "panels")
    rows = -(-len(titles) // _ACROSS)
    across = min(len(titles), _ACROSS)
    width = (PAGE - _LEFT - 0.1 - (_ACROSS - 1) * _BETWEEN) / _ACROSS
    pictured = any(panel.examples is not None for panel in panels.values())
    step = _HEAD + _HEIGHT + _FOOT + (_PICTURE if pictured else 0)
    figure = new_figure(_LEFT + across * (width + _BETWEEN), rows * step + 0.1, constrained=False)
    lowest = min(float(np.min(panel.accuracy.low)) for panel in panels.values())
    bottom = max(0.0, np.floor(20 * min(lowest, overall) - 0.2) / 20)
    for index, (title, panel) in enumerate(panels.items()):
        row, column = divmod(index, _ACROSS)
        left, top = _LEFT + column * (width + _BETWEEN), row * step + _HEAD
        axes = inch_axes(figure, left, top, width, _HEIGHT)
        axes.axhline(overall, color=MUTED, lw=0.7, ls=(0, (4, 3)), zorder=0)
        _draw_groups(axes, panel)
        axes.set(title=literal_name(title, 32), ylim=(bottom, 1 + 0.15 * (1 - bottom)))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if column:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("accuracy")
        if panel.examples is not None:
            _draw_examples(figure, panel.examples, left, top + _HEIGHT + 0.26, width)
    return figure


def _draw_groups(axes: Axes, panel: AttributePanel) -> None:
    sizes = Sizes("accuracy_by_attribute")
    value, low, high = sizes.band("accuracy", panel.accuracy, "B")
    counts = sizes.numbers("images", panel.images, "B")
    if panel.names:
        names = sizes.names("names", panel.names, "B")
        x = np.arange(len(names), dtype=float)
        slanted = len(names) > 3
        labels = [f"{literal_name(n, 12)} ({c:.0f})" for n, c in zip(names, counts, strict=True)]
        axes.set_xticks(
            x,
            labels,
            rotation=30 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor",
            fontsize=6 if slanted else 7,
        )
        axes.set_xlim(-0.6, len(names) - 0.4)
    else:
        x = sizes.numbers("middle", panel.middle, "B")
        spans = sizes.numbers("spans", panel.spans, "B 2")
        axes.hlines(value, spans[:, 0], spans[:, 1], color=ACCENT, lw=1.0, alpha=0.5)
        axes.margins(x=0.04)
        few, many = f"{counts.min():.0f}", f"{counts.max():.0f}"
        count = f"{few} to {many}" if few != many else few
        axes_note(axes, f"{count} images a group", inside=True)
    axes.vlines(x, low, high, color=ACCENT, lw=1.8, alpha=0.45)
    axes.plot(x, value, "o", color=ACCENT, ms=4, mec="white", mew=0.5)


def _draw_examples(figure: Figure, images: Any, left: float, top: float, width: float) -> None:
    pixels: Array = as_pixels(Sizes("accuracy_by_attribute"), images)
    side = min(_PICTURE - 0.02, width / len(pixels) - 0.03)
    gap = (width - side) / max(1, len(pixels) - 1)
    for k, picture in enumerate(pixels):
        show_image(inch_axes(figure, left + k * gap, top, side, side), picture)
