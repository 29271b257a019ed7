"""What hiding a part of an image, or of a layer, does to a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emergence_ext.figures.images import as_pixels, by_largest, region_maps, show_image
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    PAGE,
    correlation_text,
    display_name,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, color_key, name_column, write_above

_LAYOUT: dict[str, Any] = {"head": 0.19, "gap": 0.04, "between": 0.16}  # inches
_FOOT = 0.55  # inches below the images, for the keys of colours
_SCALES = (
    "probability of the class with the window there",
    "loss of log odds, in shares of the map's largest",
)


@styled
def occlusion_maps(
    images: Any,
    p: Any,
    p_whole: Any,
    loss: Any,
    boxes: Any,
    labels: Any,
    categories: Sequence[str],
    *,
    columns: int = 2,
) -> Figure:
    """Show the probability of a class with a window over each position, beside each image.

    The second map holds the same as log odds, less than those of the whole image, scaled to its
    largest absolute value: it shows what matters where the network stays sure as well. The first
    window is drawn on the image. A map's cells lie where the windows' centres do.

    Args:
        images: in 0..1, `[n, 3, height, width]` or `[n, 1, height, width]`.
        p: probability with the window at each position, `[n, H, W]`.
        p_whole: probability of the whole image, `[n]`.
        loss: by how much the log odds fall with the window at each position, `[n, H, W]`.
        boxes: the windows in pixels, `(top, left, bottom, right)`, `[H, W, 4]`.
        labels: the class that is looked at, `[n]`.
        categories: names, `[C]`.
        columns: images in a row.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> images, p, boxes = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 2), torch.full((2, 2, 4), 4)
        >>> figures.occlusion_maps(images, p, [0.9], -p, boxes, [0], ["cat", "dog"])
        <ShownFigure size ... with 5 Axes>
    """
    sizes = Sizes("occlusion_maps")
    names = sizes.names("categories", categories, "C")
    pixels = as_pixels(sizes, images)
    hidden = sizes.numbers("p", p, "n H W")
    whole = sizes.numbers("p_whole", p_whole, "n")
    fallen, largest = by_largest(sizes.numbers("loss", loss, "n H W"))
    windows = sizes.numbers("boxes", boxes, "H W 4")
    y = sizes.labels(labels, names, "n")
    layout = ImageGrid(sizes["n"], columns, 3, **_LAYOUT, largest=1.6)
    figure = new_figure(PAGE, layout.bottom + _FOOT, constrained=False)
    across = _borders(windows[0, :, 1], windows[0, :, 3], pixels.shape[2])
    down = _borders(windows[:, 0, 0], windows[:, 0, 2], pixels.shape[1])
    for index in range(sizes["n"]):
        axes = layout.axes(figure, index)
        show_image(axes, pixels[index])
        write_above(axes, display_name(names[y[index]], 16))
        upper, start, lower, end = windows[0, 0]
        axes.add_patch(
            Rectangle((start, upper), end - start, lower - upper, fc="0.5", ec="white", lw=0.8)
        )
        least, most = hidden[index].min(), largest[index]
        for k, (values, colors, ends, title) in enumerate(
            (
                (hidden[index], "cividis", (0, 1), f"p {whole[index]:.2f}, least {least:.2f}"),
                (fallen[index], "RdBu_r", (-1, 1), f"± {most:.2g} in log odds"),
            ),
            start=1,
        ):
            axes = layout.axes(figure, index, k)
            colored = axes.pcolormesh(across, down, values, cmap=colors, vmin=ends[0], vmax=ends[1])
            axes.set(xlim=(0, pixels.shape[2]), ylim=(pixels.shape[1], 0))
            axes.axis("off")
            write_above(axes, title)
            if index == 0:
                middle = (2 * k - 1) * PAGE / 4
                color_key(figure, colored, _SCALES[k - 1], middle, layout.bottom + 0.1)
    return figure


@styled
def occlusion_regions(
    images: Any,
    loss: Any,
    others: Mapping[str, tuple[Any, Any]],
    grid: tuple[int, int],
    labels: Any,
    categories: Sequence[str],
    *,
    columns: int = 2,
) -> Figure:
    """Show what the regions of a layer are worth by occlusion, beside other importances of theirs.

    Every map is scaled to its largest absolute value; red adds to the class, blue takes away.

    Args:
        images: in 0..1, `[n, 3, height, width]` or `[n, 1, height, width]`.
        loss: by how much the logit falls where a region is hidden, `[n, R]`.
        others: name of another importance -> its values around what is neutral, `[n, R]`, and its
            rank correlation with `loss` in each image, `[n]`, NaN where it is undefined.
        grid: height and width of the map of regions, `R = H * W`.
        labels: the class that is looked at, `[n]`.
        categories: names, `[C]`.
        columns: images in a row.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> loss = torch.randn(1, 4)
        >>> others = {"w": (loss / 2, [0.9])}
        >>> figures.occlusion_regions(
        ...     torch.rand(1, 3, 8, 8), loss, others, (2, 2), [0], ["cat", "dog"]
        ... )
        <ShownFigure size ... with 6 Axes>
    """
    sizes = Sizes("occlusion_regions")
    names = sizes.names("categories", categories, "C")
    pixels = as_pixels(sizes, images)
    fallen, largest = by_largest(sizes.numbers("loss", loss, "n R"))
    y = sizes.labels(labels, names, "n")
    maps = {"occlusion": region_maps(fallen, grid, sizes)}
    titles = {"occlusion": [f"± {most:.2g} logits" for most in largest]}
    for name, (values, rho) in others.items():
        scaled, _ = by_largest(sizes.numbers(name, values, "n R"))
        maps[name] = region_maps(scaled, grid, sizes)
        rank = sizes.numbers(f"{name}, correlation", rho, "n")
        titles[name] = [correlation_text(r) for r in rank]
    layout = ImageGrid(sizes["n"], columns, 1 + len(maps), **_LAYOUT, top=0.19, largest=1.1)
    figure = new_figure(PAGE, layout.bottom + _FOOT, constrained=False)
    for index in range(sizes["n"]):
        axes = layout.axes(figure, index)
        show_image(axes, pixels[index])
        write_above(axes, display_name(names[y[index]], 16))
        for k, (name, values) in enumerate(maps.items(), start=1):
            axes = layout.axes(figure, index, k)
            colored = axes.imshow(values[index], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
            axes.axis("off")
            write_above(axes, titles[name][index])
            if index < columns:
                name_column(figure, layout, index, k, literal_name(name))
    meaning = "in shares of the map's largest; ρ: rank correlation with occlusion"
    color_key(figure, colored, meaning, PAGE / 2, layout.bottom + 0.1)
    return figure


def _borders(starts: Array, ends: Array, side: int) -> Array:
    """Borders between windows: halfway between neighbouring centres, the image's at its ends."""
    centres = (starts + ends) / 2
    return np.concatenate([[0], (centres[1:] + centres[:-1]) / 2, [side]])
