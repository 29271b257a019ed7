"""How far the regions of students are from their teacher's: direction and strength (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    INK,
    LEGEND_ROW,
    PAGE,
    axes_note,
    category_style,
    literal_name,
    new_figure,
    signed_text,
    styled,
)

_BINS = 48
_SHARE = 0.995  # of the regions lie within the axes; the rest goes to the outermost bins
_LINES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1, 1.2)))


@styled
def student_regions(orientation: Any, strength: Any, students: Sequence[str], layer: str) -> Figure:
    """Draw histograms of 1 - cos(h_student, h_teacher) and |h_student| - |h_teacher| (Fig. 9).

    Args:
        orientation: `1 - cos` of the regions of each student, `[S, N, R]` in 0..2; NaN where a
            region has no direction, counted in a note.
        strength: signed difference of strengths, `[S, N, R]`.
        students: names, `[S]`.
        layer: whose regions they are.

    Raises:
        ValueError: shapes that do not fit, an empty array, or no finite value at all.

    Examples:
        >>> from emergence_ext import figures
        >>> turned, stronger = torch.rand(2, 5, 4), torch.randn(2, 5, 4)
        >>> figures.student_regions(turned, stronger, ["dropout 0.1", "dropout 0.5"], "conv5_3")
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("student_regions")
    names = [literal_name(x, 20) for x in sizes.names("students", students, "S")]
    turned = sizes.numbers("orientation", orientation, "S N R").reshape(len(names), -1)
    longer = sizes.numbers("strength", strength, "S N R").reshape(len(names), -1)
    for name, values in (("orientation", turned), ("strength", longer)):
        if not np.isfinite(values).any():
            raise ValueError(f"student_regions: {name} holds no finite value: nothing to draw")
    figure = new_figure(PAGE, 2.8 + LEGEND_ROW * (len(names) // 2 + 1))
    left, right = figure.subplots(1, 2)
    depth = literal_name(layer, 20)
    left.set_title(f"Direction of regions, {depth}")
    left.set_xlabel("1 − cos(h of student, h of teacher)")
    left.set_ylabel("share of regions")
    reach = min(2.0, float(np.nanquantile(turned, _SHARE))) or 2.0
    _draw_histograms(left, turned, np.linspace(0, reach, _BINS + 1))
    right.set_title(f"Strength of regions, {depth}")
    right.set_xlabel("|h of student| − |h of teacher|")
    reach = float(np.nanquantile(np.abs(longer), _SHARE)) or 1.0
    _draw_histograms(right, longer, np.linspace(-reach, reach, _BINS + 1))
    right.axvline(0, color=INK, lw=0.6)
    means = [[_mean(row) for row in values] for values in (turned, longer)]
    figure.legend(
        left.patches[1::2],
        [f"{name}: {a}, {b}" for name, a, b in zip(names, *means, strict=True)],
        loc="outside lower center",
        ncols=2,
        title="mean of 1 − cos, and of the difference in strength",
        title_fontsize=7,
    )
    return figure


def _mean(values: Array) -> str:
    """The mean of the finite values as it is written."""
    good = values[np.isfinite(values)]
    return signed_text(float(good.mean()), plus=False) if good.size else "of none"


def _draw_histograms(axes: Axes, values: Array, edges: Array) -> None:
    """Draw one histogram for every row of `[S, n]`; what lies beyond goes to the outermost bins."""
    bins = edges.tolist()
    for index, row in enumerate(values):
        good = row[np.isfinite(row)]
        color = category_style(index).color
        share = np.full(good.size, 1 / max(good.size, 1))
        inside = good.clip(edges[0], edges[-1])
        axes.hist(inside, bins, weights=share, histtype="stepfilled", color=color, alpha=0.15)
        line = _LINES[index % len(_LINES)]
        axes.hist(inside, bins, weights=share, histtype="step", color=color, ls=line, lw=1.2)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    missing = int((~np.isfinite(values)).sum())
    remarks = [f"regions without direction, left out: {missing:,}"] if missing else []
    if (values < edges[0]).any() or (values > edges[-1]).any():
        remarks.append("bars at the ends hold what lies beyond")
    if remarks:
        axes.set_ylim(top=1.12 * axes.get_ylim()[1])
        axes_note(axes, "; ".join(remarks), inside=True)
