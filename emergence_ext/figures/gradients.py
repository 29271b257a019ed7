"""Maps of what in an image a class depends on, by methods, beside those of random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, heat, pale, show_image
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    MUTED,
    PAGE,
    display_name,
    literal_name,
    new_figure,
    signed_text,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, text_axes, write_above

_EDGE, _GAP, _BETWEEN = 0.05, 0.025, 0.08  # inches: page, map to map, method to method
_TOP = 0.36  # inches above the first row, for the names of the columns
_ROW = 0.16  # inches above each row
_FOOT = 0.08
_SHARE = 0.995  # of the values that a scale covers


@styled
def attributions(
    images: Any,
    maps: Mapping[str, tuple[Any, Any | None]],
    similarity: Any,
    labels: Any,
    categories: Sequence[str],
    *,
    signed: Sequence[str] = (),
    laid_over: Sequence[str] = (),
) -> Figure:
    """Show attributions of methods side by side, each beside the same for random weights.

    Every map has its own scale, up to the 99.5 % quantile of its absolute values. Above the map of
    random weights stands its rank correlation with the network's: a method whose maps stay alike
    shows the image more than the network (Adebayo et al., NeurIPS 2018).

    Args:
        images: in 0..1, `[n, 3, height, width]` or `[n, 1, height, width]`.
        maps: method -> its maps for the network and for random weights (None where there are none
            of any): of 0 and more, `[n, H, W]`, or signed colours, `[n, channels, height, width]`,
            for those of `signed`.
        similarity: rank correlation of both, `[methods, n]`, NaN where it is undefined; not drawn
            without random weights.
        labels: the class that is looked at, `[n]`.
        categories: names, `[C]`.
        signed: methods whose maps are colours, grey where they are 0.
        laid_over: methods whose maps are laid over the image.

    Raises:
        ValueError: shapes that do not fit, or no method.

    Examples:
        >>> from emergence_ext import figures
        >>> maps = {"Grad-CAM": (torch.rand(2, 4, 4), torch.rand(2, 4, 4))}
        >>> figures.attributions(torch.rand(2, 3, 8, 8), maps, [[0.1, 0.2]], [0, 1], ["cat", "dog"])
        <ShownFigure size ... with 7 Axes>
    """
    sizes = Sizes("attributions")
    names = sizes.names("categories", categories, "C")
    methods = sizes.names("maps", list(maps), "methods")
    pixels = as_pixels(sizes, images)
    rho = sizes.numbers("similarity", similarity, "methods n")
    y = sizes.labels(labels, names, "n")
    values = {}
    for name, pair in maps.items():
        letters = "n channels height width" if name in signed else f"n H{name} W{name}"
        values[name] = [sizes.numbers(name, x, letters) for x in pair if x is not None]
    count, beside = len(methods), max(len(pair) for pair in values.values())
    free = PAGE - 2 * _EDGE - count * (beside * _GAP + _BETWEEN)
    side = min(1.0, free / (1 + beside * count))
    step = beside * (side + _GAP) + _BETWEEN
    first = _EDGE + side + _BETWEEN
    image_places = ImageGrid(sizes["n"], top=_TOP, head=_ROW, largest=side)
    # A block a method, as wide as its maps.
    map_places = ImageGrid(
        sizes["n"] * count, count, beside, width=first + count * step, top=_TOP, head=_ROW,
        edges=(first, _GAP + _BETWEEN), gap=_GAP, between=_GAP + _BETWEEN, largest=side,
    )  # fmt: skip
    figure = new_figure(PAGE, image_places.bottom + _FOOT, constrained=False)
    for k, name in enumerate(methods):
        head = text_axes(figure, first + k * step, 0, step, _TOP)
        _name_method(head, literal_name(name), [j * (side + _GAP) for j in range(beside)])
    for index in range(sizes["n"]):
        axes = image_places.axes(figure, index)
        show_image(axes, pixels[index])
        write_above(axes, display_name(names[y[index]], 24), 6.5)
        for k, name in enumerate(methods):
            for place, batch in enumerate(values[name]):
                axes = map_places.axes(figure, index * count + k, place)
                if name in signed:
                    show_image(axes, _colours(batch[index]))
                else:
                    _draw_map(axes, batch[index], pixels[index], name in laid_over)
            if beside > 1:
                write_above(axes, _rank_text(rho[k, index]), 6.5)
    return figure


def _rank_text(rho: float) -> str:
    return f"ρ {signed_text(rho)}" if np.isfinite(rho) else "ρ none"


def _name_method(axes: Axes, name: str, lefts: Sequence[float]) -> None:
    axes.text(0, 0.18, name, va="bottom", fontsize=7.5, weight="bold")
    for left, weights in zip(lefts, ("network", "random"), strict=False):
        axes.text(left, 0.03, weights, va="bottom", fontsize=6.5, color=MUTED)


def _draw_map(axes: Axes, values: Array, image: Array, over: bool) -> None:
    top = _largest_but_few(values)
    if over:
        show_image(axes, pale(image))
        # Cells, not a smooth surface: they are all that the layer tells of positions.
        heat(axes, np.clip(values / top, 0, 1))
        return
    axes.imshow(np.clip(values / top, 0, 1), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.axis("off")


def _colours(values: Array) -> Array:
    """Signed values `[channels, H, W]` as a picture around grey, `[H, W, 3]`."""
    picture = np.clip(0.5 + 0.5 * values / _largest_but_few(values), 0, 1).transpose(1, 2, 0)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else np.asarray(picture)


def _largest_but_few(values: Array) -> float:
    """Largest absolute value but for a few that stand out, so that these do not hide the rest."""
    top = float(np.quantile(np.abs(values), _SHARE)) or float(np.abs(values).max())
    return top or 1.0
