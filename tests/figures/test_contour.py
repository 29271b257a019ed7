"""The map of what a sample feature says: right places, right colours, names on the page."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text

from emergence_ext import figures
from emergence_ext.figures.contour import LEVELS
from emergence_ext.method.frame import Frame
from emergence_ext.method.vmf import ExactKappa

NAMES = ["desk", "golden_retriever", "ipod", "lifeboat", "orange", "school_bus"]
ANGLES = 0.2 + math.pi / 3 * torch.arange(6)


def plane() -> Frame:
    """Six categories in the plane, as in the paper's figure."""
    return Frame(
        torch.full((6,), 1 / 6), torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1), ExactKappa(2)
    )


def space(C: int = 6) -> Frame:
    mu = torch.randn(C, 3, generator=torch.Generator().manual_seed(0))
    return Frame(torch.full((C,), 1 / C), mu / mu.norm(dim=1, keepdim=True), ExactKappa(3))


def draw(frame: Frame, strength: float = 4.0, steps: int = 61, **more: Any) -> Figure:
    grid = torch.from_numpy(figures.contour_grid(frame.directions, strength, steps=steps))
    names = (NAMES * 5)[: len(frame.priors)]
    return figures.confidence_map(grid, frame.posterior(grid), frame.directions, names, **more)


def test_the_grid_of_the_plane_is_a_square_and_that_of_space_a_sphere() -> None:
    square = figures.contour_grid(plane().directions, 4.0, steps=5)
    assert square.shape == (5, 5, 2)
    assert square[0, 0].tolist() == [-5, -5] and square[-1, 0].tolist() == [-5, 5]
    sphere = figures.contour_grid(space().directions, 4.0, steps=31)
    assert sphere.shape == (31, 62, 3)
    assert np.linalg.norm(sphere, axis=-1) == pytest.approx(4.0)
    assert sphere[:, 0] == pytest.approx(sphere[:, -1])  # the map's edges are one line
    assert sphere[0] == pytest.approx(-sphere[-1])  # its lower and upper end are the poles


def test_six_even_categories_share_the_plane_and_are_surer_farther_out() -> None:
    frame = plane()
    mesh = next(c for c in draw(frame).axes[0].collections if isinstance(c, QuadMesh))
    color = np.asarray(mesh.get_array()).ravel()
    category, depth = np.divmod(color, len(LEVELS) + 1)
    shares = np.bincount(category.astype(int), minlength=6) / len(color)
    assert shares == pytest.approx(np.full(6, 1 / 6), abs=0.03)
    # The square's middle is the origin, where all are alike: below the lowest level.
    side = round(math.sqrt(len(color)))
    assert depth.reshape(side, side)[side // 2, side // 2] == 0
    out = torch.linspace(0, 5, 50)[:, None] * frame.directions[0]
    sure = frame.posterior(out).amax(1)
    assert (sure.diff() >= 0).all() and sure[-1] > LEVELS[-1]


@pytest.mark.parametrize("C", [1, 6, 26])
def test_every_direction_lies_on_ground_of_its_own_colour(C: int) -> None:
    frame = space(C)
    axes = draw(frame, strength=30.0, steps=301).axes[0]
    mesh = next(c for c in axes.collections if isinstance(c, QuadMesh))
    color = np.asarray(mesh.get_array()) // (len(LEVELS) + 1)
    rows, columns = color.shape
    marks = [line.get_xydata()[0] for line in axes.get_lines()[:C]]
    for category, (longitude, latitude) in enumerate(marks):
        row = round((latitude / math.pi + 0.5) * (rows - 1))
        column = round((longitude / (2 * math.pi) + 0.5) * (columns - 1))
        assert color[row, column] == category


def test_names_and_strength_are_told_and_stay_on_the_page() -> None:
    for frame in (plane(), space()):
        figure = draw(frame)
        texts = [t for t in figure.findobj(Text) if t.get_text()]
        told = " ".join(t.get_text() for t in texts)
        assert "|g| = 4" in told and all(n.replace("_", " ") in told for n in NAMES)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        for text in (t for t in texts if t.get_visible()):
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text.get_text()


def test_samples_are_drawn_by_direction_and_those_without_one_left_out() -> None:
    frame = space()
    g = torch.cat([3 * frame.directions, torch.zeros(1, 3), torch.full((1, 3), torch.nan)])
    labels = torch.arange(8) % 6
    figure = draw(frame, g=g, labels=labels)
    assert "Other marks: 6 of 8 samples" in " ".join(t.get_text() for t in figure.texts)
    assert "Other marks" not in " ".join(t.get_text() for t in draw(frame).texts)


def test_wrong_use_is_named() -> None:
    frame = plane()
    grid = figures.contour_grid(frame.directions, 4.0, steps=5)
    p = frame.posterior(torch.from_numpy(grid))
    mu = frame.directions
    with pytest.raises(ValueError, match=r"positive strength, got 5 and 0"):
        figures.contour_grid(mu, 0, steps=5)
    with pytest.raises(ValueError, match="dim 4, only 2 or 3"):
        figures.contour_grid(torch.eye(4), 1.0)
    with pytest.raises(ValueError, match=r"p must hold probabilities in 0\.\.1"):
        figures.confidence_map(grid, 2 * p, mu, NAMES)
    with pytest.raises(ValueError, match="g and labels belong together"):
        figures.confidence_map(grid, p, mu, NAMES, g=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"p must be \[rows=5, columns=5, C=6\]"):
        figures.confidence_map(grid, p[:3], mu, NAMES)


@pytest.mark.parametrize("frame", [plane(), space(), space(3)])
def test_every_long_contour_has_its_level_written_on_it(frame: Frame) -> None:
    axes = draw(frame, steps=121).axes[0]
    (lines,) = (x for x in axes.collections if isinstance(x, ContourSet))
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        here = [np.array(t.get_position()) for t in axes.texts if t.get_text() == f"{level:.2g}"]
        for line in map(np.asarray, path.to_polygons(closed_only=False)):
            if np.ptp(axes.transData.transform(line), axis=0).max() > 60:
                assert min(np.abs(line - place).sum(1).min() for place in here) < 1e-9
