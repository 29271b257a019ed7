"""New images in the frame of a run: among its samples, the most unlike, and what is similar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.images import as_pixels, heat, outline, pale, region_maps, show_image
from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.samples import drawable, mean_strengths, panel_grid, scale_note
from emergence_ext.figures.space import (
    Camera,
    best_cameras,
    draw_points,
    onto_rim,
    open_frame,
    strength_reach,
)
from emergence_ext.figures.style import (
    INK,
    PAGE,
    axes_note,
    category_style,
    display_name,
    figure_note,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid, put_box, write_above, write_below

_LAYOUT: dict[str, Any] = {"edges": (0.08, 0.08), "head": 0.18, "gap": 0.04}  # inches
_PIXEL = ((1, 1), (0, 0, 1, 1), (2.2, 1.0))  # a data unit of an image's axes is a pixel


@styled
def new_samples(
    g: Any,
    labels: Any,
    new: Any,
    says: Any,
    unlike: Any,
    directions: Any,
    categories: Sequence[str],
    *,
    max_points: int = 1000,
    random_state: int = 0,
) -> Figure:
    """Draw new samples among those of a run in its frame, from two sides.

    The run's are pale, as are rays up to their mean strength; the new ones are outlined, in the
    look of what the network says, and crossed where they are unlike anything in the run.

    Args:
        g: projected sample features of the run, `[N, dim]`, dim 3 or 2.
        labels: their true categories, `[N]`.
        new: projected sample features of the new images, `[n, dim]`.
        says: what the network says of these, `[n]`.
        unlike: which of them are unlike anything in the run, `[n]`.
        directions: category directions mu, `[C, dim]`.
        categories: names, `[C]`.
        max_points: at most so many of either are drawn.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.

    Examples:
        >>> from emergence_ext import figures
        >>> mu, names = torch.eye(3), ["cat", "dog", "frog"]
        >>> figures.new_samples(3 * mu, [0, 1, 2], 2 * mu[:1], [0], [False], mu, names)
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("new_samples")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    old, y = sizes.spatial("g", g, "N dim"), sizes.labels(labels, names)
    points, said = sizes.spatial("new", new, "n dim"), sizes.labels(says, names, "n")
    crossed = sizes.flags("unlike", unlike, "n")
    reach = strength_reach(np.concatenate([old, points]))
    views = best_cameras(mu, 2 if sizes["dim"] == 3 else 1)
    scale = scale_note(f"The sphere marks |g| = {reach:g}.", len(old), max_points, "run samples")
    legend = "Pale: the run's held-out images. Outlined: new ones, by what the network says."
    legend = f"{legend} Crossed: unlike the run. {scale}"
    titles = ("New images among the run's", "The same from another side")
    figure, panels = panel_grid(titles[: len(views)], names, legend)
    for axes, camera in zip(panels, views, strict=True):
        open_frame(axes, camera, mu, reach, mean_strengths(old, y, len(names)), 1.4)
        chosen, _ = drawable(old, reach, max_points, random_state)
        draw_points(axes, camera, onto_rim(old[chosen], reach), y[chosen], size=5, alpha=0.3)
        chosen, remark = drawable(points, reach, max_points, random_state)
        seen = onto_rim(points[chosen], reach)
        _draw_new(axes, camera, seen, said[chosen], crossed[chosen])
        shown = f"{len(chosen):,} of {len(points):,} new" if len(chosen) < len(points) else ""
        axes_note(axes, ", ".join(filter(None, (shown, remark))))
    return figure


def _draw_new(axes: Axes, camera: Camera, points: Array, says: Array, crossed: Array) -> None:
    flat, _ = camera.project(points)
    for category in np.unique(says):
        look, of = category_style(int(category)), says == category
        axes.scatter(
            flat[of, 0], flat[of, 1], s=17, marker=look.marker, color=look.color, edgecolors=INK,
            linewidths=0.8, zorder=7,
        )  # fmt: skip
    axes.plot(*flat[crossed].T, "x", color=INK, ms=5.5, mew=0.7, zorder=8)


@styled
def unlike_images(
    images: Any,
    likeness: Any,
    unlike: Any,
    grid: tuple[int, int],
    titles: Sequence[str],
    told: Sequence[str],
    *,
    remark: str = "",
    columns: int = 4,
) -> Figure:
    """Show images in the given order, each beside the map of how unlike the run its regions are.

    Args:
        images: in 0..1, `[n, channels, H', W']`.
        likeness: cosine of each region with the most similar one of the run, in the layer in which
            the image is least like it, `[n, R]`.
        unlike: regions that are unlike any of the run there, `[n, R]`; outlined.
        grid: height and width of the map of regions, `R = H * W`.
        titles: what stands above each, `[n]`.
        told: what stands below each, two lines, `[n]`.
        remark: what else has to be said of the whole figure.
        columns: pairs of image and map in a row.

    Raises:
        ValueError: shapes that do not fit, or a grid that does not hold R regions.

    Examples:
        >>> from emergence_ext import figures
        >>> likeness = torch.rand(2, 4)
        >>> args = (likeness, likeness < 0.2, (2, 2), ["cat", "dog"], ["in conv1", "in conv1"])
        >>> figures.unlike_images(torch.rand(2, 3, 8, 8), *args)
        <ShownFigure size ... with 4 Axes>
    """
    sizes = Sizes("unlike_images")
    pictures = as_pixels(sizes, images)
    far = 1 - region_maps(sizes.numbers("likeness", likeness, "n R"), grid, sizes)
    out = region_maps(sizes.flags("unlike", unlike, "n R"), grid, sizes)
    heads, feet = sizes.names("titles", titles, "n"), sizes.names("told", told, "n")
    most = float(far.max()) or 1.0
    layout = ImageGrid(len(pictures), columns, 2, **_LAYOUT, foot=0.3, between=0.16)
    figure = new_figure(PAGE, layout.bottom + 0.42, constrained=False)
    limit = int(layout.block / 0.055)
    for index, picture in enumerate(pictures):
        axes = layout.axes(figure, index)
        show_image(axes, picture)
        write_above(axes, literal_name(heads[index], limit))
        write_below(axes, feet[index])
        axes = layout.axes(figure, index, 1)
        show_image(axes, pale(picture))
        heat(axes, far[index] / most)
        outline(axes, out[index])
    figure_note(
        figure,
        f"Colour: 1 \u2212 cos with the run's most similar region, full at {most:.2g}, in the "
        f"layer that is named. Outlined: below the limit of regions there.\n{remark}".strip(),
        0.06,
    )
    return figure


@styled
def similar_regions(
    images: Any,
    cells: Any,
    others: Any,
    other_cells: Any,
    told: Sequence[tuple[str, str]],
    *,
    remark: str = "",
    columns: int = 3,
) -> Figure:
    """Show regions of new images, each beside the most similar region of the run.

    Args:
        images: of each region, in 0..1, `[n, channels, H', W']`.
        cells: (top, left, bottom, right) of the region in pixels, `[n, 4]`.
        others: the run's images with the most similar regions, `[n, channels', H'', W'']`.
        other_cells: these, as `cells`, `[n, 4]`.
        told: what stands below the new and the run's image, two lines each, `[n]` pairs.
        remark: what else has to be said of the whole figure.
        columns: pairs of images in a row.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> from emergence_ext import figures
        >>> new, old, cell = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), [[0, 0, 4, 4]]
        >>> figures.similar_regions(new, cell, old, cell, [("new: cat", "run: dog")])
        <ShownFigure size ... with 2 Axes>
    """
    sizes = Sizes("similar_regions")
    pictures = as_pixels(sizes, images)
    boxes = sizes.numbers("cells", cells, "n 4")
    beside = as_pixels(Sizes("similar_regions", n=sizes["n"]), others)
    beside_boxes = sizes.numbers("other_cells", other_cells, "n 4")
    if len(told) != len(pictures):
        raise ValueError(
            f"similar_regions: told must name n={len(pictures)} items, got {len(told)}"
        )
    layout = ImageGrid(len(pictures), columns, 2, **_LAYOUT, foot=0.34, between=0.2)
    figure = new_figure(PAGE, layout.bottom + 0.42, constrained=False)
    limit = int(layout.side / 0.052)
    for index, words in enumerate(told):
        pair = ((pictures, boxes), (beside, beside_boxes))
        for side, ((pixels, where), text) in enumerate(zip(pair, words, strict=True)):
            axes = layout.axes(figure, index, side)
            show_image(axes, pixels[index])
            put_box(axes, where[index], *_PIXEL)
            write_above(axes, ("new", "most similar in the run")[side])
            write_below(axes, "\n".join(display_name(x, limit) for x in text.split("\n")))
    figure_note(
        figure, f"The box is the region; it sees more of the image.\n{remark}".strip(), 0.06
    )
    return figure
