"""The projected space seen by a camera: rays, points, ellipsoids and names.

The projection is orthographic and done here, not by matplotlib's 3-D axes. So a sphere of strength
`l` is drawn as a circle of radius `l`, a Gaussian's ellipsoid as an exact ellipse, names can be
placed without overlap, and every panel of a figure shares one camera and one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Polygon
from scipy.optimize import isotonic_regression

from emergence_ext.figures.inputs import Array
from emergence_ext.figures.style import FAINT, INK, category_style, display_name

_HALF_MASS = {2: 1.1774, 3: 1.5382}  # Mahalanobis radius that holds half of a Gaussian, by dim
MARGIN = 1.06  # half the side of a panel in units of the sphere, room for the marks on its rim
_DEPTHS = 3  # slices from back to front in which points are drawn


@dataclass(frozen=True)
class Camera:
    """An orthographic view: the rows of `axes` `[3, 3]` point right, up and to the viewer."""

    axes: Array

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return places on the page `[..., 2]` and depths towards the viewer `[...]`."""
        seen = points @ self.axes.T
        return seen[..., :2], seen[..., 2]


def plane_camera() -> Camera:
    """Return the view straight onto the plane, for features of two dimensions."""
    return Camera(np.eye(3))


def best_cameras(directions: Array, count: int = 1) -> list[Camera]:
    """Return views `[count]` in which the ends of the directions `[C, 3]` lie well apart.

    Later views look from at least 60 degrees away from the earlier ones.
    """
    if not directions[:, 2].any():
        return [plane_camera()] * count
    candidates = [_camera_from(axis, directions) for axis in _fibonacci_sphere(300)]
    scores = np.array([_separation(camera, directions) for camera in candidates])
    chosen: list[Camera] = []
    for _ in range(count):
        best = candidates[int(np.argmax(scores))]
        chosen.append(best)
        for index, camera in enumerate(candidates):
            if abs(camera.axes[2] @ best.axes[2]) > 0.5:
                scores[index] -= 10.0
    return chosen


def _fibonacci_sphere(count: int) -> Array:
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def _camera_from(towards: Array, directions: Array) -> Camera:
    """Look along `-towards`, turned so that the directions spread most horizontally."""
    helper = np.eye(3)[int(np.argmin(np.abs(towards)))]
    first = np.cross(helper, towards)
    first /= np.linalg.norm(first)
    second = np.cross(towards, first)
    flat = directions @ np.stack([first, second], axis=1)
    _, _, turn = np.linalg.svd(flat, full_matrices=True)
    right = turn[0, 0] * first + turn[0, 1] * second
    return Camera(np.stack([right, np.cross(towards, right), towards]))


def _separation(camera: Camera, directions: Array) -> float:
    """Score a view by the nearest pair of ends, then by how far the ends lie from the centre."""
    ends, depth = camera.project(directions)
    gaps = np.linalg.norm(ends[:, None] - ends[None], axis=-1)
    nearest = gaps[np.triu_indices(len(ends), 1)].min() if len(ends) > 1 else 0.0
    return float(nearest + 0.2 * np.linalg.norm(ends, axis=1).mean() + 0.02 * depth.mean())


def open_panel(axes: Axes, half_width: float, half_height: float | None = None) -> None:
    """Make the axes an empty frame around the origin; its box must have the same proportions."""
    half_height = half_width if half_height is None else half_height
    axes.set(xlim=(-half_width, half_width), ylim=(-half_height, half_height))
    axes.axis("off")


def strength_reach(points: Array, share: float = 0.99) -> float:
    """Return the strength of the sphere up to which a figure shows points `[..., 3]`.

    It is a round number, so that it can be read as a scale, and at least the greatest strength,
    unless a few points lie so far out that all others would shrink to a dot. Then it follows the
    quantile `share` of the strengths; `onto_rim` moves what lies farther out.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.strength_reach(torch.eye(3).double().numpy())
        1.0
    """
    strength = np.linalg.norm(points.reshape(-1, 3), axis=1)
    strength = strength[np.isfinite(strength)]
    if strength.size == 0 or strength.max() == 0:
        return 1.0
    usual, most = float(np.quantile(strength, share)), float(strength.max())
    return _round_up(usual if 0 < 1.3 * usual < most else most)


def _round_up(value: float) -> float:
    """Return the smallest round number that is at least the positive `value`."""
    power = 10.0 ** np.floor(np.log10(value))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10)
    return float(min(m * power for m in steps if m * power >= value * (1 - 1e-9)))


def onto_rim(points: Array, reach: float) -> Array:
    """Return points `[..., 3]`, those farther out than `reach` moved onto that sphere."""
    strength = np.linalg.norm(points, axis=-1, keepdims=True)
    return np.asarray(points * np.minimum(1, reach / np.maximum(strength, 1e-12)))


def open_frame(
    axes: Axes,
    camera: Camera,
    directions: Array,
    reach: float,
    strengths: Array | None = None,
    width: float = 1.8,
) -> None:
    """Make the axes a view of the frame: the sphere of strength `reach`, and the rays."""
    open_panel(axes, MARGIN * reach)
    draw_strength_scale(axes, camera, reach)
    draw_rays(axes, camera, directions, reach, strengths, width)


def draw_strength_scale(axes: Axes, camera: Camera, reach: float) -> None:
    """Draw the sphere of strength `reach` with its great circles, the far halves dotted."""
    axes.add_patch(Circle((0, 0), reach, fill=False, color=FAINT, lw=0.8, zorder=0))
    turn = np.linspace(0, 2 * np.pi, 121)
    circle = reach * np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)
    for axis in range(3) if abs(camera.axes[2, 2]) < 1 else ():
        flat, depth = camera.project(np.roll(circle, axis, axis=1))
        for part, style in ((depth >= 0, "-"), (depth < 0, ":")):
            line = np.where(part[:, None], flat, np.nan)
            axes.plot(line[:, 0], line[:, 1], style, color=FAINT, lw=0.5, zorder=0)


def draw_rays(
    axes: Axes,
    camera: Camera,
    directions: Array,
    reach: float,
    strengths: Array | None = None,
    width: float = 1.8,
) -> None:
    """Draw each direction `[C, 3]` thinly to `reach`, and boldly to its mean strength `[C]`."""
    ends, depth = camera.project(directions)
    for index, end in enumerate(ends):
        look = category_style(index)
        dashes = "-" if depth[index] >= 0 else (0, (3, 1.5))
        tip = reach * end
        axes.plot([0, tip[0]], [0, tip[1]], color=look.color, lw=0.7, ls=dashes, zorder=1)
        axes.plot(*tip, look.marker, color=look.color, mec=look.edge, ms=4, mew=0.4, zorder=9)
        if strengths is not None and np.isfinite(strengths[index]):
            bold = min(float(strengths[index]), reach) * end
            axes.plot([0, bold[0]], [0, bold[1]], color=look.color, lw=width, zorder=2)
    axes.plot(0, 0, "o", color=INK, ms=1.8, zorder=9)


def draw_points(
    axes: Axes, camera: Camera, points: Array, labels: Array, *, size: float, alpha: float
) -> None:
    """Draw points `[n, 3]` in the look of their categories `[n]`, the nearer ones on top."""
    flat, depth = camera.project(points)
    order = np.argsort(depth)
    for slice_index, members in enumerate(np.array_split(order, _DEPTHS)):
        nearness = (slice_index + 1) / _DEPTHS
        for category in np.unique(labels[members]):
            look = category_style(int(category))
            chosen = members[labels[members] == category]
            axes.scatter(
                flat[chosen, 0],
                flat[chosen, 1],
                s=size * (0.7 + 0.45 * nearness),
                marker=look.marker,
                color=look.color,
                edgecolors=[look.edge],
                linewidths=0.25,
                alpha=alpha * (0.55 + 0.45 * nearness),
                zorder=3 + nearness,
            )


def gaussian(points: Array) -> tuple[Array, Array] | None:
    """Return mean `[3]` and covariance `[3, 3]` of points `[n, 3]`; None below two points."""
    if len(points) < 2:
        return None
    return points.mean(axis=0), np.cov(points.T)


def draw_ellipsoid(
    axes: Axes,
    camera: Camera,
    mean: Array,
    covariance: Array,
    category: int,
    *,
    dim: int = 3,
    reach: float | None = None,
) -> None:
    """Draw the ellipsoid that holds half of a Gaussian: exact outline and principal circles.

    What lies outside the circle of radius `reach` is cut off.
    """
    look = category_style(category)
    radius = _HALF_MASS[dim]
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    center, middle = camera.project(mean)
    flat = camera.axes[:2] @ covariance @ camera.axes[:2].T
    outline = center + radius * circle @ _root(flat)
    body = Polygon(outline, facecolor=look.color, alpha=0.14, edgecolor="none", zorder=4.5)
    artists: list[Artist] = [axes.add_patch(body)]
    artists += axes.plot(outline[:, 0], outline[:, 1], color=look.edge, lw=0.7, zorder=4.6)
    values, vectors = np.linalg.eigh(covariance)
    arms = vectors * np.sqrt(np.maximum(values, 0))
    for first, second in ((0, 1), (0, 2), (1, 2)) if dim == 3 else ():
        ring = mean + radius * circle @ arms[:, [first, second]].T
        place, depth = camera.project(ring)
        front = np.where((depth >= middle)[:, None], place, np.nan)
        artists += axes.plot(
            front[:, 0], front[:, 1], color=look.color, lw=0.4, alpha=0.8, zorder=4.6
        )
    if reach is not None:
        rim = Circle((0, 0), reach, transform=axes.transData)
        for artist in artists:
            artist.set_clip_path(rim)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def name_places(
    camera: Camera, directions: Array, reach: float, line_height: float
) -> list[tuple[int, float, float]]:
    """Return category, x and y of the names, in two arcs beside the sphere, none overlapping.

    `line_height` is the height of one line of text in the units of the axes.
    """
    ends, _ = camera.project(directions)
    rim = 1.15 * reach
    places = []
    for side in (-1, 1):
        members = np.flatnonzero((ends[:, 0] >= 0) == (side > 0))
        members = members[np.argsort(ends[members, 1])]
        heights = spread(rim * ends[members, 1], line_height)
        for index, height in zip(members, heights, strict=True):
            x = side * np.sqrt(max(rim**2 - height**2, (0.45 * reach) ** 2))
            places.append((int(index), float(x), float(height)))
    return places


def draw_names(
    axes: Axes,
    camera: Camera,
    directions: Array,
    categories: Sequence[str],
    reach: float,
    places: Sequence[tuple[int, float, float]],
) -> None:
    """Write the categories' names at their places and lead a thin line to each from its ray."""
    ends, _ = camera.project(reach * directions)
    for index, x, y in places:
        axes.plot(
            [ends[index, 0], x], [ends[index, 1], y], color=category_style(index).edge, lw=0.4
        )
        axes.annotate(
            display_name(categories[index]),
            (x, y),
            xytext=(2.5 * np.sign(x), 0),
            textcoords="offset points",
            ha="left" if x > 0 else "right",
            va="center",
            fontsize=7.5,
            annotation_clip=False,
        )


def spread(values: Array, gap: float) -> Array:
    """Return the ascending values moved as little as needed so that neighbours are `gap` apart.

    Least squares under order constraints: shifting value k by `k * gap` turns it into an isotonic
    regression.
    """
    shifts = gap * np.arange(len(values))
    return isotonic_regression(values - shifts).x + shifts
