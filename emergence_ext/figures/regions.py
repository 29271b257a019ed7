"""Regional features through training (Fig. 3) and through the layers (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .inputs import Array, Sizes
from .samples import checkpoint_name, drawable, panel_grid
from .space import (
    Camera,
    best_cameras,
    draw_ellipsoid,
    draw_points,
    draw_rays,
    draw_strength_scale,
    extent,
    gaussian,
    open_panel,
    strength_reach,
)
from .style import (
    FAINT,
    MUTED,
    NOTE,
    PAGE,
    category_legend,
    category_style,
    inch_axes,
    legend_height,
    literal_name,
    new_figure,
    note,
    styled,
)

_TILT = np.deg2rad(24)  # how far the floor of the layer panels is tipped towards the viewer


@styled
def regions_through_epochs(
    h: Any,
    labels: Any,
    directions: Any,
    categories: Sequence[str],
    epochs: Sequence[Any],
    *,
    max_points: int = 1200,
    random_state: int = 0,
) -> Figure:
    """Draw the regional features of every checkpoint in one fixed frame and scale (Fig. 3).

    An ellipsoid holds half of the Gaussian fitted to all regions of a category, drawn or not. With
    more than one checkpoint a last panel follows the categories' means through training.

    Args:
        h: projected regional features of one layer, `[T, N, R, dim]`, dim 3 or 2.
        labels: true categories, `[N]`.
        directions: category directions mu of the frame, `[C, dim]`.
        categories: names, `[C]`.
        epochs: names of the checkpoints, `[T]`; numbers are shown as "epoch n".
        max_points: at most so many regions are drawn, the same in every panel.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.
    """
    sizes = Sizes("regions_through_epochs")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    points = sizes.spatial("h", h, "T N R dim")
    y = np.repeat(sizes.labels(labels, names), sizes["R"])
    titles = [checkpoint_name(e) for e in sizes.names("epochs", epochs, "T")]
    points = points.reshape(sizes["T"], -1, 3)
    if sizes["T"] > 1:
        titles.append("category means")
    reach = strength_reach(points)
    camera = best_cameras(mu)[0]
    half_width, half_height = extent(camera, reach, points, reach * mu)
    figure, panels = panel_grid(titles, names, half_height / half_width)
    for index, axes in enumerate(panels):
        open_panel(axes, half_width, half_height)
        draw_strength_scale(axes, camera, reach, "h", named=index == 0)
        draw_rays(axes, camera, mu, reach)
    fits = [_gaussians(moment, y, len(names)) for moment in points]
    for axes, moment, fit in zip(panels, points, fits, strict=False):
        chosen, remark = drawable(moment, reach, max_points, random_state)
        draw_points(axes, camera, moment[chosen], y[chosen], size=2.2, alpha=0.55)
        for category, found in fit.items():
            draw_ellipsoid(axes, camera, *found, category, dim=sizes["dim"])
        note(axes, remark)
    if sizes["T"] > 1:
        for category in range(len(names)):
            means = np.array([fit[category][0] for fit in fits if category in fit])
            _draw_track(panels[-1], camera, means, category)
    return figure


def _gaussians(points: Array, labels: Array, count: int) -> dict[int, tuple[Array, Array]]:
    """Return mean and covariance of the finite points of every category that has two of them."""
    good = np.isfinite(points).all(axis=1)
    fits = {c: gaussian(points[good & (labels == c)]) for c in range(count)}
    return {c: fit for c, fit in fits.items() if fit is not None}


def _draw_track(axes: Axes, camera: Camera, means: Array, category: int) -> None:
    """Draw the path of one category's mean `[T, 3]`; it widens with time and ends in its mark."""
    if len(means) == 0:
        return
    look = category_style(category)
    flat, _ = camera.project(means)
    for step, (start, stop) in enumerate(pairwise(flat)):
        width = 0.8 + 1.6 * (step + 1) / max(len(flat) - 1, 1)
        axes.plot(*np.stack([start, stop]).T, color=look.edge, lw=width, zorder=5)
    axes.plot(flat[:-1, 0], flat[:-1, 1], "o", color=look.color, mec=look.edge, ms=2.2, mew=0.4)
    axes.plot(*flat[-1], look.marker, color=look.color, mec=look.edge, ms=5.5, mew=0.5, zorder=10)


@styled
def regions_through_layers(
    h: Any,
    discrimination: Any,
    labels: Any,
    directions: Any,
    categories: Sequence[str],
    layers: Sequence[str],
    reliable: Any,
    *,
    tau: float = 0.4,
    max_points: int = 600,
    random_state: int = 0,
) -> Figure:
    """Draw how regions become discriminative from layer to layer (Fig. 4).

    Only regions that are reliable knowledge points in the last layer are drawn. The floor of each
    panel is the plane through the category directions' widest spread, the height above it is the
    discrimination of the region's true category. Below, the median of every category by layer.

    Args:
        h: projected regional features, `[L, N, R, dim]`, dim 3 or 2.
        discrimination: p of the true category, `[L, N, R]`, in 0..1.
        labels: true categories, `[N]`.
        directions: category directions mu of the frame, `[C, dim]`.
        categories: names, `[C]`.
        layers: names of the layers from input to output, `[L]`.
        reliable: regions that are reliable knowledge points in the last layer, `[N, R]`.
        tau: the height of the grey plane, above which a region is a knowledge point.
        max_points: at most so many regions are drawn, the same in every panel.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, an empty array, labels outside `[0, C)`.
    """
    sizes = Sizes("regions_through_layers")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    points = sizes.spatial("h", h, "L N R dim")
    p = sizes.numbers("discrimination", discrimination, "L N R")
    y = sizes.labels(labels, names)
    titles = [literal_name(x) for x in sizes.names("layers", layers, "L")]
    kept = sizes.flags("reliable", reliable, "N R")
    y = np.repeat(y, sizes["R"])[kept.ravel()]
    points = points.reshape(sizes["L"], -1, 3)[:, kept.ravel()]
    p = p.reshape(sizes["L"], -1)[:, kept.ravel()]

    figure, panels, below = _layer_panels(titles, names)
    reach = strength_reach(points)
    floor = _floor(mu)
    for axes, moment, height in zip(panels, points, p, strict=True):
        chosen, remark = drawable(moment, reach, max_points, random_state)
        _draw_rising(axes, floor, reach, mu, moment[chosen], height[chosen], y[chosen], tau)
        note(axes, remark)
    _draw_medians(below, p, y, titles, tau)
    category_legend(figure, names)
    return figure


def _layer_panels(
    titles: Sequence[str], categories: Sequence[str]
) -> tuple[Figure, list[Axes], Axes]:
    """Return a page with a panel for every layer, and axes of the full width below them."""
    columns = min(len(titles), 5 if len(titles) == 5 else 4)
    rows = -(-len(titles) // columns)
    width, lower = PAGE / max(columns, 2), 1.7
    height, head = 0.98 * width, 0.24
    step = head + height + NOTE
    total = rows * step + lower + 0.48 + legend_height(categories, PAGE)
    figure = new_figure(PAGE, total, constrained=False)
    start = (PAGE - columns * width) / 2
    panels = []
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        axes = inch_axes(figure, start + column * width, row * step + head, width, height)
        axes.set_title(title, x=0.02, pad=3)
        panels.append(axes)
    return figure, panels, inch_axes(figure, 0.55, rows * step + 0.25, PAGE - 0.7, lower)


def _floor(directions: Array) -> Array:
    """Return the two axes `[2, 3]` of the plane in which the directions spread most."""
    if not directions[:, 2].any():
        return np.eye(3)[:2]
    _, _, axes = np.linalg.svd(directions, full_matrices=True)
    return np.asarray(axes[:2])


def _draw_rising(
    axes: Axes,
    floor: Array,
    reach: float,
    directions: Array,
    points: Array,
    p: Array,
    labels: Array,
    tau: float,
) -> None:
    """Draw points `[n, 3]` over the floor at heights p `[n]`, with planes at 0, tau and 1."""
    rise = 1.5 * reach  # height of p = 1 in units of strength

    def place(flat: Array, level: Any) -> Array:
        up = np.sin(_TILT) * flat[..., 1] + np.cos(_TILT) * rise * level
        return np.stack([flat[..., 0], up], axis=-1)

    turn = np.linspace(0, 2 * np.pi, 121)
    rim = reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for level, style in ((0.0, "-"), (tau, "--"), (1.0, "-")):
        ring = place(rim, level)
        axes.plot(ring[:, 0], ring[:, 1], style, color=MUTED if level == tau else FAINT, lw=0.6)
        axes.annotate(
            f"{level:g}",
            ring[0],
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=6,
            color=MUTED,
            va="center",
        )
    for sign in (-1, 1):
        post = place(np.array([[sign * reach, 0.0]] * 2), np.array([0.0, 1.0]))
        axes.plot(post[:, 0], post[:, 1], color=FAINT, lw=0.6)
    for category, end in enumerate(place(reach * directions @ floor.T, 0.0)):
        look = category_style(category)
        axes.plot([0, end[0]], [0, end[1]], color=look.color, lw=0.7, zorder=1)
        axes.plot(*end, look.marker, color=look.color, mec=look.edge, ms=3, mew=0.3, zorder=2)

    spots = place(points @ floor.T, p)
    # Flattened already: the camera of the page and a depth of "behind" serve the same drawing.
    depth = -(points @ floor.T)[:, 1:]
    draw_points(
        axes, Camera(np.eye(3)), np.concatenate([spots, depth], 1), labels, size=4, alpha=0.75
    )
    low, high = -np.sin(_TILT) * reach, np.cos(_TILT) * rise + np.sin(_TILT) * reach
    margin = 0.04 * (high - low)
    axes.set(xlim=(-1.15 * reach, 1.32 * reach), ylim=(low - margin, high + margin))
    axes.axis("off")


def _draw_medians(
    axes: Axes,
    p: Array,
    labels: Array,
    layers: Sequence[str],
    tau: float,
) -> None:
    """Draw the median discrimination by layer of each category, and the middle half of all."""
    steps = np.arange(len(layers))
    axes.set_title("Discrimination of the true category: medians, and the middle half of all")
    axes.set(ylim=(0, 1), ylabel="p(true category | h)", xlim=(-0.15, len(layers) - 0.85))
    axes.set_xticks(steps, layers)
    axes.axhline(tau, color=MUTED, lw=0.6, ls="--")
    if p.shape[1] == 0:
        axes.text(
            0.5,
            0.5,
            "no region is a reliable knowledge point in the last layer",
            transform=axes.transAxes,
            ha="center",
            color=MUTED,
        )
        return
    low, high = np.stack([_quantiles(row, (0.25, 0.75)) for row in p], axis=1)
    axes.fill_between(steps, low, high, color=FAINT, alpha=0.7, lw=0)
    for category in np.unique(labels):
        look = category_style(int(category))
        median = [_quantiles(row[labels == category], 0.5) for row in p]
        axes.plot(
            steps,
            median,
            color=look.color,
            marker=look.marker,
            mec=look.edge,
            mew=0.4,
            ms=4,
            lw=1,
            clip_on=False,
        )


def _quantiles(values: Array, at: Any) -> Array:
    """Return quantiles of the finite values, NaN where none is."""
    finite = values[np.isfinite(values)]
    return np.asarray(np.quantile(finite, at) if finite.size else np.full(np.shape(at), np.nan))
