"""Sample features and category directions (Fig. 2, 10 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.space import (
    MARGIN,
    best_cameras,
    draw_names,
    draw_points,
    draw_rays,
    draw_strength_scale,
    name_places,
    onto_rim,
    open_frame,
    open_panel,
    strength_reach,
)
from emergence_ext.figures.style import (
    LEGEND_ROW,
    NOTE,
    PAGE,
    axes_note,
    category_legend,
    display_name,
    figure_note,
    inch_axes,
    legend_height,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import ImageGrid

_NAMED, _BARE = 2.3, 2.0 * MARGIN  # widths of a view beside its names, and of one without
_HEAP = 0.08  # below this share of the scale, all points look like one


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

    Examples:
        >>> from emergence_ext import figures
        >>> g, labels = torch.randn(9, 3), [0, 1, 2] * 3
        >>> figures.samples(g, labels, torch.eye(3), ["cat", "dog", "frog"])
        <ShownFigure size ... with 2 Axes>
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
    margin = 0.12 + 0.058 * max(len(display_name(c)) for c in names)
    width = PAGE if len(views) == 2 else 0.6 * PAGE
    inches = (width - 2 * margin) / (_NAMED + (_BARE if len(views) == 2 else 0))
    unit = reach / inches  # strength of one inch, in both views
    places = name_places(views[0], mu, reach, line_height=0.13 * unit)
    half = max(1.06 * reach, *(abs(level) + 0.08 * unit for _, _, level in places))
    height, head = 2 * half / unit, 0.26
    figure = new_figure(width, head + height + (NOTE if remark else 0) + 0.22, constrained=False)
    left = 0.0
    titles = ("Samples by direction and strength", "The same from another side")
    for camera, title in zip(views, titles, strict=False):
        first = camera is views[0]
        panel = _NAMED * inches + 2 * margin if first else _BARE * inches
        axes = inch_axes(figure, left, head, panel, height)
        left += panel
        open_panel(axes, unit * panel / 2, half)
        axes.set_title(title, x=0.02)
        draw_strength_scale(axes, camera, reach)
        draw_rays(axes, camera, mu, reach, strengths)
        draw_points(axes, camera, onto_rim(points[chosen], reach), y[chosen], size=8, alpha=0.8)
        if first:
            draw_names(axes, camera, mu, names, reach, places)
            axes_note(axes, remark)
    scale = scale_note(f"The sphere marks |g| = {reach:g}.", len(points), max_points, "samples")
    figure_note(figure, scale, 0.05)
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

    Examples:
        >>> from emergence_ext import figures
        >>> g, labels = torch.randn(2, 9, 3), [0, 1, 2] * 3
        >>> figures.samples_through_epochs(
        ...     g, labels, torch.eye(3), ["cat", "dog", "frog"], epochs=[0, 10]
        ... )
        <ShownFigure size ... with 2 Axes>
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
    reach = strength_reach(points[-1])
    camera = best_cameras(mu)[0]
    scale = scale_note(f"The sphere marks |g| = {reach:g}.", len(y), max_points, "samples")
    figure, panels = panel_grid(titles, names, scale)
    for time, axes in enumerate(panels):
        open_frame(axes, camera, mu, reach, mean_strengths(points[time], y, len(names)), 1.4)
        chosen, remark = drawable(points[time], reach, max_points, random_state)
        seen = onto_rim(points[time][chosen], reach)
        draw_points(axes, camera, seen, y[chosen], size=4, alpha=0.8)
        axes_note(axes, remark)
    return figure


def panel_grid(
    titles: Sequence[str],
    categories: Sequence[str],
    remark: str,
    *,
    widest: float = PAGE / 2,
    aspect: float = 1.0,
    below: float = 0.2,
    least_key: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Return a page of panels with titles, one key, and a remark below that holds for all.

    The key takes the place of a missing last panel where there is one, else the lower edge.

    Args:
        titles: of the panels.
        categories: names for the key.
        remark: is written right below the panels.
        widest: width of a panel, at most.
        aspect: height of a panel in units of its width.
        below: inches between the panels and the key, for the remark and more.
        least_key: inches at the lower edge where the key stands among the panels.
    """
    count = len(titles)
    columns = min(count, 3 if count in (5, 6, 9) else 4)
    side = min(PAGE / columns, widest)
    edge = (PAGE - columns * side) / 2
    grid = ImageGrid(count, columns, edges=(edge, edge), head=0.24, foot=NOTE, aspect=aspect)
    free = count % columns > 0 and LEGEND_ROW * len(categories) <= grid.height
    key = least_key if free else legend_height(categories, PAGE)
    figure = new_figure(PAGE, grid.bottom + below + key, constrained=False)
    panels = [grid.axes(figure, index) for index in range(count)]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, x=0.02, pad=3)
    if free:
        place = grid.axes(figure, columns * -(-count // columns) - 1)
        place.axis("off")
        category_legend(place, categories)
    else:
        category_legend(figure, categories)
    figure_note(figure, remark, key + below - 0.145)
    return figure, panels


def scale_note(scale: str, total: int, max_points: int, what: str) -> str:
    """Return the remark that holds for all panels: the scale, and how many points are drawn."""
    drawn = f" {max_points:,} of {total:,} {what} are drawn." if total > max_points else ""
    return f"{scale}{drawn}"


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
    """Return the indices of points `[n, 3]` that are drawn, and what must be said of this panel.

    The draw depends on n and the seed alone, so the same points appear in every panel.

    Examples:
        >>> from emergence_ext import figures
        >>> points = torch.rand(50, 3).double().numpy()
        >>> chosen, remark = figures.drawable(points, reach=2.0, max_points=10, random_state=0)
        >>> len(chosen), remark
        (10, '')
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    total = len(points)
    chosen = np.sort(np.random.default_rng(random_state).permutation(total)[:max_points])
    strength = np.linalg.norm(points, axis=1)
    good = np.isfinite(strength)
    remarks = []
    if not good.all():
        remarks.append(f"{int((~good).sum()):,} not finite")
    outside = int((strength[good] > reach * (1 + 1e-9)).sum())
    if outside:
        share = f"{outside / total:.1%}" if outside >= total / 1000 else "under 0.1%"
        remarks.append(f"{share} lie beyond, drawn on the sphere")
    elif good.any() and strength[good].max() < _HEAP * reach:
        remarks.append(f"all in one heap at the centre, within {strength[good].max():.2g} of it")
    return chosen[good[chosen]], ", ".join(remarks)
