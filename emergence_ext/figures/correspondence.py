"""Regions of one image found in another, as lines, and how often they are found, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from emergence_ext.figures.images import as_pixels
from emergence_ext.figures.inputs import Array, Band, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    PAGE,
    PAPER,
    display_name,
    figure_note,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, open_page, put_image


@styled
def correspondences(
    images: Any,
    starts: Sequence[Any],
    ends: Sequence[Any],
    sure: Sequence[Any],
    layer: str,
    *,
    truth: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    remark: str = "",
) -> Figure:
    """Draw pairs of images with a line from each place in the left one to its match in the right.

    Args:
        images: left and right of each pair, in 0..1, `[n, 2, channels, H', W']`.
        starts: (x, y) in the left image in shares of it, of each pair `[m, 2]`.
        ends: where each was found in the right one, `[m, 2]`.
        sure: lines that are drawn through, `[m]`; the others are dotted.
        layer: name of the layer that found them.
        truth: where each belongs in the right image, `[m, 2]`, drawn as a ring; None: not known.
        names: what to write above each pair, `[n]`.
        remark: what else has to be said of the whole figure.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> images, places = torch.rand(1, 2, 3, 8, 8), [[[0.2, 0.3], [0.7, 0.6]]]
        >>> figures.correspondences(images, places, places, [[True, False]], "conv2")
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("correspondences")
    given = sizes.numbers("images", images, "n 2 channels height width")
    for name, lists in (("starts", starts), ("ends", ends), ("sure", sure)):
        sizes.names(name, lists, "n")
    titles = sizes.names("names", names, "n") if names is not None else [""] * sizes["n"]
    pixels = as_pixels(Sizes("correspondences"), given.reshape(-1, *given.shape[2:]))
    layout = ImageGrid(
        sizes["n"], 2 if sizes["n"] > 1 else 1, 2, edges=(0.08, 0.12), head=0.2, foot=0.06,
        gap=0.24, between=0.2, largest=2.6,
    )  # fmt: skip
    figure, page = open_page(PAGE, layout.bottom + 0.4)
    for i in range(sizes["n"]):
        places = layout.place(i), layout.place(i, 1)
        (left, top, side, _), (right, *_) = places
        for k, place in enumerate(places):
            put_image(page, pixels[2 * i + k], place)
        page.text(left, top - 0.05, display_name(titles[i], 44), fontsize=7)
        of_pair = Sizes("correspondences")
        begin = of_pair.numbers("starts", starts[i], "m 2") * side + (left, top)
        end = of_pair.numbers("ends", ends[i], "m 2") * side + (right, top)
        _draw_lines(page, begin, end, of_pair.flags("sure", sure[i], "m"))
        if truth is not None:
            there = of_pair.numbers("truth", truth[i], "m 2") * side + (right, top)
            for color, width in ((INK, 2.2), (PAPER, 1.0)):
                page.plot(*there.T, "o", mfc="none", mec=color, mew=width, ms=7)
    figure_note(
        figure, f"{literal_name(layer)}: every line leads to the best match. {remark}".strip(), 0.08
    )
    return figure


def _draw_lines(page: Axes, begin: Array, end: Array, sure: Array) -> None:
    """Draw lines that are told apart by colour, from left to right through the left image."""
    rank = np.argsort(np.argsort(begin[:, 0] + 1e-3 * begin[:, 1], kind="stable"), kind="stable")
    colors = matplotlib.colormaps["turbo"](np.linspace(0.12, 0.92, len(begin)))[rank]
    outline = [withStroke(linewidth=2.0, foreground=INK, alpha=0.5)]
    for (x0, y0), (x1, y1), color, whole in zip(begin, end, colors, sure, strict=True):
        page.plot(
            [x0, x1], [y0, y1], "-" if whole else ":", color=color, lw=1.1 if whole else 0.8,
            path_effects=outline if whole else None, alpha=1.0 if whole else 0.6, zorder=3,
        )  # fmt: skip
        page.plot(
            [x0, x1],
            [y0, y1],
            "o",
            color=color,
            mec=INK,
            mew=0.4,
            ms=3.2 if whole else 2.0,
            zorder=4,
        )


@styled
def correspondence_scores(
    scores: Mapping[str, Band], chance: Mapping[str, Any], possible: Any, layers: Sequence[str]
) -> Figure:
    """Draw the share of places that are found again, by layer.

    Args:
        scores: what was looked for -> shares with intervals, `[L]` each.
        chance: the same -> share that a random region would find, `[L]`.
        possible: share that the best region of the layer's grid reaches, `[L]`.
        layers: names, `[L]`.

    Raises:
        ValueError: shapes that do not fit, or more than two scores.

    Examples:
        >>> from emergence_ext import figures
        >>> share = figures.Band([0.5, 0.7], [0.4, 0.6], [0.6, 0.8])
        >>> scores, chance = {"keypoints": share}, {"keypoints": [0.1, 0.1]}
        >>> figures.correspondence_scores(scores, chance, [0.9, 0.9], ["conv1", "conv2"])
        <ShownFigure size ... with 1 Axes>
    """
    if not 1 <= len(scores) <= 2:
        raise ValueError(f"correspondence_scores: expected one or two scores, got {len(scores)}")
    sizes = Sizes("correspondence_scores")
    depths = [literal_name(x, 14) for x in sizes.names("layers", layers, "L")]
    steps = np.arange(len(depths))
    figure = new_figure(PAGE, 2.6)
    axes = figure.subplots()
    best = 100 * sizes.numbers("possible", possible, "L")
    axes.plot(steps, best, "-", color=MUTED, lw=0.8, label="best region of the grid")
    looks = ((ACCENT, "o"), (CONTRAST, "s"))
    for (what, band), (color, mark) in zip(scores.items(), looks, strict=False):
        value, low, high = (100 * x for x in sizes.band(what, band, "L"))
        axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        axes.plot(steps, value, f"{mark}-", color=color, ms=4, label=what)
        random = 100 * sizes.numbers("chance", chance[what], "L")
        axes.plot(steps, random, "--", color=color, lw=0.8, label=f"{what}, by chance")
    axes.set_xticks(steps, depths)
    axes.set(ylim=(0, 103), ylabel="found within a tenth\nof the image, %")
    axes.set_xlim(-0.3, len(depths) - 0.7)
    figure.legend(loc="outside right center")
    return figure
