"""The pages of an animation: regions that move through training and through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emergence_ext.figures.images import as_pixels
from emergence_ext.figures.inputs import Sizes
from emergence_ext.figures.samples import checkpoint_name
from emergence_ext.figures.space import (
    MARGIN,
    Camera,
    best_cameras,
    draw_ellipsoid,
    draw_points,
    gaussian,
    onto_rim,
    open_frame,
    open_panel,
)
from emergence_ext.figures.style import (
    ACCENT,
    FAINT,
    INK,
    LEGEND_ROW,
    MUTED,
    category_legend,
    category_style,
    display_name,
    figure_note,
    inch_axes,
    legend_height,
    literal_name,
    new_figure,
    styled,
)
from emergence_ext.figures.tiles import text_axes

SAMPLES = 4
"""Samples that are shown through the layers, at most."""

_WIDTH, _DPI = 8.0, 160  # inches and dots per inch: 1280 pixels, a multiple of 16 as coders like
_VIEW, _PANEL, _THUMB = 2.9, 1.5, 0.46  # inches: a view of the training, a sample, its image
_HEAD, _BAR = 0.34, 0.42  # inches above the panels of a half, and of its progress bar


@dataclass(frozen=True)
class Moment:
    """Where the points of one half are at one moment.

    Attributes:
        position: between the first step (0) and the last (steps - 1).
        h: projected regional features, `[N, R, dim]`; of the layers' half one sample a panel.
        p: probability of the true category, `[N, R]`, which the layers' half shows by depth of
            colour; the other does not need it.

    Examples:
        >>> from emergence_ext import figures
        >>> moment = figures.Moment(0.5, h=torch.zeros(4, 9, 3))
        >>> moment.position, moment.p is None
        (0.5, True)
    """

    position: float
    h: Any
    p: Any | None = None


class Stage:
    """A page whose frame, scale, names and bars stay, while points move on it.

    Upper half: all regions of one layer through training, from two sides, with an ellipsoid for
    every category. Lower half: the regions of some samples through the layers. Either may be
    missing.

    Args:
        directions: category directions mu, `[C, dim]`, dim 3 or 2.
        categories: names, `[C]`.
        reach: strength of the sphere, the same in all panels; what lies beyond is drawn on it.
        epochs: names of the checkpoints, `[T]`; none for a page without the upper half.
        layers: names of the layers, `[L]`; none for a page without the lower half.
        training_labels: true categories of the regions' images, `[N]`.
        sample_labels: true categories of the samples below, `[n]`, at most 4.
        images: of the samples below, in 0..1, `[n, channels, H', W']`.
        shown: of the regions of the upper half, flattened, those that are drawn.

    Raises:
        ValueError: shapes that do not fit, or neither epochs nor layers.

    Examples:
        >>> from emergence_ext import figures
        >>> names = ["cat", "dog", "frog"]
        >>> stage = figures.Stage(torch.eye(3), names, 2.0, epochs=[0, 10], training_labels=[0, 1])
        >>> stage.draw(training=figures.Moment(0.5, torch.randn(2, 4, 3))).shape
        (656, 1280, 3)
    """

    def __init__(
        self,
        directions: Any,
        categories: Sequence[str],
        reach: float,
        *,
        epochs: Sequence[Any] = (),
        layers: Sequence[str] = (),
        training_labels: Any = (),
        sample_labels: Any = (),
        images: Any | None = None,
        shown: Any = (),
    ) -> None:
        if len(epochs) < 2 and len(layers) < 2:
            raise ValueError("stage: one checkpoint and one layer: there is nothing that moves")
        self._sizes = sizes = Sizes("stage")
        self._mu = sizes.directions(directions)
        self._names = sizes.names("categories", categories, "C")
        self._epochs = [checkpoint_name(e) for e in epochs] if len(epochs) > 1 else []
        self._layers = [literal_name(x, 18) for x in layers] if len(layers) > 1 else []
        self._reach, self._shown = reach, np.asarray(shown, dtype=np.int64)
        self._cameras = best_cameras(self._mu, 2 if sizes["dim"] == 3 else 1)
        self._y = self._samples = np.zeros(0, dtype=np.int64)
        if self._epochs:
            self._y = sizes.labels(training_labels, self._names)
        if self._layers:
            self._samples = sizes.labels(sample_labels, self._names, "n")
            if len(self._samples) > SAMPLES:
                raise ValueError(
                    f"stage: at most {SAMPLES} samples, got {len(self._samples)} labels"
                )
        self._images = as_pixels(sizes, images) if self._layers and images is not None else None
        self._views: list[tuple[Axes, Camera]] = []
        self._panels: list[Axes] = []
        self._bars: dict[str, tuple[Axes, Axes]] = {}
        self._figure = self._laid_out()
        canvas: Any = self._figure.canvas
        canvas.draw()
        self._canvas, self._still = canvas, canvas.copy_from_bbox(self._figure.bbox)

    def draw(self, training: Moment | None = None, layers: Moment | None = None) -> NDArray[Any]:
        """Draw one moment, as pixels `[height, width, 3]`, uint8.

        Args:
            training: of the upper half.
            layers: of the lower half.

        Raises:
            ValueError: shapes that do not fit the page.
        """
        moving = [axes for axes, _ in self._views] + self._panels
        moving += [axes for pair in self._bars.values() for axes in pair]
        for axes in moving:
            for artist in [*axes.collections, *axes.lines, *axes.patches, *axes.texts]:
                artist.remove()
        if training is not None:
            self._draw_training(training)
            self._draw_bar("training", self._epochs, training.position)
        if layers is not None:
            self._draw_layers(layers)
            self._draw_bar("layers", self._layers, layers.position)
        self._canvas.restore_region(self._still)
        for axes in moving:
            self._figure.draw_artist(axes)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    @styled
    def _laid_out(self) -> Figure:
        """Make the page with all that stays."""
        names = self._names
        beside = bool(self._epochs) and LEGEND_ROW * len(names) <= _VIEW - 0.3
        key = 0.0 if beside else legend_height(names, _WIDTH)
        tall = 0.0
        if self._epochs:
            tall += _HEAD + _VIEW + _BAR
        if self._layers:
            tall += _HEAD + 0.2 + _PANEL + _BAR
        # Whole blocks of 16 pixels: coders would scale the page otherwise.
        tall = np.ceil((tall + 0.42 + key) * _DPI / 16) * 16 / _DPI
        figure = new_figure(_WIDTH, tall, constrained=False)
        figure.set_dpi(_DPI)
        top = 0.0
        if self._epochs:
            self._lay_training(figure)
            top = _HEAD + _VIEW + _BAR
            if beside:
                place = inch_axes(figure, 2 * _VIEW + 0.2, _HEAD, _WIDTH - 2 * _VIEW, _VIEW)
                place.axis("off")
                category_legend(place, names)
        if self._layers:
            self._lay_layers(figure, top)
        if not beside:
            category_legend(figure, names)
        remark = f"The sphere marks |h| = {self._reach:g}; what lies beyond is drawn on it. "
        remark += "Between two steps the way is a B-spline through all of them."
        if self._layers:
            remark += "\nSingle images: the deeper the colour, the surer of the category."
        figure_note(figure, remark, key + 0.05)
        return figure

    def _lay_training(self, figure: Figure) -> None:
        self._title(figure, "Regions of the last layer through training", 0.0)
        start = 0.1 if len(self._cameras) == 2 else 0.1 + _VIEW / 2
        for index, camera in enumerate(self._cameras):
            box = (start + index * _VIEW, _HEAD, _VIEW, _VIEW)
            open_frame(inch_axes(figure, *box), camera, self._mu, self._reach)
            self._views.append((self._over(figure, *box), camera))
        self._lay_bar(figure, "training", self._epochs, 0.0, _HEAD + _VIEW)

    def _lay_layers(self, figure: Figure, top: float) -> None:
        self._title(figure, "Regions of single images through the layers", top)
        step = (_WIDTH - 0.2) / SAMPLES
        for index, label in enumerate(self._samples):
            look, left, upper = category_style(int(label)), 0.1 + index * step, top + _HEAD
            head = text_axes(figure, left, upper, step, 0.2)
            head.plot(0.08, 0.08, look.marker, color=look.color, mec=look.edge, ms=4.5, mew=0.4)
            head.text(0.18, 0.08, display_name(self._names[label], 20), va="center", fontsize=7.5)
            if self._images is not None:
                thumb = inch_axes(figure, left, upper + 0.24, _THUMB, _THUMB)
                thumb.imshow(self._images[index], interpolation="nearest", aspect="auto")
                thumb.axis("off")
            box = (left + step - _PANEL - 0.02, upper + 0.2, _PANEL, _PANEL)
            open_frame(inch_axes(figure, *box), self._cameras[0], self._mu, self._reach)
            self._panels.append(self._over(figure, *box))
        self._lay_bar(figure, "layers", self._layers, top, top + _HEAD + 0.2 + _PANEL)

    def _title(self, figure: Figure, text: str, top: float) -> None:
        height = figure.get_size_inches()[1]
        at = 1 - (top + 0.5 * _HEAD) / height
        figure.text(0.1 / _WIDTH, at, text, va="center", fontsize=9.5, fontweight="bold")

    def _over(self, figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
        """Lay empty axes over others, for what moves."""
        axes = inch_axes(figure, left, top, width, height)
        open_panel(axes, MARGIN * self._reach)
        return axes

    def _lay_bar(
        self, figure: Figure, half: str, steps: Sequence[str], top: float, bar_top: float
    ) -> None:
        """Draw a bar with named steps, and lay what moves on it and the name above over it."""
        box = (0.1, bar_top, _WIDTH - 0.2, _BAR)
        bars = [inch_axes(figure, *box), inch_axes(figure, *box)]
        aside = 0.35 * (len(steps) - 1) / (_WIDTH - 0.9)
        for axes in bars:
            axes.set(xlim=(-aside, len(steps) - 1 + aside), ylim=(0, 1))
            axes.axis("off")
        bars[0].plot([0, len(steps) - 1], [0.72, 0.72], color=FAINT, lw=5)
        longest = max(len(name) for name in steps)
        every = max(1, int(np.ceil(len(steps) * (0.062 * longest + 0.1) / (_WIDTH - 0.2))))
        named = {*range(0, len(steps) - every, every), 0, len(steps) - 1}
        for index, name in enumerate(steps):
            bars[0].plot([index] * 2, [0.6, 0.84], color=MUTED, lw=0.8)
            if index in named:
                bars[0].text(index, 0.4, name, ha="center", va="top", fontsize=7, color=MUTED)
        head = inch_axes(figure, _WIDTH / 2, top, _WIDTH / 2 - 0.1, _HEAD)
        head.set(xlim=(0, 1), ylim=(0, 1))
        head.axis("off")
        self._bars[half] = (bars[1], head)

    def _draw_bar(self, half: str, steps: Sequence[str], position: float) -> None:
        bar, head = self._bars[half]
        bar.plot([0, position], [0.72, 0.72], color=ACCENT, lw=5, solid_capstyle="round")
        bar.plot(position, 0.72, "o", color=ACCENT, mec=INK, mew=0.6, ms=7)
        before = min(int(position + 1e-6), len(steps) - 1)
        text = steps[before]
        if position - before > 1e-6:
            text += f" \N{RIGHTWARDS ARROW} {steps[before + 1]}"
        head.text(1, 0.5, text, ha="right", va="center", fontsize=10, color=ACCENT)

    def _draw_training(self, moment: Moment) -> None:
        points = self._sizes.spatial("training h", moment.h, "N R dim")
        y = np.repeat(self._y, points.shape[1])
        points = points.reshape(-1, 3)
        fits = {c: gaussian(points[y == c]) for c in range(len(self._names))}
        seen = onto_rim(points[self._shown], self._reach)
        for axes, camera in self._views:
            draw_points(axes, camera, seen, y[self._shown], size=3.2, alpha=0.6)
            for category, fit in fits.items():
                if fit is not None:
                    dim = self._sizes["dim"]
                    draw_ellipsoid(axes, camera, *fit, category, dim=dim, reach=self._reach)

    def _draw_layers(self, moment: Moment) -> None:
        points = self._sizes.spatial("layers h", moment.h, "n S dim")
        p = np.ones(points.shape[:2]) if moment.p is None else None
        p = self._sizes.numbers("p", moment.p, "n S") if p is None else p
        for axes, label, some, sure in zip(self._panels, self._samples, points, p, strict=True):
            look = category_style(int(label))
            flat, depth = self._cameras[0].project(onto_rim(some, self._reach))
            order = np.argsort(depth)
            axes.scatter(
                flat[order, 0],
                flat[order, 1],
                s=11,
                marker=look.marker,
                color=look.color,
                edgecolors=[look.edge] * len(order),
                linewidths=0.4,
                alpha=0.12 + 0.85 * np.clip(sure[order], 0, 1),
                zorder=4,
            )
