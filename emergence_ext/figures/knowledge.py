"""Counts of knowledge points through training, through the layers and over tau (Fig. 6 left)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.samples import checkpoint_name
from emergence_ext.figures.style import (
    MUTED,
    PAGE,
    category_style,
    literal_name,
    new_figure,
    ordered_colors,
    styled,
)

_RATIO = "Reliable ratio"


@styled
def knowledge_curves(
    total: Band,
    reliable: Band,
    ratio: Band,
    epochs: Sequence[Any],
    layers: Sequence[str],
    *,
    shared: Band | None = None,
    along: Literal["epochs", "layers"] = "epochs",
    lines: str | None = None,
) -> Figure:
    """Draw counts of knowledge points and the reliable ratio with intervals (Fig. 6 left).

    Args:
        total: number of knowledge points, three arrays `[T, L]`.
        reliable: number of reliable ones, three arrays `[T, L]`.
        ratio: reliable / all, three arrays `[T, L]` in 0..1; NaN where there are no points, drawn
            as a gap with a cross on the axis.
        epochs: names of the checkpoints, `[T]`.
        layers: names of the layers from input to output, `[L]`.
        shared: number of regions that several categories share, three arrays `[T, L]`.
        along: the horizontal axis; every line is one layer ("epochs") or one checkpoint ("layers").
        lines: what a line is, where it is something else than a layer or a checkpoint.

    Raises:
        ValueError: shapes that do not fit, or another word for `along`.

    Examples:
        >>> from emergence_ext import figures
        >>> total = figures.Band([[0, 2], [8, 6]], [[0, 1], [7, 5]], [[1, 3], [9, 7]])
        >>> ratio = figures.Band(*torch.rand(3, 2, 2))
        >>> figures.knowledge_curves(total, total, ratio, epochs=[0, 10], layers=["conv1", "conv2"])
        <ShownFigure size ... with 3 Axes>
    """
    if along not in ("epochs", "layers"):
        raise ValueError(f"knowledge_curves: along must be 'epochs' or 'layers', got {along!r}")
    sizes = Sizes("knowledge_curves")
    names = sizes.names("epochs", epochs, "T")
    times = [checkpoint_name(e) if lines is None else literal_name(e) for e in names]
    depths = [literal_name(x, 16) for x in sizes.names("layers", layers, "L")]
    quantities = {"Knowledge points": total, "Reliable points": reliable, _RATIO: ratio}
    if shared is not None:
        quantities["Shared regions"] = shared
    columns = 2 if shared is not None else 3
    figure = new_figure(PAGE, 4.3 if shared is not None else 2.5)
    ticks, named = (times, depths) if along == "epochs" else (depths, times)
    panels = figure.subplots(-(-len(quantities) // columns), columns, squeeze=False).ravel()
    for axes, (title, band) in zip(panels, quantities.items(), strict=True):
        value, low, high = sizes.band(title, band, "T L")
        if along == "layers":
            value, low, high = value.T, low.T, high.T
        axes.set_title(title)
        _draw_bands(axes, value, low, high, counts=title != _RATIO)
        name_steps(axes, ticks, PAGE / columns - 0.5)
    handles = [line for line in panels[0].get_lines() if line.get_gid() == "line"]
    gaps = [line for a in panels for line in a.get_lines() if line.get_gid() == "gap"]
    if gaps:
        handles, named = [*handles, gaps[0]], [*named, "no points, no ratio"]
    figure.legend(
        handles,
        named,
        loc="outside lower center",
        ncols=min(len(named), 6),
        title=lines or ("layer" if along == "epochs" else "checkpoint"),
        title_fontsize=7,
    )
    return figure


def _draw_bands(axes: Axes, value: Array, low: Array, high: Array, *, counts: bool) -> None:
    """Draw one line for every column of `[steps, lines]` inside its interval."""
    steps = np.arange(len(value))
    lines = value.shape[1]
    # Lines of a single step would lie over each other: they stand side by side instead.
    offsets = 0.06 * (np.arange(lines) - (lines - 1) / 2) * (len(steps) == 1)
    for line, color in enumerate(ordered_colors(lines)):
        marker = category_style(line).marker
        here = value[:, line]
        axes.fill_between(steps, low[:, line], high[:, line], color=color, alpha=0.16, lw=0)
        if len(steps) == 1:
            # A band of one step has no width: an upright bar shows the interval instead.
            axes.plot([offsets[line]] * 2, [low[0, line], high[0, line]], color=color, lw=1)
        axes.plot(
            steps + offsets[line],
            here,
            color=color,
            marker=marker,
            ms=3.8,
            mec="white",
            mew=0.4,
            gid="line",
        )
        gaps = steps[~np.isfinite(here)]
        if gaps.size:
            axes.plot(
                gaps,
                np.full(gaps.size, 0.02),
                "x",
                color=MUTED,
                ms=4.5,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                gid="gap",
            )
    if counts:
        count_axis(axes)
    else:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def count_axis(axes: Axes) -> None:
    """Let the upright axis of what was drawn count from 0, to 1 at least, in whole numbers."""
    axes.set_ylim(0, max(axes.get_ylim()[1], 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def name_steps(axes: Axes, names: Sequence[str], width: float) -> None:
    """Name the steps of the axis of `width` inches, slanted where the names would meet.

    Of more steps than even slanted names have room for, only some are named.
    """
    bare = [n.removeprefix("epoch ") for n in names]
    epochs = bare != names and all(n.startswith("epoch ") for n in names)
    texts = bare if epochs else names
    room = 0.062 * (max(len(n) for n in texts) + 1)  # inches of the longest, lying
    slanted = not epochs and room * len(names) > width
    at = range(0, len(names), max(1, math.ceil((0.14 if slanted else room) * len(names) / width)))
    look: dict[str, Any] = (
        {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    )
    axes.set_xticks(at, [texts[step] for step in at], **look)
    if epochs:
        axes.set_xlabel("epoch")
    axes.set_xlim(-0.25, len(names) - 0.75)


@styled
def tau_curve(
    taus: Any,
    total: Any,
    reliable: Any,
    layers: Sequence[str],
    *,
    tau: float = 0.4,
) -> Figure:
    """Draw the numbers of knowledge points and the reliable ratio over the threshold tau.

    Args:
        taus: ascending thresholds, `[M]`.
        total: number of knowledge points above each, `[L, M]`.
        reliable: number of reliable ones, `[L, M]`.
        layers: names of the layers, `[L]`.
        tau: the threshold of the other figures, marked by a line.

    Raises:
        ValueError: shapes that do not fit, or thresholds that do not ascend.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.tau_curve([0.2, 0.4, 0.6], [[9, 5, 1]], [[6, 4, 1]], ["conv1"])
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("tau_curve")
    depths = [literal_name(x, 16) for x in sizes.names("layers", layers, "L")]
    at = sizes.numbers("taus", taus, "M")
    if not (np.diff(at) > 0).all():
        raise ValueError("tau_curve: taus must ascend")
    every = sizes.numbers("total", total, "L M")
    right = sizes.numbers("reliable", reliable, "L M")
    ratio = np.divide(right, every, out=np.full_like(every, np.nan), where=every > 0)
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, 3)
    quantities = {"Knowledge points": every, "Reliable points": right, _RATIO: ratio}
    for axes, (title, rows) in zip(panels, quantities.items(), strict=True):
        for line, color in enumerate(ordered_colors(len(depths))):
            axes.plot(
                at,
                rows[line],
                color=color,
                marker=category_style(line).marker,
                markevery=max(1, len(at) // 8),
                ms=3.6,
                mec="white",
                mew=0.4,
                label=depths[line],
            )
        axes.axvline(tau, color=MUTED, lw=0.7, ls="--")
        axes.set_title(title)
        axes.set_xlabel(f"tau (dashed: {tau:g})")
        count_axis(axes)
    panels[2].set_ylim(0, 1)
    panels[2].yaxis.set_major_locator(MaxNLocator(5))
    panels[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
    return figure
