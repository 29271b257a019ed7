"""How fast, how simultaneously and how straight knowledge points are learned, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from emergence_ext.figures.inputs import Band, Sizes
from emergence_ext.figures.knowledge import name_steps
from emergence_ext.figures.style import (
    PAGE,
    category_style,
    literal_name,
    new_figure,
    ordered_colors,
    styled,
)


@styled
def learning_speed(
    epoch: Band,
    spread: Any,
    kept: Band,
    networks: Sequence[str],
    layers: Sequence[str],
) -> Figure:
    """Draw when the points of an image are there, how far images differ in it, and what is kept.

    Args:
        epoch: mean over images of the epoch at which an image has most points, three arrays
            `[S, L]`; NaN without points.
        spread: its standard deviation over images, `[S, L]`.
        kept: share of the points that ever were there that is at the end, three arrays `[S, L]`.
        networks: their names, `[S]`.
        layers: names of the layers from input to output, `[L]`.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> epoch, kept = figures.Band(*torch.rand(3, 1, 2)), figures.Band(*torch.rand(3, 1, 2))
        >>> figures.learning_speed(epoch, [[1.0, 2.0]], kept, ["vgg16"], ["conv1", "conv2"])
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("learning_speed")
    names = [literal_name(x) for x in sizes.names("networks", networks, "S")]
    depths = [literal_name(x, 16) for x in sizes.names("layers", layers, "L")]
    wide = sizes.numbers("spread", spread, "S L")
    panels = {
        "Epoch of most points, mean": sizes.band("epoch", epoch, "S L"),
        "Its deviation over images": (wide, wide, wide),
        "Points kept to the end": sizes.band("kept", kept, "S L"),
    }
    figure = new_figure(PAGE, 2.5)
    steps = np.arange(len(depths))
    for axes, (title, (value, low, high)) in zip(
        figure.subplots(1, 3), panels.items(), strict=True
    ):
        axes.set_title(title)
        for line, color in enumerate(ordered_colors(len(names))):
            at = steps + 0.06 * (line - (len(names) - 1) / 2)
            marker = category_style(line).marker
            axes.vlines(at, low[line], high[line], color=color, lw=1)
            axes.plot(at, value[line], color=color, marker=marker, ms=3.8, label=names[line])
        # From 0 on, which a margin of the range of the values alone does not know.
        axes.set_ylim(0, 1.1 * np.nanmax([*high.flat, 0.0]) or 1)
        name_steps(axes, depths, PAGE / 3 - 0.5)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(names) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 4))
    return figure
