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
    inch_axes,
    literal_name,
    new_figure,
    signed_text,
    styled,
)

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
    """
    sizes = Sizes("attributions")
    names = sizes.names("categories", categories, "C")
    methods = sizes.names("maps", list(maps), "methods")
    pixels = as_pixels(sizes, images)
    rho = sizes.numbers("similarity", similarity, "methods n")
    y = sizes.labels(labels, names, "n")
    shown = {}
    for name, pair in maps.items():
        letters = "n channels height width" if name in signed else f"n H{name} W{name}"
        shown[name] = [sizes.numbers(name, x, letters) for x in pair if x is not None]
    count, beside = len(methods), max(len(pair) for pair in shown.values())
    free = PAGE - 2 * _EDGE - count * (beside * _GAP + _BETWEEN)
    side = min(1.0, free / (1 + beside * count))
    step = beside * (side + _GAP) + _BETWEEN
    figure = new_figure(PAGE, _TOP + sizes["n"] * (side + _ROW) + _FOOT, constrained=False)
    for k, name in enumerate(methods):
        head = inch_axes(figure, _EDGE + side + _BETWEEN + k * step, 0, step, _TOP)
        head.text(0, 0.5, literal_name(name), va="bottom", fontsize=7.5, weight="bold")
        for place, told in enumerate(("network", "random")[:beside]):
            x = place * (side + _GAP) / step
            head.text(x, 0.08, told, va="bottom", fontsize=6.5, color=MUTED)
        head.axis("off")
    for index in range(sizes["n"]):
        top = _TOP + index * (side + _ROW) + _ROW
        axes = inch_axes(figure, _EDGE, top, side, side)
        show_image(axes, pixels[index])
        _above(axes, display_name(names[y[index]], 24))
        for k, name in enumerate(methods):
            left = _EDGE + side + _BETWEEN + k * step
            for place, values in enumerate(shown[name]):
                axes = inch_axes(figure, left + place * (side + _GAP), top, side, side)
                if name in signed:
                    show_image(axes, _colours(values[index]))
                else:
                    _draw_map(axes, values[index], pixels[index], name in laid_over)
            if beside > 1:
                r = rho[k, index]
                told = f"ρ {signed_text(r)}"
                _above(axes, told if np.isfinite(r) else "ρ none")
    return figure


def _draw_map(axes: Axes, values: Array, image: Array, over: bool) -> None:
    top = _scale(values)
    if over:
        show_image(axes, pale(image))
        # Cells, not a smooth surface: they are all that the layer tells of positions.
        heat(axes, np.clip(values / top, 0, 1))
        return
    axes.imshow(np.clip(values / top, 0, 1), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.axis("off")


def _colours(values: Array) -> Array:
    """Signed values `[channels, H, W]` as a picture around grey, `[H, W, 3]`."""
    picture = np.clip(0.5 + 0.5 * values / _scale(values), 0, 1).transpose(1, 2, 0)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else np.asarray(picture)


def _scale(values: Array) -> float:
    """Largest absolute value but for a few that stand out, so that these do not hide the rest."""
    top = float(np.quantile(np.abs(values), _SHARE)) or float(np.abs(values).max())
    return top or 1.0


def _above(axes: Axes, text: str) -> None:
    axes.text(0, 1.02, text, transform=axes.transAxes, fontsize=6.5, va="bottom")
