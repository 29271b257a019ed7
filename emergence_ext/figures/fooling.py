"""Images that fool a network, beside where they come from and what was added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, by_largest, show_image
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.style import INK, MUTED, PAGE, display_name, new_figure, styled
from emergence_ext.figures.tiles import ImageGrid, write_above

_EDGE, _BETWEEN = 0.06, 0.22  # inches


@styled
def fooling(
    start: Any,
    images: Any,
    before: Any,
    after: Any,
    target: Any,
    categories: Sequence[str],
    *,
    columns: int = 2,
) -> Figure:
    """Show start, perturbation and result of every image, with what the network says.

    A perturbation is drawn around grey and scaled to its own largest value, which is written above
    it; `rms` is its root mean square.

    Args:
        start: in 0..1, `[n, channels, H', W']` with 1 or 3 channels.
        images: the same, changed.
        before, after: probabilities of all classes, `[n, C]`.
        target: class that was aimed at, `[n]`.
        categories: names, `[C]`.
        columns: blocks of three pictures in a row.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> start = torch.rand(1, 3, 8, 8)
        >>> before, after = [[0.9, 0.1]], [[0.2, 0.8]]
        >>> figures.fooling(start, 1 - start, before, after, [1], ["cat", "dog"])
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("fooling")
    names = sizes.names("categories", categories, "C")
    first, last = as_pixels(sizes, start), as_pixels(sizes, images)
    p = [sizes.numbers(name, x, "n C") for name, x in (("before", before), ("after", after))]
    sizes.labels(target, names, "n")
    added = last - first
    amplified, largest = by_largest(added)
    columns = min(columns, len(first))
    width = columns * (PAGE - 2 * _EDGE + _BETWEEN) / 2 - _BETWEEN + 2 * _EDGE  # two on a page
    layout = ImageGrid(
        len(first), columns, 3, width=width, edges=(_EDGE, _EDGE), head=0.41, foot=0.05, gap=0.06,
        between=_BETWEEN, aspect=first.shape[1] / first.shape[2],
    )  # fmt: skip
    figure = new_figure(width, layout.bottom + 0.1, constrained=False)
    for i in range(len(first)):
        size = f"at most {largest[i]:.3f}\nrms {np.sqrt(np.mean(added[i] ** 2)):.4f}"
        pictures = (
            (first[i], _said(p[0][i], names), INK),
            (0.5 + 0.5 * amplified[i], f"added, {size}", MUTED),
            (last[i], _said(p[1][i], names), INK),
        )
        for k, (picture, title, color) in enumerate(pictures):
            axes = layout.axes(figure, i, k)
            show_image(axes, picture)
            write_above(axes, title, 6.5, color)
    return figure


def _said(p: Any, names: Sequence[str]) -> str:
    """The class that the network says, and how sure it is."""
    best = int(np.argmax(p))
    return f"{display_name(names[best], 17)}\n{100 * p[best]:.1f} %"
