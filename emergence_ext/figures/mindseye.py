"""Facets of a set of images and the images that were made of them (the Mind's Eye)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, show_image
from emergence_ext.figures.inputs import Array, Sizes, plain
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    category_style,
    inch_axes,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, name_category, text_axes, write_below

_GAP, _EDGE, _HEAD, _LINE = 0.06, 0.06, 0.24, 0.125  # inches
_SMALL, _LEFT, _NAME = 0.62, 2.8, 0.3  # inches, of what stands beside the plane
_ROOM = PAGE - 2.85
_ABREAST = int(_ROOM / (_SMALL + _GAP))  # images on a line
_SHOWN = 8  # facets with their images; half as many with all of them


@styled
def facet_embedding(
    points: Any,
    labels: Any,
    centres: Any,
    members: Sequence[Any],
    weights: Sequence[Any],
    images: Sequence[Any],
) -> Figure:
    """Draw images in the plane by their activations, with what stands for each facet (Fig. 2).

    A cross is the centre of a facet; lines lead from it to the images that stand for it, which are
    shown beside, nearest first, with their weights: all of four facets, the first line of eight.

    Args:
        points: of all images, `[N, 2]`.
        labels: facet of each, `[N]`.
        centres: of the facets, `[C, 2]`.
        members: for each facet, indices of what stands for it, `[m]`.
        weights: for each facet, of these, `[m]`.
        images: for each facet, these, in 0..1, `[m, channels, H', W']`.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> points, images = torch.randn(6, 2), [torch.rand(2, 3, 8, 8)] * 2
        >>> figures.facet_embedding(
        ...     points, [0, 1] * 3, points[:2], [[0, 2], [1, 3]], [[0.6, 0.4]] * 2, images
        ... )
        <ShownFigure size ... with 7 Axes>
    """
    sizes = Sizes("facet_embedding")
    place = sizes.numbers("points", points, "N 2")
    middle = sizes.numbers("centres", centres, "C 2")
    names = [f"facet {c + 1}" for c in range(len(middle))]
    y = sizes.labels(labels, names)
    chosen = [plain(x).astype(int) for x in members]
    share = [plain(x) for x in weights]
    pixels = [as_pixels(Sizes("facet_embedding"), x) for x in images]
    if not len(chosen) == len(share) == len(pixels) == len(middle):
        raise ValueError(f"facet_embedding: members, weights, images must be of C={len(middle)}")
    beside = min(len(names), _SHOWN)
    # Of many facets only one line of images each, so that the page stays a page.
    lines = [min(-(-len(x) // _ABREAST), 2 if len(names) <= _SHOWN // 2 else 1) for x in pixels]
    heights = [_NAME + n * (_SMALL + _GAP + _LINE) for n in lines[:beside]]
    rest = _NAME if beside < len(names) else 0.0
    figure = new_figure(PAGE, max(2.8, sum(heights) + rest + 0.1), constrained=False)
    _draw_plane(figure, place, y, middle, chosen)
    top = 0.05
    for c, name in enumerate(names[:beside]):
        title = f"{name}: {int((y == c).sum())} images, weights of the nearest below"
        count = lines[c] * _ABREAST
        _draw_facet(figure, top, c, title, pixels[c][:count], share[c][:count])
        top += heights[c]
    if rest:
        head = text_axes(figure, _LEFT, top, _ROOM, 0.22)
        head.text(0.05, 0.1, f"and {len(names) - beside} more facets", va="center", fontsize=7.5)
    return figure


def _draw_plane(figure: Figure, place: Array, y: Array, middle: Array, chosen: list[Array]) -> None:
    axes = inch_axes(figure, 0.08, 0.28, 2.5, 2.4)
    axes.set_title("Images by activations")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for c, members in enumerate(chosen):
        look = category_style(c)
        axes.plot(*place[y == c].T, look.marker, color=look.color, ms=3, mec="none", alpha=0.45)
        near = place[members]
        for point in near:
            axes.plot(*np.stack([middle[c], point]).T, color=look.edge, lw=0.6, zorder=3)
        axes.plot(*near.T, look.marker, color=look.color, ms=4.5, mec=INK, mew=0.6, zorder=4)
        axes.plot(*middle[c], "x", color=INK, ms=7, mew=1.6, zorder=5)


def _draw_facet(
    figure: Figure, top: float, c: int, title: str, images: Array, weights: Array
) -> None:
    """Draw the images of facet c, `[m, H', W', 3]`, with their weights, below the title."""
    name_category(text_axes(figure, _LEFT, top, _ROOM, 0.22), title, c, 0.1)
    layout = ImageGrid(
        len(images), _ABREAST, width=_LEFT + _ABREAST * (_SMALL + _GAP), edges=(_LEFT, _GAP),
        top=top + 0.25, foot=_GAP + _LINE, between=_GAP,
    )  # fmt: skip
    for k, image in enumerate(images):
        small = layout.axes(figure, k)
        show_image(small, image)
        small.text(
            0.5, -0.04, f"{weights[k]:.3f}", transform=small.transAxes, ha="center", va="top",
            fontsize=6, color=MUTED,
        )  # fmt: skip


@styled
def picture_sheet(
    images: Sequence[Sequence[Any]],
    rows: Sequence[str],
    columns: Sequence[str],
    told: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Show pictures in rows and columns with names, such as facets by layers (Fig. 1, 3, 4).

    Args:
        images: for every row its pictures, in 0..1, `[channels, H', W']` each; None leaves a place
            empty.
        rows, columns: names; an empty one is not written.
        told: for every row what is written under its pictures, a line or two each.

    Raises:
        ValueError: another number of rows, or of pictures in a row, than names.

    Examples:
        >>> from emergence_ext import figures
        >>> picture = torch.rand(3, 8, 8)
        >>> figures.picture_sheet(
        ...     [[picture, None], [picture, picture]], ["facet 1", "facet 2"], ["conv1", "conv2"]
        ... )
        <ShownFigure size ... with 6 Axes>
    """
    sizes = Sizes("picture_sheet")
    left_names = sizes.names("rows", rows, "rows")
    heads = sizes.names("columns", columns, "columns")
    if len(images) != len(left_names) or any(len(row) != len(heads) for row in images):
        raise ValueError(
            f"picture_sheet: images must be {len(left_names)} rows of {len(heads)} pictures"
        )
    margin = min(1.1, 0.12 + 0.062 * max(map(len, left_names))) if any(left_names) else 0
    lines = max((text.count("\n") + 1 for row in told for text in row), default=0) if told else 0
    layout = ImageGrid(
        len(images), cells=len(heads), edges=(margin + _EDGE, _EDGE + _GAP), top=_HEAD, gap=_GAP,
        foot=_GAP + (lines * _LINE + 0.03 if lines else 0), largest=1.5,
    )  # fmt: skip
    side = layout.side
    width = max(2.4, margin + 2 * _EDGE + len(heads) * (side + _GAP))
    figure = new_figure(width, layout.bottom + 0.04, constrained=False)
    limit = max(4, int(side / 0.058))
    for r, row in enumerate(images):
        if margin:
            name = text_axes(figure, _EDGE, layout.place(r)[1], margin, side)
            name.text(0, side / 2, literal_name(left_names[r], 18), va="center", fontsize=7.5)
        for c, picture in enumerate(row):
            axes = layout.axes(figure, r, c)
            head = literal_name(heads[c], limit) if r == 0 and heads[c] else ""
            _draw_picture(axes, picture, head, told[r][c] if told else "")
    return figure


def _draw_picture(axes: Axes, picture: Any, above: str, below: str) -> None:
    """Draw a picture `[channels, H', W']`, or nothing, with what is above and below it."""
    if picture is None:
        axes.axis("off")
        return
    show_image(axes, as_pixels(Sizes("picture_sheet"), plain(picture)[None])[0])
    if above:
        axes.set_title(above, fontsize=7.5, pad=3)
    if below:
        write_below(axes, below, color=MUTED)
