"""Regional features through training (Fig. 3) and through the layers (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.samples import checkpoint_name, drawable, panel_grid, scale_note
from emergence_ext.figures.space import (
    MARGIN,
    Camera,
    best_cameras,
    draw_ellipsoid,
    draw_points,
    gaussian,
    onto_rim,
    open_frame,
    strength_reach,
)
from emergence_ext.figures.style import (
    FAINT,
    MUTED,
    NOTE,
    PAGE,
    axes_note,
    category_style,
    distinct_names,
    inch_axes,
    literal_name,
    styled,
)

_SHARE = 0.97  # of the last checkpoint's or layer's regions that the scale is chosen to hold
_TALL = 0.86  # height of a layer's panel in units of its width
_BELOW = 2.32  # inches below the layer panels: a remark, the medians, the names of the layers
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

    Examples:
        >>> from emergence_ext import figures
        >>> h, names = torch.randn(2, 9, 4, 3), ["cat", "dog", "frog"]
        >>> figures.regions_through_epochs(h, [0, 1, 2] * 3, torch.eye(3), names, epochs=[0, 10])
        <ShownFigure size ... with 3 Axes>
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
    reach = strength_reach(points[-1], share=_SHARE)
    camera = best_cameras(mu)[0]
    scale = scale_note(f"The sphere marks |h| = {reach:g}.", len(y), max_points, "regions")
    figure, panels = panel_grid(titles, names, scale)
    fits = [_gaussians(moment, y, len(names)) for moment in points]
    for axes, moment, fit in zip(panels, points, fits, strict=False):
        open_frame(axes, camera, mu, reach)
        chosen, remark = drawable(moment, reach, max_points, random_state)
        seen = onto_rim(moment[chosen], reach)
        draw_points(axes, camera, seen, y[chosen], size=2.2, alpha=0.55)
        for category, (mean, covariance) in fit.items():
            draw_ellipsoid(axes, camera, mean, covariance, category, dim=sizes["dim"], reach=reach)
        axes_note(axes, remark)
    if sizes["T"] > 1:
        _draw_tracks(panels[-1], camera, mu, fits)
    return figure


def _gaussians(points: Array, labels: Array, count: int) -> dict[int, tuple[Array, Array]]:
    """Return mean and covariance of the finite points of every category that has two of them."""
    good = np.isfinite(points).all(axis=1)
    fits = {c: gaussian(points[good & (labels == c)]) for c in range(count)}
    return {c: fit for c, fit in fits.items() if fit is not None}


def _draw_tracks(
    axes: Axes, camera: Camera, directions: Array, fits: Sequence[dict[int, tuple[Array, Array]]]
) -> None:
    """Draw the paths of the categories' means as lines that widen and darken with time.

    The scale is that of the last means: paths that start farther out come in from the rim.
    """
    tracks = {
        category: np.array([fit[category][0] for fit in fits if category in fit])
        for category in sorted({c for fit in fits for c in fit})
    }
    ends = np.array([means[-1] for means in tracks.values()]).reshape(-1, 3)
    reach = strength_reach(1.4 * ends)
    open_frame(axes, camera, directions, reach)
    axes_note(axes, f"on its own scale: the sphere marks |h| = {reach:g}")
    for category, means in tracks.items():
        look = category_style(category)
        flat, _ = camera.project(means)
        for step, (start, stop) in enumerate(pairwise(flat)):
            late = step / max(len(flat) - 2, 1)
            (path,) = axes.plot(
                *np.stack([start, stop]).T,
                color=look.color,
                lw=0.35 + 1.15 * late,
                alpha=0.35 + 0.65 * late,
                zorder=5,
            )
            path.set_clip_path(Circle((0, 0), reach, transform=axes.transData))
        axes.plot(
            *flat[-1], look.marker, color=look.color, mec=look.edge, ms=4.5, mew=0.5, zorder=10
        )


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
    panel is the plane through the category directions' widest spread, on one scale for all layers;
    the height above it is the discrimination of the region's true category. Below, the median of
    every category by layer.

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

    Examples:
        >>> from emergence_ext import figures
        >>> h, p, names = torch.randn(2, 9, 4, 3), torch.rand(2, 9, 4), ["cat", "dog", "frog"]
        >>> labels, layers = [0, 1, 2] * 3, ["conv1", "conv2"]
        >>> figures.regions_through_layers(
        ...     h, p, labels, torch.eye(3), names, layers, reliable=p[-1] > 0.4
        ... )
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("regions_through_layers")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    points = sizes.spatial("h", h, "L N R dim")
    p = sizes.numbers("discrimination", discrimination, "L N R")
    y = sizes.labels(labels, names)
    titles = sizes.names("layers", layers, "L")
    kept = sizes.flags("reliable", reliable, "N R")
    y = np.repeat(y, sizes["R"])[kept.ravel()]
    points = points.reshape(sizes["L"], -1, 3)[:, kept.ravel()]
    p = p.reshape(sizes["L"], -1)[:, kept.ravel()]

    floor = _floor(mu)
    flat = np.concatenate([points @ floor.T, np.zeros((*points.shape[:2], 1))], axis=-1)
    reach = strength_reach(flat[-1], share=_SHARE)
    scale = f"The rim marks |h| = {reach:g} within the floor, the dashed ring tau = {tau:g}."
    scale = scale_note(scale, len(y), max_points, "regions")
    heads = [literal_name(title, 22) for title in titles]
    figure, panels = panel_grid(
        heads, names, scale, widest=PAGE / 3, aspect=_TALL, below=_BELOW, least_key=0.05
    )
    for axes, moment, height in zip(panels, flat, p, strict=True):
        chosen, remark = drawable(moment, reach, max_points, random_state)
        seen = onto_rim(moment[chosen], reach)[:, :2]
        _draw_rising(axes, floor, reach, mu, seen, height[chosen], y[chosen], tau)
        axes_note(axes, remark.replace("on the sphere", "on the rim"))
    top = (1 - panels[-1].get_position().y0) * figure.get_size_inches()[1] + NOTE + 0.52
    _draw_medians(inch_axes(figure, 0.55, top, PAGE - 0.7, 1.5), p, y, titles, tau)
    return figure


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
    """Draw points `[n, 2]` of the floor at heights p `[n]`, with rings at 0, tau and 1."""
    rise = 1.25 * reach  # height of p = 1 in units of strength

    def place(flat: Array, level: Any) -> Array:
        up = np.sin(_TILT) * flat[..., 1] + np.cos(_TILT) * rise * level
        return np.stack([flat[..., 0], up], axis=-1)

    turn = np.linspace(0, 2 * np.pi, 121)
    rim = reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for level, style in ((0.0, "-"), (tau, "--"), (1.0, "-")):
        ring = place(rim, level)
        axes.plot(ring[:, 0], ring[:, 1], style, color=MUTED if level == tau else FAINT, lw=0.6)
    for level in (0.0, 1.0):
        axes.annotate(
            f"p = {level:g}",
            place(rim, level)[0],
            xytext=(3, 0),
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

    # Flattened already: the camera of the page and a depth of "behind" serve the same drawing.
    spots = np.concatenate([place(points, p), -points[:, 1:]], axis=1)
    draw_points(axes, Camera(np.eye(3)), spots, labels, size=4, alpha=0.75)
    low, high = -np.sin(_TILT) * reach, np.cos(_TILT) * rise + np.sin(_TILT) * reach
    # One scale on both axes keeps the rings' shape.
    half = max(1.25 * reach, (high - low) / 2 / _TALL) * MARGIN
    middle = (low + high) / 2
    axes.set(
        xlim=(0.1 * reach - half, 0.1 * reach + half),
        ylim=(middle - _TALL * half, middle + _TALL * half),
    )
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
    axes.set_title("Medians of the categories (lines), and the middle half of all regions (grey)")
    axes.set(ylim=(0, 1), ylabel="p(true category | h)", xlim=(-0.35, len(layers) - 0.65))
    room = 18 if len(layers) < 7 else max(6, int((PAGE - 0.7) / (0.066 * len(layers))))  # letters
    axes.set_xticks(steps, [literal_name(x, room) for x in distinct_names(layers, room)])
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
    present = np.unique(labels)
    # Side by side, because many medians are 0 or 1 and would cover each other.
    aside = np.linspace(-0.06, 0.06, len(present)) if len(present) > 1 else np.zeros(1)
    for category, shift in zip(present, aside, strict=True):
        look = category_style(int(category))
        median = [_quantiles(row[labels == category], 0.5) for row in p]
        axes.plot(
            steps + shift,
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
