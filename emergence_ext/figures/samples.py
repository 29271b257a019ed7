"""Sample features and category directions (Fig. 2, 10 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .inputs import Array, Sizes
from .space import (
    best_cameras,
    draw_names,
    draw_points,
    draw_rays,
    draw_strength_scale,
    extent,
    name_places,
    open_panel,
    strength_reach,
)
from .style import (
    LEGEND_ROW,
    NOTE,
    PAGE,
    category_legend,
    display_name,
    inch_axes,
    legend_height,
    new_figure,
    note,
    styled,
)


@styled
def samples(
    g: Any,
    labels: Any,
    directions: Any,
    categories: Sequence[str],
    *,
    max_points: int = 2000,
    random_state: int = 0,
) -> Figure:
    """Draw projected sample features among the category directions, from two sides (Fig. 2).

    A point's distance from the origin is its strength. A ray is bold up to its category's mean
    strength; it is dashed where it points away from the viewer.

    Args:
        g: projected sample features, `[N, dim]`, dim 3 or 2.
        labels: true categories, `[N]`.
        directions: category directions mu, `[C, dim]`.
        categories: names, `[C]`.
        max_points: at most so many samples are drawn.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.
    """
    sizes = Sizes("samples")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    points = sizes.spatial("g", g, "N dim")
    y = sizes.labels(labels, names)
    reach = strength_reach(points)
    strengths = mean_strengths(points, y, len(names))
    views = best_cameras(mu, 2 if sizes["dim"] == 3 else 1)

    chosen, remark = drawable(points, reach, max_points, random_state)
    # The first view carries the names; the marks at the ray ends name the directions in the second.
    margin = 0.1 + 0.058 * max(len(display_name(c)) for c in names)
    width = 0.6 * PAGE
    unit = 1.12 * reach / (width / 2 - margin)
    places = name_places(views[0], mu, reach, line_height=0.13 * unit)
    half = max(extent(view, reach, points[chosen], reach * mu)[1] for view in views)
    half = max(half, *(abs(level) for _, _, level in places)) + 0.1 * unit
    height = 2 * half / unit
    figure = new_figure(PAGE if len(views) == 2 else width, height + NOTE, constrained=False)
    for index, camera in enumerate(views):
        panel = width if index == 0 else PAGE - width
        axes = inch_axes(figure, width * index, 0, panel, height)
        open_panel(axes, unit * panel / 2, half)
        draw_strength_scale(axes, camera, reach, "g")
        draw_rays(axes, camera, mu, reach, strengths)
        draw_points(axes, camera, points[chosen], y[chosen], size=8, alpha=0.8)
        if index == 0:
            draw_names(axes, camera, mu, names, reach, places)
        note(axes, remark if index == 0 else "the same from another side")
    return figure


@styled
def samples_through_epochs(
    g: Any,
    labels: Any,
    directions: Any,
    categories: Sequence[str],
    epochs: Sequence[Any],
    *,
    accuracies: Sequence[float] | None = None,
    max_points: int = 600,
    random_state: int = 0,
) -> Figure:
    """Draw the sample features of every checkpoint in one fixed frame and scale (Fig. 11).

    Args:
        g: projected sample features, `[T, N, dim]`, dim 3 or 2.
        labels: true categories, `[N]`.
        directions: category directions mu of the frame, `[C, dim]`.
        categories: names, `[C]`.
        epochs: names of the checkpoints, `[T]`; numbers are shown as "epoch n".
        accuracies: accuracy of the network at each checkpoint, `[T]`, in 0..1, shown beside it.
        max_points: at most so many samples are drawn, the same in every panel.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.
    """
    sizes = Sizes("samples_through_epochs")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    points = sizes.spatial("g", g, "T N dim")
    y = sizes.labels(labels, names)
    titles = [checkpoint_name(e) for e in sizes.names("epochs", epochs, "T")]
    if accuracies is not None:
        rates = sizes.numbers("accuracies", accuracies, "T")
        titles = [f"{t}, {r:.0%} right" for t, r in zip(titles, rates, strict=True)]
    reach = strength_reach(points)
    camera = best_cameras(mu)[0]
    half_width, half_height = extent(camera, reach, points, reach * mu)
    figure, panels = panel_grid(titles, names, half_height / half_width)
    for time, axes in enumerate(panels):
        open_panel(axes, half_width, half_height)
        draw_strength_scale(axes, camera, reach, "g", named=time == 0)
        draw_rays(axes, camera, mu, reach, mean_strengths(points[time], y, len(names)), width=1.4)
        chosen, remark = drawable(points[time], reach, max_points, random_state)
        draw_points(axes, camera, points[time][chosen], y[chosen], size=4, alpha=0.8)
        note(axes, remark)
    return figure


def panel_grid(
    titles: Sequence[str], categories: Sequence[str], aspect: float
) -> tuple[Figure, list[Axes]]:
    """Return a page of panels, `aspect` = height / width, with titles and one key.

    The key takes the place of a missing last panel where there is one, else the lower edge.
    """
    count = len(titles)
    columns = min(count, 3 if count in (5, 6, 9) else 4)
    rows = -(-count // columns)
    width = PAGE / max(columns, 2)
    height, head = width * aspect, 0.24
    step = head + height + NOTE
    free = columns * rows > count and LEGEND_ROW * len(categories) <= height
    key = 0.1 if free else legend_height(categories, PAGE)
    figure = new_figure(PAGE, rows * step + key, constrained=False)
    start = (PAGE - columns * width) / 2
    panels = []
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        top = row * step + head
        axes = inch_axes(figure, start + column * width, top, width, height)
        axes.set_title(title, x=0.02, pad=3)
        panels.append(axes)
    if free:
        place = inch_axes(figure, PAGE - width, (rows - 1) * step + head, width, height)
        place.axis("off")
        category_legend(place, categories)
    else:
        category_legend(figure, categories)
    return figure, panels


def checkpoint_name(label: Any) -> str:
    """Return "epoch 3" for the number 3 and any other label as a plain name."""
    text = str(label)
    return f"epoch {text}" if text.replace(".", "", 1).isdigit() else display_name(text, 24)


def mean_strengths(points: Array, labels: Array, count: int) -> Array:
    """Return the mean strength of the finite points of every category, `[C]`, NaN where none is."""
    strength = np.linalg.norm(points, axis=-1)
    good = np.isfinite(strength)
    members = [strength[good & (labels == c)] for c in range(count)]
    return np.array([m.mean() if m.size else np.nan for m in members])


def drawable(points: Array, reach: float, max_points: int, random_state: int) -> tuple[Array, str]:
    """Return the indices of points `[n, 3]` that are drawn, and what must be said of the others.

    The draw depends on n and the seed alone, so the same points appear in every panel.
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    total = len(points)
    order = np.random.default_rng(random_state).permutation(total)[:max_points]
    strength = np.linalg.norm(points, axis=1)
    broken = ~np.isfinite(strength)
    outside = ~broken & (strength > reach * 1.1)
    remarks = []
    if total > max_points:
        remarks.append(f"{max_points:,} of {total:,} drawn")
    if broken.any():
        remarks.append(f"{int(broken.sum()):,} not finite")
    if outside.any():
        remarks.append(f"{int(outside.sum()):,} beyond the frame")
    chosen = np.sort(order)
    return chosen[~(broken | outside)[chosen]], ", ".join(remarks)
