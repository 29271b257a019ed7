"""What the correlation of strength with importance depends on (Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    FAINT,
    MUTED,
    PAGE,
    literal_name,
    new_figure,
    styled,
)

_ROW = 0.185  # inches
_COLUMNS = 2


@styled
def ablation(
    r: Band,
    raw_r: Any,
    factors: Sequence[str],
    levels: Sequence[str],
    default: Any,
    *,
    published: Sequence[float] = (),
) -> Figure:
    """Draw the mean Pearson of |h| with w at each level of each factor, and |F| beside it.

    Args:
        r: mean over samples and the ends of its interval, three arrays `[V]`; NaN where there is
            no fit.
        raw_r: mean of the same for |F|, `[V]`.
        factors: what is varied, `[V]`; equal ones stand in one panel.
        levels: to what, `[V]`.
        default: whether a level is the default of its factor, `[V]`.
        published: means that the paper prints for its networks, drawn as a band.

    Raises:
        ValueError: shapes that do not fit, or an empty array.

    Examples:
        >>> from emergence_ext import figures
        >>> r = figures.Band([0.5, 0.6], [0.4, 0.5], [0.6, 0.7])
        >>> figures.ablation(r, [0.2, 0.3], ["alpha", "alpha"], ["0", "0.1"], [False, True])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("ablation")
    which = sizes.names("factors", factors, "V")
    labels = [literal_name(x, 18) for x in sizes.names("levels", levels, "V")]
    value, low, high = sizes.band("r", r, "V")
    raw = sizes.numbers("raw_r", raw_r, "V")
    usual = sizes.flags("default", default, "V")
    panels = list(dict.fromkeys(which))
    rows = [[i for i, name in enumerate(which) if name == panel] for panel in panels]
    split = _split([len(row) + 1 for row in rows])
    columns = [rows[:split], rows[split:]] if split < len(rows) else [rows]
    tallest = max(sum(len(row) for row in column) for column in columns)
    most = max(len(column) for column in columns)
    figure = new_figure(
        PAGE if len(columns) > 1 else 0.6 * PAGE, _ROW * tallest + 0.32 * most + 0.85
    )
    everything = np.concatenate([x[np.isfinite(x)] for x in (low, high, value, raw)])
    ends = [*everything.tolist(), *published, 0.0]
    limits = (min(ends) - 0.03, max(ends) + 0.03)
    # The panels of both columns are as wide only nearly: ticks of their own would differ.
    ticks = [t for t in MaxNLocator(5).tick_values(*limits) if limits[0] <= t <= limits[1]]
    for place, column in zip(
        figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True
    ):
        grid = place.subplots(
            len(column), 1, squeeze=False, sharex=True, height_ratios=[len(x) for x in column]
        )[:, 0]
        for axes, row in zip(grid, column, strict=True):
            axes.set_title(literal_name(which[row[0]], 40))
            _draw_factor(axes, np.stack([value, low, high, raw])[:, row], usual[row], published)
            axes.set_yticks(range(len(row)), [labels[i] for i in row])
            axes.set_ylim(len(row) - 0.4, -0.6)
            axes.set_xticks(ticks)
            axes.set_xlim(*limits)
            for label, i in zip(axes.get_yticklabels(), row, strict=True):
                label.set_fontweight("bold" if usual[i] else "normal")
        grid[-1].set_xlabel("mean Pearson's r of strength and w")
    _legend(figure, bool(len(published)))
    return figure


def _split(heights: Sequence[int]) -> int:
    """Return how many panels stand in the left column so that both are about as high."""
    half = sum(heights) / _COLUMNS
    return int(np.argmin([abs(sum(heights[:k]) - half) for k in range(1, len(heights) + 1)])) + 1


def _draw_factor(axes: Axes, r: Array, usual: Array, published: Sequence[float]) -> None:
    """Draw the levels of one factor, r `[4, levels]`: mean, ends, |F|."""
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    if len(published):
        axes.axvspan(min(published), max(published), color=FAINT, lw=0, zorder=0)
    axes.axvline(0, color=MUTED, lw=0.6)
    for value in r[0, usual & np.isfinite(r[0])]:
        axes.axvline(value, color=ACCENT, lw=0.7, ls=":")
    for row, (value, low, high, raw) in enumerate(r.T):
        if not np.isfinite(value):
            axes.text(0.02, row, "no fit", va="center", fontsize=6.5, color=MUTED)
            continue
        axes.plot([low, high], [row, row], color=ACCENT, lw=1.5, zorder=3)
        axes.plot(value, row, "o", ms=4.4, color=ACCENT, zorder=4)
        axes.plot(raw, row, "D", ms=3.8, mfc="none", mec=CONTRAST, mew=1.0, zorder=5)


def _legend(figure: Figure, has_band: bool) -> None:
    handles: list[Any] = [
        Line2D([], [], color=ACCENT, marker="o", ms=4.4, lw=1.5),
        Line2D([], [], color=CONTRAST, marker="D", ms=3.8, mfc="none", linestyle=""),
    ]
    labels = ["projected |h|, mean and 95 % interval over images (bold: default)", "raw |F|"]
    if has_band:
        handles.append(Patch(color=FAINT))
        labels.append("the paper's networks")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
