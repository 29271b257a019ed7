"""Strength against entropy for several projections, over seeds and temperatures (Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    PAGE,
    literal_name,
    new_figure,
    styled,
)

_MARK = 4.6  # points


@styled
def methods(
    r: Band,
    mean_entropy: Any,
    names: Sequence[str],
    temperatures: Any,
    networks: Sequence[str],
    *,
    left_out: Sequence[bool],
    published: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw Pearson's r of strength with entropy, a row a method, as dots with intervals (Table 1).

    Args:
        r: mean over seeds and the ends of its interval, three arrays `[S, T, M]` for networks,
            temperatures, methods; NaN where every fit failed, and in the ends where there is only
            one seed.
        mean_entropy: of the network's output, nats, `[S, T]`.
        names: of the methods, `[M]`; the first one is drawn in colour.
        temperatures: of the softmax whose entropy is taken, `[T]`.
        networks: names, `[S]`.
        left_out: whether a method's images were not fitted, `[M]`; open marks where they were.
        published: method -> correlations that the paper prints for its networks, drawn as a band.

    Raises:
        ValueError: shapes that do not fit, or an empty array.

    Examples:
        >>> from emergence_ext import figures
        >>> r = figures.Band(*torch.zeros(3, 1, 1, 2))
        >>> figures.methods(r, [[0.5]], ["ours", "PCA"], [1.0], ["vgg16"], left_out=[True, True])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("methods")
    labels = [literal_name(x, 12) for x in sizes.names("names", names, "M")]
    rows = [literal_name(x, 30) for x in sizes.names("networks", networks, "S")]
    value, low, high = sizes.band("r", r, "S T M")
    uncertainty = sizes.numbers("mean_entropy", mean_entropy, "S T")
    at = sizes.numbers("temperatures", temperatures, "T")
    filled = sizes.flags("left_out", left_out, "M")
    bands = [(published or {}).get(str(name)) for name in names]
    ends = [x[np.isfinite(x)] for x in (value, low, high)]
    ends += [np.asarray(band, float) for band in bands if band is not None]
    limits = _limits(np.concatenate(ends))
    # Titles, axis and legend take as much as they take; a row of a method is 0.2 inches high.
    figure = new_figure(PAGE, len(rows) * (0.2 * len(labels) + 0.56) + 0.75)
    grid = figure.subplots(len(rows), len(at), squeeze=False, sharex=True, sharey=True)
    for s, network in enumerate(rows):
        for t, temperature in enumerate(at):
            axes = grid[s, t]
            axes.set_title(
                f"temperature {temperature:g}\nmean entropy {uncertainty[s, t]:.2f} nats"
            )
            ranges = np.stack([value[s, t], low[s, t], high[s, t]])
            _draw_methods(axes, ranges, filled, bands)
        grid[s, 0].set_yticks(range(len(labels)), labels)
        if len(rows) > 1:
            grid[s, 0].set_ylabel(network)
    grid[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    grid[0, 0].set_xlim(*limits)
    for axes in grid[-1]:
        axes.set_xlabel("Pearson's r of strength and entropy")
    _legend(figure, bool((~filled).any()), any(band is not None for band in bands))
    return figure


def _limits(values: Array) -> tuple[float, float]:
    """Return an axis that holds all values and ends at -1, or further where an interval does."""
    low = min(-1.0, float(values.min(initial=0.0)))
    high = max(0.0, float(values.max(initial=0.0)))
    return low - 0.03, min(high, 1.0) + 0.05


def _draw_methods(
    axes: Axes, r: Array, filled: Array, bands: Sequence[Sequence[float] | None]
) -> None:
    """Draw the methods of one panel, r `[3, M]`: mean and ends."""
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=MUTED, lw=0.6)
    for row, ((value, low, high), full, band) in enumerate(zip(r.T, filled, bands, strict=True)):
        color = ACCENT if row == 0 else INK
        if band is not None:
            left, right = min(band), max(band)
            axes.barh(row, right - left, left=left, height=0.62, color=FAINT, zorder=1)
        if not np.isfinite(value):
            axes.text(-0.03, row, "no fit", va="center", ha="right", fontsize=6.5, color=MUTED)
            continue
        if np.isfinite(low) and np.isfinite(high):
            axes.plot([low, high], [row, row], color=color, lw=1.6, zorder=3)
        face = color if full else "white"
        axes.plot(value, row, "o", ms=_MARK, color=color, mfc=face, mec=color, mew=1.0, zorder=4)


def _legend(figure: Figure, has_open: bool, has_band: bool) -> None:
    dot: dict[str, Any] = {"linestyle": "-", "marker": "o", "ms": _MARK, "color": INK, "lw": 1.6}
    handles: list[Any] = [Line2D([], [], **dot)]
    meanings = ["images that were not fitted, mean and 95 % interval over seeds"]
    if has_open:
        handles.append(Line2D([], [], **dot, mfc="white"))
        meanings.append("fitted images")
    if has_band:
        handles.append(Patch(color=FAINT))
        meanings.append("the paper's networks")
    figure.legend(handles, meanings, loc="outside lower center", ncols=len(meanings))
