"""What an attack does: important regions, changes and types by layer (Fig. 8, 15), and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from emergence_ext.figures.images import (
    as_pixels,
    cover,
    outline,
    pale,
    region_maps,
    show_image,
)
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.knowledge import count_axis, name_steps
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    PAGE,
    axes_note,
    category_style,
    literal_name,
    new_figure,
    styled,
    way_name,
)
from emergence_ext.figures.tiles import ImageGrid

TYPE_MEANINGS = (
    "type 1: original to adversarial, always one of them",
    "type 2: original to adversarial, in between neither",
    "type 3: neither to adversarial",
    "type 4: original to neither",
)
_BINS = 20
_HATCHES = ("", "////", "....", "xxxx")


@styled
def attack_curves(
    original: Band,
    adversarial: Band,
    changes: Band,
    types: Band,
    layers: Sequence[str],
    *,
    tau: float = 0.4,
) -> Figure:
    """Draw what an attack changes from layer to layer, with intervals (Fig. 8, 15).

    Args:
        original: number of regions important for the original category before and after, three
            arrays `[2, L]`.
        adversarial: the same for the adversarial category.
        changes: Delta_orientation, the mean cosine of a region before and after, of which 1 minus
            it is drawn; Delta_strength, the mean difference of strengths; and that over the mean
            strength: three arrays `[3, L]`, NaN where there is none, drawn as a gap.
        types: number of regions of the types 1 to 4, three arrays `[4, L]`.
        layers: names of the layers from input to output, `[L]`.
        tau: a region is important for a category where its p is above.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> one = torch.ones(2, 3)
        >>> before_and_after = figures.Band(one, 0.9 * one, 1.1 * one)
        >>> changes, types = figures.Band(*torch.rand(3, 3, 3)), figures.Band(*torch.rand(3, 4, 3))
        >>> layers = ["conv1", "conv2", "conv3"]
        >>> figures.attack_curves(before_and_after, before_and_after, changes, types, layers)
        <ShownFigure size ... with 6 Axes>
    """
    sizes = Sizes("attack_curves")
    names = [literal_name(x, 16) for x in sizes.names("layers", layers, "L")]
    figure = new_figure(PAGE, 6.4)
    grid = figure.add_gridspec(3, 6, height_ratios=(1, 1, 0.95))
    both = {"Important for the original": original, "Important for the adversarial": adversarial}
    states = {title: sizes.band(title, band, "2 L") for title, band in both.items()}
    left = figure.add_subplot(grid[0, :3])
    _draw_important([left, figure.add_subplot(grid[0, 3:], sharey=left)], states, names)
    left.set_ylabel(f"regions with p > {tau:g}")
    left.legend(loc="upper left")
    value, low, high = sizes.band("changes", changes, "3 L")
    titles = (
        ("Change of orientation", "1 − cos(h before, h after)"),
        ("Change of strength", "mean | |h| before − after |"),
        ("The same, relative", "over the mean |h| before"),
    )
    for column, (title, label) in enumerate(titles):
        axes = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        rows = [value[column], low[column], high[column]]
        if column == 0:
            rows = [1 - rows[0], 1 - rows[2], 1 - rows[1]]
        _draw_line(axes, rows, ACCENT, "o", "-", "")
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        name_steps(axes, names, PAGE / 3 - 0.6)
    _draw_types(figure.add_subplot(grid[2, :]), sizes.band("types", types, "4 L"), names)
    return figure


def _draw_important(
    panels: Sequence[Axes],
    states: Mapping[str, Band],
    layers: Sequence[str],
) -> None:
    """Draw counts before and after `[2, L]` of each category, on one scale."""
    for axes, rows in zip(panels, states.values(), strict=True):
        _draw_line(axes, [x[0] for x in rows], MUTED, "o", "--", "before the attack")
        _draw_line(axes, [x[1] for x in rows], ACCENT, "s", "-", "after it")
    # Only now: a limit that is set holds the scale, and the second panel may reach higher.
    for axes, title in zip(panels, states, strict=True):
        _counts(axes, f"{title} category")
        name_steps(axes, layers, PAGE / 2 - 0.5)


def _draw_line(
    axes: Axes, rows: Sequence[Array], color: str, marker: str, line: str, label: str
) -> None:
    """Draw values `[L]` inside their interval."""
    value, low, high = rows
    steps = np.arange(len(value))
    axes.fill_between(steps, low, high, color=color, alpha=0.18, lw=0)
    axes.errorbar(
        steps,
        value,
        yerr=np.maximum([value - low, high - value], 0),
        color=color,
        marker=marker,
        ls=line,
        ms=4,
        elinewidth=0.8,
        label=label,
    )


def _counts(axes: Axes, title: str) -> None:
    axes.set_title(title)
    count_axis(axes)


def _draw_types(axes: Axes, rows: Band, layers: Sequence[str]) -> None:
    """Draw counts of the four types `[4, L]` as bars side by side."""
    value, low, high = rows
    for kind, meaning in enumerate(TYPE_MEANINGS):
        look = category_style(kind)
        with matplotlib.rc_context({"hatch.linewidth": 0.5}):
            axes.bar(
                np.arange(len(layers)) + 0.2 * (kind - 1.5),
                value[kind],
                0.19,
                yerr=np.maximum([value[kind] - low[kind], high[kind] - value[kind]], 0),
                color=look.color,
                edgecolor=look.edge,
                linewidth=0.4,
                hatch=_HATCHES[kind],
                error_kw={"elinewidth": 0.7, "ecolor": INK},
                label=meaning,
            )
    _counts(axes, "Types of regions")
    if not value.any():
        axes.text(
            0.5, 0.5, "every region is unchanged", transform=axes.transAxes, ha="center",
            fontsize=7, color=MUTED,
        )  # fmt: skip
    axes.set_ylabel("regions")
    axes.set_xticks(np.arange(len(layers)), layers)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.grid(False, axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


@styled
def attack_utility(utility: Sequence[Any], layers: Sequence[str], *, tau: float = 0.4) -> Figure:
    """Draw what regions that became important for the adversarial category said before (Fig. 8).

    Args:
        utility: p(c_ori | h_ori) of the regions with p(c_adv | h_adv) > tau, one `[m]` a layer.
        layers: names of the layers from input to output, `[L]`.
        tau: the threshold, marked by a line.

    Raises:
        ValueError: shapes that do not fit, or no such region in any layer.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.attack_utility([torch.rand(20), torch.rand(9)], ["conv1", "conv2"])
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("attack_utility")
    names = [literal_name(x, 22) for x in sizes.names("layers", layers, "L")]
    if len(utility) != len(names):
        raise ValueError(f"attack_utility: utility must hold L={len(names)} arrays")
    values = [np.asarray(x, dtype=float).ravel() for x in utility]
    if not any(x.size for x in values):
        raise ValueError(
            f"attack_utility: no region has p(c_adv | h_adv) > {tau:g} in any layer, so there is "
            "nothing to draw; lower tau"
        )
    columns = min(len(names), 3 if len(names) in (3, 5, 6, 9) else 4)
    rows = -(-len(names) // columns)
    figure = new_figure(PAGE, 0.25 + 1.75 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, name, x in zip(panels, names, values, strict=False):
        axes.set_title(name)
        axes.axvline(tau, color=MUTED, lw=0.7, ls="--")
        axes.set_xlim(0, 1)
        axes.tick_params(labelbottom=True)
        if not x.size:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "no such region", transform=axes.transAxes, ha="center")
            continue
        color, edge = category_style(0).color, to_hex(category_style(0).edge)
        # matplotlib 3.10.0 takes the three numbers of a colour for three colours.
        axes.hist(x, _BINS, range=(0, 1), color=color, edgecolor=edge, lw=0.4)
        axes_note(axes, f"{x.size:,} regions, {(x > tau).mean():.0%} above {tau:g}", inside=True)
        _counts(axes, name)
        axes.set_ylim(top=1.18 * axes.get_ylim()[1])  # room for the note
    for axes in panels[len(names) :]:
        axes.axis("off")
    figure.supxlabel(
        f"p(original | h before) of the regions with p(adversarial | h after) > {tau:g}", fontsize=8
    )
    figure.supylabel("regions", fontsize=8)
    return figure


@styled
def attack_images(
    images: Any,
    p: Any,
    original: Any,
    adversarial: Any,
    grid: tuple[int, int],
    categories: Sequence[str],
    *,
    eps: float,
    tau: float = 0.4,
) -> Figure:
    """Show images, what was added to them, and their important regions before and after.

    What was added is amplified so that eps is black or white (in colour: full or none).

    Args:
        images: the clean and the attacked ones, in 0..1, `[2, n, channels, H', W']`.
        p: of the original and the adversarial category, before and after, `[2, 2, n, R]`.
        original: categories before, `[n]`.
        adversarial: categories after, `[n]`.
        grid: height and width of the map of regions, `R = H * W`.
        categories: names, `[C]`.
        eps: most that a pixel was changed.
        tau: a region is important for a category where its p is above.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> images, p = torch.rand(2, 1, 3, 8, 8), torch.rand(2, 2, 1, 4)
        >>> figures.attack_images(images, p, [0], [1], (2, 2), ["cat", "dog"], eps=8 / 255)
        <ShownFigure size ... with 4 Axes>
    """
    sizes = Sizes("attack_images")
    names = sizes.names("categories", categories, "C")
    pair = sizes.numbers("images", images, "2 n channels height width")
    clean, attacked = (as_pixels(sizes, x) for x in pair)
    important = sizes.numbers("p", p, "2 2 n R") > tau
    maps = [[region_maps(state, grid, sizes) for state in category] for category in important]
    before, after = (sizes.labels(x, names, "n") for x in (original, adversarial))
    columns = 2 if sizes["n"] > 1 else 1
    layout = ImageGrid(sizes["n"], columns, 4, head=0.34, gap=0.04, between=0.16, largest=1.1)
    figure = new_figure(PAGE, layout.bottom + 0.34, constrained=False)
    for index in range(sizes["n"]):
        panels = [layout.axes(figure, index, k) for k in range(4)]
        show_image(panels[0], clean[index])
        show_image(panels[1], np.clip(0.5 + (attacked[index] - clean[index]) / (2 * eps), 0, 1))
        for axes, state, image in zip(panels[2:], (0, 1), (clean, attacked), strict=True):
            show_image(axes, pale(image[index]))
            _mark_important(axes, maps[0][state][index], maps[1][state][index])
        added = f"added, ±{255 * eps:.3g}/255"
        for axes, title in zip(panels, ("image", added, "before", "after"), strict=True):
            axes.text(0, 1.03, title, transform=axes.transAxes, fontsize=6.5, color=MUTED)
        panels[0].text(
            0, 1.17, way_name(names[before[index]], names[after[index]], 44),
            transform=panels[0].transAxes, fontsize=7.5, va="bottom",
        )  # fmt: skip
    _image_key(figure, tau)
    return figure


def _mark_important(axes: Axes, original: Array, adversarial: Array) -> None:
    """Mark regions `[H, W]` that are important for the one and the other category."""
    with matplotlib.rc_context({"hatch.linewidth": 0.7}):
        cover(axes, original, facecolor=ACCENT, edgecolor=ACCENT, alpha=0.4)
        cover(axes, adversarial, facecolor="none", edgecolor=CONTRAST, hatch="//////")
    outline(axes, original | adversarial)


def _image_key(figure: Figure, tau: float) -> None:
    with matplotlib.rc_context({"hatch.linewidth": 0.7}):
        key = [
            Patch(facecolor=ACCENT, alpha=0.4, edgecolor=ACCENT, lw=0),
            Patch(facecolor="none", edgecolor=CONTRAST, lw=0, hatch="//////"),
        ]
        meanings = [
            f"important for the original category, p > {tau:g}",
            "important for the adversarial category",
        ]
        figure.legend(key, meanings, loc="lower center", ncols=2, handlelength=1.6)
