"""The images, or the patches in them, that excite directions of a layer most."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.style import PAGE, figure_note, literal_name, styled
from emergence_ext.figures.tiles import (
    ImageGrid,
    Place,
    open_page,
    put_box,
    put_image,
    three_digits,
)

_EDGE, _LABEL = 0.08, 0.86  # inches


@styled
def exciting_images(
    images: Any,
    boxes: Any,
    values: Any,
    names: Sequence[str],
    layer: str,
    *,
    whole: bool = False,
    remark: str = "",
) -> Figure:
    """Show in a row for each direction the images that excite it most, with the region that does.

    Args:
        images: in 0..1, `[D, k, channels, H', W']`.
        boxes: (top, left, bottom, right) of the region in pixels, `[D, k, 4]`.
        values: what is written under each, `[D, k]`.
        names: of the directions, `[D]`.
        layer: its name.
        whole: whether a region sees all of the image, so that the box is only its cell; drawn
            dashed.
        remark: what else has to be said of the whole figure.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> images, boxes = torch.rand(1, 2, 3, 8, 8), [[[0, 0, 4, 4], [2, 2, 6, 6]]]
        >>> figures.exciting_images(images, boxes, [[3.1, 2.9]], ["channel 7"], "conv2")
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("exciting_images")
    rows = sizes.names("names", names, "D")
    value = sizes.numbers("values", values, "D k")
    box = sizes.numbers("boxes", boxes, "D k 4")
    pixels = sizes.numbers("images", images, "D k channels height width")
    flat = as_pixels(Sizes("exciting_images"), pixels.reshape(-1, *pixels.shape[2:]))
    figure, page, layout = _open_rows(rows, sizes["k"])
    for d, j in np.ndindex(*value.shape):
        picture, place = flat[d * sizes["k"] + j], layout.place(d, j)
        put_image(page, picture, place)
        size = (picture.shape[0], picture.shape[1])
        put_box(page, box[d, j].tolist(), size, place, ls=(0, (1, 1)) if whole else "-")
        _write_value(page, float(value[d, j]), place)
    box_is = (
        "dashed its cell of the map: it sees (nearly) all of the image"
        if whole
        else ("the box is what it sees (its receptive field)")
    )
    figure_note(
        figure,
        f"{literal_name(layer)}: each image once, at the region with its highest value; {box_is}.\n"
        f"Under it the value. {remark}".rstrip(),
        0.06,
    )
    return figure


@styled
def exciting_patches(
    patches: Sequence[Sequence[Any]], values: Any, names: Sequence[str], layer: str
) -> Figure:
    """Show in a row for each direction what the regions see that excite it most.

    Args:
        patches: `[D][k]` parts of images, each `[channels, h, w]` in 0..1; sizes may differ, at the
            border of an image a region sees less.
        values: what is written under each, `[D, k]`.
        names: of the directions, `[D]`.
        layer: its name.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> patches = [[torch.rand(3, 4, 4), torch.rand(3, 4, 2)]]
        >>> figures.exciting_patches(patches, [[3.1, 2.9]], ["channel 7"], "conv2")
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("exciting_patches")
    rows = sizes.names("names", names, "D")
    value = sizes.numbers("values", values, "D k")
    figure, page, layout = _open_rows(rows, sizes["k"])
    for d, j in np.ndindex(*value.shape):
        patch = as_pixels(Sizes("exciting_patches"), np.asarray(patches[d][j])[None])[0]
        left, top, side, _ = place = layout.place(d, j)
        height, width = np.array(patch.shape[:2]) * side / max(patch.shape[:2])
        put_image(page, patch, (left, top + side - height, width, height))
        _write_value(page, float(value[d, j]), place)
    figure_note(
        figure,
        f"{literal_name(layer)}: what the region sees that excites a direction most, of each image "
        "the best; under it the value.",
        0.06,
    )
    return figure


def _open_rows(names: Sequence[str], k: int) -> tuple[Figure, Axes, ImageGrid]:
    """Return an empty figure with named rows, and where k images lie in each."""
    layout = ImageGrid(
        len(names), cells=k, edges=(_LABEL, _EDGE), top=_EDGE, foot=0.16, gap=0.05, largest=0.8
    )
    figure, page = open_page(PAGE, layout.bottom + 0.38)
    for d, name in enumerate(names):
        middle = layout.place(d)[1] + layout.side / 2
        page.text(_EDGE, middle, fill(literal_name(name, 36), 14), va="center", fontsize=7)
    return figure, page, layout


def _write_value(page: Axes, value: float, place: Place) -> None:
    left, top, _, height = place
    page.text(left, top + height + 0.02, three_digits(value), va="top", fontsize=5.5)
