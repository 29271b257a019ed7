"""The ways that regions take through the frame during an attack (Fig. 7, 15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emergence_ext.figures.attack import TYPE_MEANINGS
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.samples import panel_grid
from emergence_ext.figures.space import (
    Camera,
    best_cameras,
    onto_rim,
    open_frame,
    strength_reach,
)
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    PAGE,
    PAPER,
    axes_note,
    category_legend,
    figure_note,
    inch_axes,
    legend_height,
    new_figure,
    ordered_colors,
    styled,
    way_name,
)

# Mark, line and sign in the text of the examples of a type.
_LINES = (("o", "-", "●"), ("s", "--", "■"), ("^", ":", "▲"))
_HOW = (
    "Ring: the clean image. Filled mark: the end of the attack; paths darken towards it. "
    "Bold rays: the categories before and after."
)


@styled
def attack_paths(
    path: Any,
    important: Any,
    original: Any,
    adversarial: Any,
    directions: Any,
    categories: Sequence[str],
    *,
    max_paths: int = 25,
) -> Figure:
    """Draw how the important regions of example images move during the attack (Fig. 7).

    Args:
        path: projected regional features at every step, `[T, n, R, dim]`, dim 3 or 2.
        important: regions to draw, `[n, R]`.
        original: categories before, `[n]`.
        adversarial: categories after, `[n]`.
        directions: category directions mu of the frame, `[C, dim]`.
        categories: names, `[C]`.
        max_paths: at most so many regions of an image are drawn, those that move farthest.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.

    Examples:
        >>> from emergence_ext import figures
        >>> path, important = torch.randn(5, 1, 4, 3), torch.ones(1, 4, dtype=torch.bool)
        >>> figures.attack_paths(path, important, [0], [1], torch.eye(3), ["cat", "dog", "frog"])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("attack_paths")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    steps = sizes.spatial("path", path, "T n R dim")
    marked = sizes.flags("important", important, "n R")
    before, after = (sizes.labels(x, names, "n") for x in (original, adversarial))
    reach = strength_reach(steps[:, marked])
    camera = best_cameras(mu)[0]
    titles = [way_name(names[a], names[b], 28) for a, b in zip(before, after, strict=True)]
    figure, panels = panel_grid(titles, names, f"{_HOW} The sphere marks |h| = {reach:g}.")
    for index, axes in enumerate(panels):
        members = np.flatnonzero(marked[index])
        moved = np.linalg.norm(steps[-1, index] - steps[0, index], axis=-1)
        chosen = members[np.argsort(-moved[members], kind="stable")][:max_paths]
        _open_with_bold(axes, camera, mu, reach, [before[index], after[index]])
        _draw_paths(axes, camera, steps[:, index, chosen], reach)
        count = f"{len(members)} important regions"
        if len(members) > len(chosen):
            count += f", the {len(chosen)} that move farthest"
        axes_note(axes, count if len(members) else "no region is important before or after")
    return figure


@styled
def attack_types(
    path: Any,
    p: Any,
    types: Any,
    original: Any,
    adversarial: Any,
    directions: Any,
    categories: Sequence[str],
    *,
    tau: float = 0.5,
) -> Figure:
    """Draw examples of the four types of regions: their ways, and p of both categories (Fig. 15).

    Args:
        path: projected features of the examples at every step, `[T, m, dim]`, dim 3 or 2.
        p: of the original and the adversarial category at every step, `[2, T, m]`.
        types: type of each example, `[m]`, 1 to 4; three of each are told apart.
        original: categories before, `[m]`.
        adversarial: categories after, `[m]`.
        directions: category directions mu of the frame, `[C, dim]`.
        categories: names, `[C]`.
        tau: the threshold of the types, marked by a line.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.

    Examples:
        >>> from emergence_ext import figures
        >>> path, p, types = torch.randn(5, 4, 3), torch.rand(2, 5, 4), [1, 2, 3, 4]
        >>> names = ["cat", "dog", "frog"]
        >>> figures.attack_types(path, p, types, [0] * 4, [1] * 4, torch.eye(3), names)
        <ShownFigure size ... with 8 Axes>
    """
    sizes = Sizes("attack_types")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    steps = sizes.spatial("path", path, "T m dim")
    sure = sizes.numbers("p", p, "2 T m")
    kinds = sizes.numbers("types", types, "m").astype(int)
    before, after = (sizes.labels(x, names, "m") for x in (original, adversarial))
    reach = strength_reach(steps)
    camera = best_cameras(mu)[0]
    side, head, lower, gap = PAGE / 4, 0.54, 1.15, 0.5
    key = legend_height(categories, PAGE)
    foot = 0.85 + key
    figure = new_figure(PAGE, head + side + gap + lower + foot, constrained=False)
    for column, meaning in enumerate(TYPE_MEANINGS):
        axes = inch_axes(figure, column * side, head, side, side)
        below = inch_axes(
            figure, 0.5 + column * (PAGE - 0.5) / 4, head + side + gap, side - 0.3, lower
        )
        _write_meaning(axes, meaning)
        members = np.flatnonzero(kinds == column + 1)[: len(_LINES)]
        _open_with_bold(
            axes, camera, mu, reach, {int(c) for i in members for c in (before[i], after[i])}
        )
        _draw_paths(axes, camera, steps[:, members], reach, [mark for mark, *_ in _LINES])
        _draw_certainty(below, sure[:, :, members], tau)
        if column == 0:
            below.set_ylabel("p(category | h)")
        else:
            below.tick_params(labelleft=False)
        ways = [
            f"{sign} {way_name(names[before[i]], names[after[i]], 28)}"
            for i, (*_, sign) in zip(members, _LINES, strict=False)
        ]
        axes.text(
            0.02, 0, "\n".join(ways) or "no such region in this layer", transform=axes.transAxes,
            va="top", fontsize=6.5, color=MUTED,
        )  # fmt: skip
    _draw_keys(figure, categories, key)
    remark = f"{_HOW}\nThe sphere marks |h| = {reach:g}. A mark and its line are one region."
    figure_note(figure, remark, key)
    return figure


def _write_meaning(axes: Axes, meaning: str) -> None:
    title, _, explanation = meaning.partition(": ")
    axes.set_title(title.capitalize(), x=0.02, pad=24)
    axes.text(
        0.02, 1.155, explanation.replace(", ", ",\n"), transform=axes.transAxes, va="top",
        fontsize=6.5, color=MUTED,
    )  # fmt: skip


def _draw_certainty(axes: Axes, p: Array, tau: float) -> None:
    """Draw p of both categories, `[2, T, m]`, over the steps."""
    last = p.shape[1] - 1
    axes.axhline(tau, color=MUTED, lw=0.6, ls="--")
    for member, (mark, line, _) in zip(range(p.shape[2]), _LINES, strict=False):
        for category, color in ((0, ACCENT), (1, CONTRAST)):
            axes.plot(
                p[category, :, member], color=color, ls=line, marker=mark, markevery=[last],
                ms=3.5, lw=1.1, clip_on=False,
            )  # fmt: skip
    axes.set(ylim=(0, 1), xlim=(0, max(last, 1)), xlabel="step")


def _draw_keys(figure: Figure, categories: Sequence[str], height: float) -> None:
    """Draw the key of categories, `height` inches, and the one of both lines above it."""
    category_legend(figure, categories)
    figure.legend(
        [Line2D([], [], color=color) for color in (ACCENT, CONTRAST)],
        ["p of the original category", "p of the adversarial category"],
        loc="lower center",
        bbox_to_anchor=(0.5, (height + 0.3) / figure.get_size_inches()[1]),
        ncols=2,
        borderaxespad=0.1,
    )


def _open_with_bold(axes: Axes, camera: Camera, mu: Array, reach: float, bold: Any) -> None:
    """Make a panel of the frame, with the rays of some categories bold."""
    strengths = np.full(len(mu), np.nan)
    strengths[list(bold)] = reach
    open_frame(axes, camera, mu, reach, strengths, width=1.4)


def _draw_paths(
    axes: Axes, camera: Camera, steps: Array, reach: float, marks: Sequence[str] = ("o",)
) -> None:
    """Draw ways `[T, m, 3]` as lines that darken, from a ring to a mark, one after another."""
    flat, _ = camera.project(onto_rim(steps, reach))
    colors = ordered_colors(max(len(flat) - 1, 1))
    for member in range(flat.shape[1]):
        way = flat[:, member]
        axes.add_collection(
            LineCollection(
                list(np.stack([way[:-1], way[1:]], axis=1)),
                colors=colors,
                linewidths=1.0,
                zorder=5,
            )
        )
        axes.plot(*way[0], "o", mfc=PAPER, mec=INK, ms=3, mew=0.6, zorder=6)
        axes.plot(*way[-1], marks[member % len(marks)], color=INK, ms=2.6, zorder=7)
