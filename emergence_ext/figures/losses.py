"""The loss curves of every fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from emergence_ext.figures.inputs import Array, plain
from emergence_ext.figures.samples import checkpoint_name
from emergence_ext.figures.style import (
    MUTED,
    PAGE,
    category_style,
    display_name,
    literal_name,
    new_figure,
    ordered_colors,
    styled,
)
from emergence_ext.lookup import require_kind

_COLUMNS = 5  # panels in a row
_LOG_RATIO = 20.0  # a panel whose losses span more than this factor gets a logarithmic axis


@styled
def losses(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the loss of every fit over its evaluations, a row per kind and a panel per layer.

    Args:
        curves: losses by name; a name is "kind", "kind/checkpoint" or "kind/layer/checkpoint", as
            in "importance/conv5_3/30". Lines of one colour belong to one checkpoint.

    Raises:
        ValueError: no curve, an empty curve or a curve without a finite value.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.losses({"samples/0": [2.0, 1.0], "importance/conv1/0": [100.0, 1.0, 0.1]})
        <ShownFigure size ... with 2 Axes>
    """
    require_kind(curves=(curves, Mapping))
    if not curves:
        raise ValueError("losses: no curve was given")
    panels: dict[tuple[str, str], dict[str, Array]] = {}
    for name, values in curves.items():
        loss = plain(values).astype(np.float64).ravel()
        if not np.isfinite(loss).any():
            raise ValueError(f"losses: the curve {name!r} holds no finite value")
        kind, _, rest = name.partition("/")
        layer, _, checkpoint = rest.rpartition("/")
        panels.setdefault((kind, layer), {})[checkpoint] = loss
    checkpoints = list(dict.fromkeys(c for lines in panels.values() for c in lines))
    colors = dict(zip(checkpoints, ordered_colors(len(checkpoints)), strict=True))
    marks = {c: category_style(i).marker for i, c in enumerate(checkpoints)}
    rows = _rows(panels)
    columns = max(len(row) for row in rows)
    figure = new_figure(PAGE if columns > 1 else 0.6 * PAGE, 1.45 * len(rows) + 0.35)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    spare = None
    for row, places in zip(rows, grid, strict=True):
        for axes in places[len(row) :]:
            axes.axis("off")
            spare = spare or axes
        for (kind, layer), axes in zip(row, places, strict=False):
            _draw_panel(axes, panels[kind, layer], colors, marks)
            axes.set_title(literal_name(layer, 13) if layer else display_name(kind, 40))
            if axes is places[0]:
                axes.set_ylabel(f"{display_name(kind, 18)} loss" if layer else "loss")
    if any(checkpoints):
        handles = [_key_line(colors[c], marks[c]) for c in checkpoints]
        labels = [checkpoint_name(c) if c else "final" for c in checkpoints]
        if spare is not None and len(labels) <= 8:
            spare.legend(handles, labels, loc="center left")
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    return figure


def _key_line(color: Any, marker: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, ms=3.6, mec="white", mew=0.4)


def _rows(panels: Mapping[tuple[str, str], Any]) -> list[list[tuple[str, str]]]:
    """Return the panels in rows: every kind with layers begins one, single panels share one."""
    rows: list[list[tuple[str, str]]] = []
    for kind in dict.fromkeys(kind for kind, _ in panels):
        members = [key for key in panels if key[0] == kind]
        joins = len(members) == 1 and rows and len(rows[-1]) < 2 and not rows[-1][-1][1]
        if joins:
            rows[-1] += members
        else:
            rows += [members[i : i + _COLUMNS] for i in range(0, len(members), _COLUMNS)]
    return rows


def _draw_panel(
    axes: Axes, lines: Mapping[str, Array], colors: Mapping[str, Any], marks: Mapping[str, str]
) -> None:
    for checkpoint, loss in lines.items():
        axes.plot(
            np.arange(len(loss)),
            loss,
            color=colors[checkpoint],
            lw=1.0,
            marker=marks[checkpoint],
            markevery=[len(loss) - 1],
            ms=3.6,
            mec="white",
            mew=0.4,
        )
    everything = np.concatenate(list(lines.values()))
    finite = everything[np.isfinite(everything)]
    if finite.min() > 0 and finite.max() > _LOG_RATIO * finite.min():
        axes.set_yscale("log")
        wide = finite.max() > 300 * finite.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 3.0), numticks=5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_xlabel("evaluation", fontsize=7, color=MUTED)
    axes.margins(x=0.04)
