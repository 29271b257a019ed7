"""What a sample feature says, wherever it lies: contours of the classification (Fig. 17)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.projections.geo import HammerAxes

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.space import best_cameras, draw_points, draw_rays, onto_rim
from emergence_ext.figures.style import (
    INK,
    MUTED,
    PAGE,
    PAPER,
    category_legend,
    category_style,
    display_name,
    figure_note,
    inch_axes,
    legend_height,
    new_figure,
    scatter_categories,
    styled,
)

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Probabilities at which contours are drawn."""

_FILLED = (0.06, 0.15, 0.24, 0.33, 0.42, 0.52)  # share of a category's colour between the levels
_AROUND = 1.25  # half the side of the plane in units of the strength that is marked
_NAMED = 16  # categories; more names would cover the map
_NUMBERED = 40  # pixels of the page: extent of a contour, at least, that has its level on it


class _Sphere(HammerAxes):
    """Hammer's projection for lines of many short pieces, which need not be cut into 75 each."""

    RESOLUTION = 1


def contour_grid(directions: Any, strength: float, *, steps: int = 301) -> Array:
    """Return the places at which `confidence_map` wants the classification probability.

    Args:
        directions: category directions mu, `[C, dim]`, dim 2 or 3.
        strength: of the sphere for dim 3; marked, and surrounded, by the plane for dim 2.
        steps: places on the shorter side.

    Returns:
        `[rows, columns, dim]`: a square of the plane from below left; or the sphere of that
        strength, by latitude from the south and longitude from -180 degrees, around the direction
        from which `samples` is seen.

    Raises:
        ValueError: another dim, fewer than two steps, or no positive strength.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.contour_grid(torch.eye(3), strength=2.0, steps=11).shape
        (11, 22, 3)
    """
    sizes = Sizes("contour_grid")
    mu = sizes.directions(directions)
    if steps < 2 or not (np.isfinite(strength) and strength > 0):
        raise ValueError(
            f"contour_grid: expected steps of at least 2 and a positive strength, got {steps} and "
            f"{strength}"
        )
    if sizes["dim"] == 2:
        side = _AROUND * strength * np.linspace(-1, 1, steps)
        return np.stack(np.meshgrid(side, side), axis=-1)
    longitude, latitude = np.meshgrid(
        np.linspace(-np.pi, np.pi, 2 * steps), np.linspace(-np.pi / 2, np.pi / 2, steps)
    )
    seen = np.stack(
        [
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
            np.cos(latitude) * np.cos(longitude),
        ],
        axis=-1,
    )
    return np.asarray(strength * seen @ best_cameras(mu)[0].axes)


@styled
def confidence_map(
    grid: Any,
    p: Any,
    directions: Any,
    categories: Sequence[str],
    *,
    others: Any | None = None,
    g: Any | None = None,
    labels: Any | None = None,
    max_points: int = 600,
    random_state: int = 0,
) -> Figure:
    """Draw which category a sample feature speaks for, and how clearly, wherever it lies (Fig. 17).

    In the plane (dim 2) g is drawn as it is; of the space (dim 3) the sphere of one strength is
    shown whole, in Hammer's projection, which keeps areas. The colour is that of the most probable
    category, the deeper the surer; lines join places of equal probability.

    Args:
        grid: places, `[rows, columns, dim]`, as `contour_grid` gives them.
        p: classification probability there, `[rows, columns, C]`, in 0..1.
        directions: category directions mu, `[C, dim]`.
        categories: names, `[C]`.
        others: the largest probability of a category that is not among these, `[rows, columns]`;
            where it is the most probable, the ground is grey.
        g: projected sample features to show, `[N, dim]`; on the sphere by their direction alone.
        labels: true categories of g, `[N]`.
        max_points: at most so many samples are drawn.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, probabilities outside 0..1, or only one of g and labels.

    Examples:
        >>> from emergence_ext import figures
        >>> mu = torch.eye(3)
        >>> grid = torch.as_tensor(figures.contour_grid(mu, 2.0, steps=11), dtype=torch.float32)
        >>> figures.confidence_map(grid, (grid @ mu.T).softmax(-1), mu, ["cat", "dog", "frog"])
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("confidence_map")
    mu = sizes.directions(directions)
    names = sizes.names("categories", categories, "C")
    places = sizes.spatial("grid", grid, "rows columns dim")
    values = sizes.numbers("p", p, "rows columns C")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-6):
        raise ValueError("confidence_map: p must hold probabilities in 0..1")
    if (g is None) != (labels is None):
        raise ValueError("confidence_map: g and labels belong together, got one of them")
    if others is not None:
        rest = sizes.numbers("others", others, "rows columns")
        values = np.concatenate([values, rest[..., None]], axis=-1)
    points, y = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    remark = "Colour: the most probable category, the deeper the surer. Lines: its probability.\n"
    remark += "Grey: any other category. " if others is not None else ""
    remark += "Named marks: category directions."
    if g is not None:
        points, y = sizes.spatial("g", g, "N dim"), sizes.labels(labels, names)
        total = len(points)
        kept = np.sort(np.random.default_rng(random_state).permutation(total)[:max_points])
        good = np.isfinite(points).all(axis=1) & (np.linalg.norm(points, axis=1) > 0)
        kept = kept[good[kept]]
        points, y = points[kept], y[kept]
        remark += f" Other marks: {len(y):,} of {total:,} samples, by their true category."
    drawing = _draw_plane if sizes["dim"] == 2 else _draw_sphere
    return drawing(places, values, mu, names, points, y, remark)


def _draw_plane(
    grid: Array, p: Array, mu: Array, names: Sequence[str], points: Array, y: Array, remark: str
) -> Figure:
    """Draw the plane, with the circle of the marked strength."""
    reach = float(grid[..., 0].max()) / _AROUND
    side, head, key = 4.4, 0.28, legend_height(names, PAGE)
    figure = new_figure(PAGE, head + side + 0.8 + key, constrained=False)
    axes = inch_axes(figure, (PAGE - side) / 2, head, side, side)
    axes.set_title("What a sample feature says, by direction and strength", x=0)
    half = _AROUND * reach
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    axes.grid(False)
    axes.set_xlabel(f"g, first coordinate (circle: |g| = {reach:.3g})", labelpad=2)
    axes.set_ylabel("g, second coordinate", labelpad=1)
    _draw_classification(axes, grid[..., 0], grid[..., 1], p, len(names))
    camera = best_cameras(mu)[0]
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(reach * np.cos(turn), reach * np.sin(turn), color=MUTED, lw=0.6, ls=":")
    if len(points):
        draw_points(axes, camera, onto_rim(points, half), y, size=7, alpha=0.9)
    draw_rays(axes, camera, mu, reach)
    _name_ends(figure, axes, reach * mu[:, :2], names)
    category_legend(figure, names)
    figure_note(figure, remark, key + 0.03)
    return figure


def _draw_sphere(
    grid: Array, p: Array, mu: Array, names: Sequence[str], points: Array, y: Array, remark: str
) -> Figure:
    """Draw the sphere of one strength, all around the direction from which samples are seen."""
    strength = float(np.linalg.norm(grid[0, 0]))
    camera = best_cameras(mu)[0]
    left, head, key = 0.1, 0.3, legend_height(names, PAGE)
    width = PAGE - 2 * left
    height = width / 2
    figure = new_figure(PAGE, head + height + 0.4 + key, constrained=False)
    place = inch_axes(figure, left, head, width, height)
    box = place.get_position()
    place.remove()
    axes = figure.add_axes((box.x0, box.y0, box.width, box.height), axes_class=_Sphere)
    figure.text(
        left / PAGE,
        1 - 0.19 / figure.get_size_inches()[1],
        f"What a sample feature says by its direction, at strength |g| = {strength:.3g}",
        fontsize=8.5,
        fontweight="bold",
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    _draw_classification(axes, *_angles(camera.axes, grid), p, len(names))
    if len(points):
        scatter_categories(axes, *_angles(camera.axes, points), y, s=6, linewidths=0.3, zorder=4)
    ends = np.stack(_angles(camera.axes, mu), axis=1)
    for index, (x, level) in enumerate(ends):
        look = category_style(index)
        axes.plot(x, level, look.marker, color=look.color, mec=PAPER, ms=9, mew=1.2, zorder=5)
    _name_ends(figure, axes, ends, names)
    category_legend(figure, names)
    figure_note(figure, remark, key + 0.03)
    return figure


def _draw_classification(axes: Axes, x: Array, y: Array, p: Array, named: int) -> None:
    """Tint every place by its most probable category, and draw and number the contours.

    Of p `[rows, columns, named or one more]` what follows the named categories is grey.
    """
    best, sure = p.argmax(axis=-1), p.max(axis=-1)
    depth = np.digitize(sure, LEVELS)  # [rows, columns], 0..len(LEVELS)
    count = len(_FILLED)
    colors = [
        tuple(1 - share * (1 - channel) for channel in to_rgb(color))
        for color in [*(category_style(c).color for c in range(named)), MUTED][: p.shape[-1]]
        for share in _FILLED
    ]
    axes.pcolormesh(
        x,
        y,
        best * count + depth,
        cmap=ListedColormap(colors),
        vmin=-0.5,
        vmax=len(colors) - 0.5,
        shading="nearest",
        rasterized=True,
        zorder=0,
    )
    present = [level for level in LEVELS if sure.min() < level < sure.max()]
    if present:
        lines = axes.contour(x, y, sure, levels=present, colors=INK, linewidths=0.5, zorder=1)
        _number_contours(axes, lines)


def _number_contours(axes: Axes, lines: ContourSet) -> None:
    """Write the level on every contour that is longer than its number is wide.

    matplotlib's `clabel` is not used: it raises on a contour whose label it puts at the first
    vertex, which depends on the data (12 of 120 random fields), and with it a whole run would fail.
    """
    halo = [withStroke(linewidth=1.5, foreground=PAPER)]
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for line in map(np.asarray, path.to_polygons(closed_only=False)):
            if np.ptp(axes.transData.transform(line), axis=0).max() < _NUMBERED:
                continue
            x, y = line[len(line) // 2]
            axes.text(
                x, y, f"{level:.2g}", fontsize=6, color=INK, ha="center", va="center",
                path_effects=halo, zorder=1.5, clip_on=True,
            )  # fmt: skip


def _angles(camera: Array, points: Array) -> tuple[Array, Array]:
    """Return longitude and latitude of points `[..., 3]` around the camera's view."""
    seen = points @ camera.T
    length = np.linalg.norm(seen, axis=-1)
    latitude = np.arcsin(np.clip(seen[..., 1] / length, -1, 1))
    longitude = np.arctan2(seen[..., 0], seen[..., 2])
    if points.ndim == 3:
        # The map's two edges are one line of the sphere, which arctan2 puts on either of them.
        longitude = np.broadcast_to(np.linspace(-np.pi, np.pi, points.shape[1]), longitude.shape)
    return longitude, latitude


def _name_ends(figure: Figure, axes: Axes, ends: Array, names: Sequence[str]) -> None:
    """Write the names beside the marks `[C, 2]`, on the side where the fewest others are near."""
    if len(names) > _NAMED:
        return
    marks = axes.transData.transform(ends) * 72 / figure.dpi  # points
    page = axes.get_window_extent()
    low, high = page.x0 * 72 / figure.dpi, page.x1 * 72 / figure.dpi
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    for index, (x, y) in enumerate(marks):
        text = display_name(names[index])
        width = 4.3 * len(text)
        boxes = {}
        for dx, dy, side in ((0, 9, "center"), (0, -9, "center"), (8, 0, "left"), (-8, 0, "right")):
            start = x + dx - {"center": width / 2, "left": 0, "right": width}[side]
            boxes[dx, dy, side] = (start, y + dy - 4, start + width, y + dy + 4)
        chosen = min(boxes, key=lambda k: _crowding(boxes[k], taken, low, high))
        taken.append(boxes[chosen])
        axes.annotate(
            text,
            tuple(ends[index]),
            xytext=chosen[:2],
            textcoords="offset points",
            ha=chosen[2],
            va="center",
            fontsize=7.5,
            zorder=10,
        )
    _stroke(axes)


def _crowding(
    box: tuple[float, ...], taken: Sequence[tuple[float, ...]], low: float, high: float
) -> float:
    """Return the area that a box shares with others, and far more where it leaves the map."""
    over = max(0.0, low - box[0]) + max(0.0, box[2] - high)
    for other in taken:
        across = min(box[2], other[2]) - max(box[0], other[0])
        down = min(box[3], other[3]) - max(box[1], other[1])
        over += max(0.0, across) * max(0.0, down)
    return over


def _stroke(axes: Axes) -> None:
    """Give every text on the map a white edge."""
    for text in axes.texts:
        text.set_path_effects([withStroke(linewidth=1.6, foreground=PAPER)])
