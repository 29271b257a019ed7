"""Figures: what must hold of every drawing, and of the geometry and colours behind it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import cbook
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from emergence_ext import figures
from emergence_ext.figures import space, style
from emergence_ext.figures.samples import drawable
from emergence_ext.method import Interval

HOSTILE = ["$x^2$", "<script>alert(1)</script>", "a$b", "猫 \udcff", "a_very_long_name_" * 20]
TIMES, LAYERS, SAMPLES, REGIONS = 2, 2, 12, 4


def inputs(categories: int = 3, dim: int = 3, times: int = TIMES) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(categories, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    labels = np.arange(SAMPLES) % categories
    steps = np.linspace(0.2, 1, times)[:, None, None]
    g = steps * (4 * directions[labels] + rng.normal(size=(SAMPLES, dim)))
    noise = rng.normal(size=(times, SAMPLES, REGIONS, dim))
    return {
        "labels": labels,
        "directions": directions,
        "categories": (HOSTILE * 9)[:categories],
        "g": g,
        "h": steps[..., None] * 4 * directions[labels][:, None] + noise,
        "p": rng.random((times, SAMPLES, REGIONS)),
        "names": [str(t) for t in range(times)],
        "images": rng.random((SAMPLES, 3, 8, 8)),
        "w": rng.dirichlet(np.ones(REGIONS), SAMPLES),
    }


def band(value: Any) -> figures.Band:
    value = np.asarray(value, dtype=float)
    return figures.Band(value, 0.9 * value, 1.1 * value)


def draw_all(x: dict[str, Any]) -> dict[str, Callable[[], Figure]]:
    """Every public figure, drawn from one set of inputs."""
    frame = (x["labels"], x["directions"], x["categories"])
    counts = np.arange(1.0, 1 + len(x["names"]) * LAYERS).reshape(-1, LAYERS)
    layers = ["features.3", "conv5_3"]
    strength = np.linalg.norm(x["h"][-1], axis=-1)
    sure = x["p"][-1]
    count = len(x["categories"])
    if x["directions"].shape[-1] in (2, 3):
        grid = figures.contour_grid(x["directions"], 2.0, steps=21)
        p = np.exp(grid @ np.asarray(x["directions"]).T)
        p /= p.sum(axis=-1, keepdims=True)
    knowledge = (band(counts), band(counts / 2), band(counts * 0 + 0.5), x["names"], layers)
    return {
        "samples": lambda: figures.samples(x["g"][-1], *frame),
        "samples_through_epochs": lambda: figures.samples_through_epochs(
            x["g"], *frame, x["names"], accuracies=[0.5] * len(x["names"])
        ),
        "regions_through_epochs": lambda: figures.regions_through_epochs(
            x["h"], *frame, x["names"]
        ),
        "regions_through_layers": lambda: figures.regions_through_layers(
            x["h"], x["p"], *frame, x["names"], x["p"][-1] > 0.3
        ),
        "knowledge_epochs": lambda: figures.knowledge_curves(*knowledge, shared=band(counts)),
        "knowledge_layers": lambda: figures.knowledge_curves(*knowledge, along="layers"),
        "learning": lambda: figures.learning_speed(
            band(counts), counts, band(counts / counts.max()), *knowledge[3:]
        ),
        "tau_curve": lambda: figures.tau_curve(
            [0.2, 0.4, 0.6], [[3, 2, 0], [4, 2, 1]], [[1, 1, 0], [2, 2, 1]], layers
        ),
        "point_regions": lambda: figures.point_regions(
            x["images"], x["labels"], sure > 0.4, sure > 0.6, sure, (2, 2), x["categories"]
        ),
        "shared_regions": lambda: figures.shared_regions(
            x["images"][None, :2], (sure > 0.5)[None, :2], (2, 2), ["a and b"], ["2"], columns=2
        ),
        "importance_maps": lambda: figures.importance_maps(
            x["images"], x["w"], (2, 2), labels=x["labels"], categories=x["categories"]
        ),
        "losses": lambda: figures.losses(
            {"sample projection/0": [2.0, 1.0], "importance/conv1_2/0": [100.0, 1.0, 0.1]}
        ),
        "confidence_map": lambda: figures.confidence_map(
            grid, p, *frame[1:], g=x["g"][-1], labels=x["labels"]
        ),
        "layer_differences": lambda: figures.layer_differences(
            {"turned": band(0.1 + np.arange(2.0 * (1 + count)).reshape(2, -1))},
            layers,
            x["categories"],
        ),
        "moved_regions": lambda: figures.moved_regions(
            x["images"],
            [[0, 0, 4, 4]] * SAMPLES,
            x["labels"],
            sure[:, 0],
            sure[:, :2],
            [("no point", HOSTILE[0])] * SAMPLES,
            x["categories"],
            fields=[[0, 0, 6, 6]] * SAMPLES,
        ),
        "moved_images": lambda: figures.moved_images(
            x["images"], sure, sure > 0.6, sure < 0.2, (2, 2), x["labels"], x["categories"]
        ),
        "new_samples": lambda: figures.new_samples(
            x["g"][-1], x["labels"], 2 * x["g"][-1, :3], [0, 0, count - 1], [1, 0, 0], *frame[1:]
        ),
        "unlike_images": lambda: figures.unlike_images(
            x["images"], sure, sure < 0.2, (2, 2), HOSTILE[:1] * SAMPLES, ["a\nb"] * SAMPLES
        ),
        "similar_regions": lambda: figures.similar_regions(
            x["images"],
            [[0, 0, 4, 4]] * SAMPLES,
            x["images"][..., :6],
            [[2, 2, 4, 4]] * SAMPLES,
            [(HOSTILE[0], f"{HOSTILE[1]}\nb")] * SAMPLES,
        ),
        "category_similarity": lambda: figures.category_similarity(
            x["directions"] @ x["directions"].T, x["categories"]
        ),
        "strength_entropy": lambda: figures.strength_entropy(
            strength[:, 0], sure[:, 0], *frame[::2], -0.5, 0.4, baseline=(strength[:, 1], 0.1)
        ),
        "importance_strength": lambda: figures.importance_strength(
            x["w"], strength, sure[:, 0], baseline_r=sure[:, 1]
        ),
    }


def pixels(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=50)
    return buffer.getvalue()


def texts(figure: Figure) -> list[str]:
    return [t.get_text().replace("\\$", "$") for t in figure.findobj(Text)]


NAMES = sorted(draw_all(inputs()))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_and_leaves_no_trace_outside_itself(name: str) -> None:
    before = dict(matplotlib.rcParams)
    drawn_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    image = pixels(draw_all(inputs())[name]())
    assert len(set(image)) > 20, "the picture is all but empty"
    assert dict(matplotlib.rcParams) == before
    assert Gcf.get_num_fig_managers() == 0
    assert (np.random.get_state()[1] == drawn_before[0]).all()
    assert torch.equal(torch.get_rng_state(), drawn_before[1])


def test_tensors_and_arrays_give_the_same_pictures() -> None:
    x = inputs()
    tensors = {
        k: torch.from_numpy(v).requires_grad_(v.dtype.kind == "f")
        if isinstance(v, np.ndarray)
        else v
        for k, v in x.items()
    }
    frame, same = (x[k] for k in ("labels", "directions", "categories")), tensors
    expected = pixels(figures.samples_through_epochs(x["g"], *frame, x["names"]))
    got = figures.samples_through_epochs(
        same["g"], same["labels"], same["directions"], same["categories"], same["names"]
    )
    assert pixels(got) == expected


def test_the_same_seed_gives_the_same_picture_under_other_settings_of_matplotlib() -> None:
    expected = pixels(draw_all(inputs())["regions_through_epochs"]())
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.grid": False}):
        assert pixels(draw_all(inputs())["regions_through_epochs"]()) == expected


@pytest.mark.one_in(2)
@pytest.mark.parametrize("categories", [1, 2, 26])
def test_any_number_of_categories_is_drawn(categories: int) -> None:
    drawings = draw_all(inputs(categories))
    for name in ("samples", "regions_through_layers", "category_similarity", "point_regions"):
        assert pixels(drawings[name]())


def test_one_checkpoint_is_drawn() -> None:
    x = inputs(times=1)
    drawings = draw_all(x)
    for name in ("samples_through_epochs", "regions_through_epochs", "knowledge_epochs"):
        assert pixels(drawings[name]())


def test_one_layer_and_no_reliable_region_are_drawn_and_said() -> None:
    x = inputs(times=1)
    figure = figures.regions_through_layers(
        x["h"],
        x["p"],
        x["labels"],
        x["directions"],
        x["categories"],
        ["only"],
        np.zeros((SAMPLES, REGIONS), dtype=bool),
    )
    pixels(figure)
    assert "no region is a reliable knowledge point in the last layer" in texts(figure)


def test_features_of_the_plane_are_drawn_and_other_dimensions_are_refused() -> None:
    plane = draw_all(inputs(dim=2))
    for name in ("samples", "samples_through_epochs", "regions_through_epochs", "new_samples"):
        assert pixels(plane[name]())
    with pytest.raises(ValueError, match=r"dim 4, only 2 or 3 can be drawn\. Fit .* dim=3"):
        draw_all(inputs(dim=4))["samples"]()


def test_points_that_are_not_finite_are_left_out_and_counted() -> None:
    x = inputs()
    x["g"][-1, :3] = np.nan
    x["g"][-1, 3, 0] = np.inf
    figure = draw_all(x)["samples"]()
    assert pixels(figure)
    assert any(t.startswith("4 not finite") for t in texts(figure))
    x["g"][:] = np.nan
    assert pixels(draw_all(x)["samples"]())


def test_discrimination_that_is_not_finite_leaves_a_gap() -> None:
    x = inputs()
    x["p"][0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_all(x)["regions_through_layers"]()
        pixels(figure)
    medians = [line.get_ydata() for line in figure.axes[-1].get_lines()[1:]]
    assert len(medians) == 3
    assert all(np.isnan(m[0]) and np.isfinite(m[1]) for m in medians)


def test_features_of_zero_strength_are_drawn() -> None:
    x = inputs()
    x["g"][:], x["h"][:] = 0, 0
    for name in ("samples", "samples_through_epochs", "regions_through_epochs"):
        assert pixels(draw_all(x)[name]())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": np.zeros((TIMES, 0, 3))}, "nothing to draw"),
        ({"g": np.zeros((TIMES, SAMPLES))}, r"g must be \[N, dim=3\], got \[12\]"),
        ({"labels": np.full(SAMPLES, 3)}, r"labels must be integers in \[0, 3\).*got 3"),
        ({"labels": np.full(SAMPLES, 0.5)}, "labels must be integers"),
        ({"labels": np.zeros(5, dtype=int)}, r"labels must be \[N=12\], got \[5\]"),
        ({"categories": ["a"]}, "categories must name C=3 items, got 1"),
        ({"directions": np.zeros((3, 3))}, "finite and non-zero, that of category 0 is not"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_all(inputs() | change)["samples"]()


def test_all_panels_share_one_frame_and_one_draw_of_points() -> None:
    figure = draw_all(inputs())["regions_through_epochs"]()
    panels = figure.axes[:TIMES]
    assert len({(*a.get_xlim(), *a.get_ylim()) for a in panels}) == 1
    near = np.zeros((50, 3))
    first, _ = drawable(near, 1.0, 10, random_state=0)
    second, _ = drawable(near + 0.1, 1.0, 10, random_state=0)
    assert first.tolist() == second.tolist()
    assert len(first) == 10


def test_names_of_directions_neither_overlap_nor_leave_the_page() -> None:
    x = inputs(26)
    figure = draw_all(x)["samples"]()
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    wanted = {style.display_name(c).replace("\\$", "$") for c in x["categories"]}
    labels = [t for t in figure.axes[0].texts if t.get_text().replace("\\$", "$") in wanted]
    boxes = [t.get_window_extent(renderer) for t in labels]
    assert len(boxes) == 26
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 for b in boxes)
    assert all(page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_no_name_is_read_as_a_formula_and_each_can_be_drawn(name: str) -> None:
    shown = style.display_name(name)
    assert not cbook.is_math_text(shown)
    assert 0 < len(shown) <= 18 * 7
    figure = style.new_figure(1, 1)
    figure.text(0, 0, shown)
    figure.canvas.draw()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.floats(0.01, 3))
@settings(max_examples=60, deadline=None)
def test_spread_keeps_order_mean_and_gap(values: list[float], gap: float) -> None:
    start = np.sort(np.array(values))
    moved = space.spread(start, gap)
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert moved.mean() == pytest.approx(start.mean(), abs=1e-9)
    assert space.spread(moved, gap) == pytest.approx(moved, abs=1e-9)


def test_cameras_are_right_handed_rotations_that_look_from_different_sides() -> None:
    first, second = space.best_cameras(inputs(10)["directions"], 2)
    for camera in (first, second):
        assert camera.axes @ camera.axes.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(camera.axes) == pytest.approx(1)
    assert abs(first.axes[2] @ second.axes[2]) <= 0.5


@pytest.mark.parametrize("dim", [2, 3])
def test_an_ellipsoid_holds_half_of_its_gaussian(dim: int) -> None:
    draws = np.random.default_rng(0).normal(size=(200_000, dim))
    inside = np.linalg.norm(draws, axis=1) <= space._HALF_MASS[dim]
    assert inside.mean() == pytest.approx(0.5, abs=0.005)  # 4.5 standard errors


def test_the_outline_of_an_ellipsoid_is_its_exact_silhouette() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    camera = space.best_cameras(rng.normal(size=(4, 3)))[0]
    axes = style.new_figure(1, 1).add_subplot()
    space.draw_ellipsoid(axes, camera, np.zeros(3), root @ root.T, 0)
    outline = axes.patches[0].get_path().vertices
    ball = rng.normal(size=(4000, 3))
    ball *= space._HALF_MASS[3] / np.linalg.norm(ball, axis=1, keepdims=True)
    surface, _ = camera.project(ball @ root.T)
    for direction in rng.normal(size=(20, 2)):
        reach = (outline @ direction).max()
        # The outline has 72 sides: it falls short of the ellipse by at most 1 - cos(2.5 degrees).
        assert (surface @ direction).max() <= reach * 1.001
        assert (surface @ direction).max() >= reach * 0.98


def _oklab(colors: np.ndarray) -> np.ndarray:
    """OKLab of linear RGB `[n, 3]` (Ottosson 2020)."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(np.clip(colors, 0, 1) @ np.array(to_cones).T) @ np.array(to_lab).T


# Full dichromacy (Machado, Oliveira and Fernandes 2009), on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("vision", VISION)
def test_ten_categories_differ_in_colour_for_everybody(vision: str) -> None:
    rgb = np.array([to_rgb(style.category_style(c).color) for c in range(10)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = _oklab(linear @ np.asarray(VISION[vision]).T)
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    # 0.12 in OKLab is some six just noticeable steps; the Okabe-Ito colours reach 0.02 to 0.05.
    assert nearest > 0.12


def test_colour_and_mark_together_tell_120_categories_apart() -> None:
    assert len({style.category_style(c)[:2] for c in range(120)}) == 120
    assert len({style.category_style(c).marker for c in range(10)}) == 10


def test_no_points_is_a_gap_with_a_mark() -> None:
    ratio = np.array([[np.nan, 0.5], [0.4, 0.6]])
    counts = band([[0, 2], [5, 5]])
    figure = figures.knowledge_curves(counts, counts, band(ratio), ["0", "1"], ["a", "b"])
    axes = figure.axes[2]
    lines = [line.get_ydata() for line in axes.get_lines() if line.get_gid() == "line"]
    assert np.isnan(lines[0][0])
    assert lines[0][1] == pytest.approx(0.4)
    assert "no points, no ratio" in texts(figure)
    all_gone = figures.knowledge_curves(counts, counts, band(ratio * np.nan), [0, 1], ["a", "b"])
    assert pixels(all_gone)


def test_a_band_of_intervals_has_a_gap_where_there_is_none() -> None:
    one, two = Interval(1, 0, 2), Interval(3, 2, 5)
    band = figures.Band.of([[one, None], (two, one)])
    np.testing.assert_array_equal(
        band, [[[1, np.nan], [3, 1]], [[0, np.nan], [2, 0]], [[2, np.nan], [5, 2]]]
    )
    assert [x.shape for x in figures.Band.of([[[one]], [[None]]])] == [(2, 1, 1)] * 3
    with pytest.raises(ValueError, match="inhomogeneous"):
        figures.Band.of([[one], [one, two]])


def test_counts_of_no_points_at_all_have_whole_ticks() -> None:
    none = figures.Band(*[np.zeros((2, 3))] * 3)
    gap = figures.Band(*[np.full((2, 3), np.nan)] * 3)
    drawn = figures.knowledge_curves(none, none, gap, [0, 1], ["a", "b", "c"])
    for axes in drawn.axes[:2]:
        low, high = axes.get_ylim()
        assert [t for t in axes.get_yticks() if low <= t <= high] == [0, 1]


def test_knowledge_curves_refuse_an_unknown_axis() -> None:
    with pytest.raises(ValueError, match="along must be 'epochs' or 'layers', got 'depth'"):
        figures.knowledge_curves(band([[1]]), band([[1]]), band([[1]]), ["0"], ["a"], along="depth")  # type: ignore[arg-type]


def test_the_ratio_over_tau_ends_where_no_points_are_left() -> None:
    figure = draw_all(inputs())["tau_curve"]()
    ratio = figure.axes[2].get_lines()[0].get_ydata()
    assert ratio[:2] == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(ratio[2])
    with pytest.raises(ValueError, match="taus must ascend"):
        figures.tau_curve([0.4, 0.2], [[1, 1]], [[1, 1]], ["a"])


def test_images_that_are_still_normalised_are_refused() -> None:
    x = inputs()
    with pytest.raises(ValueError, match=r"images must lie in 0\.\.1.*Undo the normalisation"):
        draw_all(x | {"images": x["images"] * 4 - 2})["importance_maps"]()
    with pytest.raises(ValueError, match="grid 3 x 3 holds 9 regions, the arrays have R=4"):
        figures.importance_maps(x["images"], x["w"], (3, 3))


def test_uniform_importance_is_shown_as_one() -> None:
    figure = figures.importance_maps(np.zeros((1, 1, 4, 4)), np.full((1, 4), 0.25), (2, 2))
    assert np.allclose(figure.axes[1].images[0].get_array(), 1)


def test_every_fit_has_its_curve_and_wide_ranges_a_logarithmic_axis() -> None:
    curves = {f"regional/conv{i}/{t}": [1000.0 / (t + 1), 1.0] for i in range(5) for t in range(5)}
    curves |= {"sample projection/0": [1.0, 0.5], "signed": [-1.0, -30.0]}
    figure = figures.losses(curves)
    scales = {a.get_title(loc="left"): a.get_yscale() for a in figure.axes if a.lines}
    assert scales == {f"conv{i}": "log" for i in range(5)} | {
        "sample projection": "linear",
        "signed": "linear",
    }
    assert sum(len(a.lines) for a in figure.axes) == 27
    with pytest.raises(ValueError, match="no curve was given"):
        figures.losses({})
    with pytest.raises(ValueError, match="the curve 'a' holds no finite value"):
        figures.losses({"a": [float("nan")]})


def test_the_most_similar_categories_are_listed_first() -> None:
    cosines = np.array([[1, 0.1, -0.5], [0.1, 1, 0.9], [-0.5, 0.9, 1]])
    figure = figures.category_similarity(cosines, ["cat", "bus", "boat"], pairs=1)
    assert "bus, boat" in texts(figure)
    assert "cat, bus" not in texts(figure)
    with pytest.raises(ValueError, match=r"cosines must lie in -1\.\.1, got 2"):
        figures.category_similarity(2 * np.eye(3), ["a", "b", "c"])


def test_a_correlation_is_shown_beside_the_mean_entropy() -> None:
    x = inputs()
    figure = draw_all(x)["strength_entropy"]()
    assert {"ours: r = \u22120.50", "PCA: r = +0.10", "mean 0.40"} <= set(texts(figure))
    undefined = figures.strength_entropy(
        np.ones(SAMPLES), np.full(SAMPLES, np.nan), x["labels"], x["categories"], np.nan, np.nan
    )
    pixels(undefined)
    assert {"ours: r undefined", "12 not finite"} <= set(texts(undefined))


def test_samples_without_a_correlation_are_counted() -> None:
    figure = figures.importance_strength(
        np.full((3, 4), 0.25), np.ones((3, 4)), [np.nan, 0.5, np.nan]
    )
    pixels(figure)
    assert "projected |h|: r undefined in 2 samples" in texts(figure)


def test_a_cosine_that_rounds_to_zero_has_no_sign_and_every_number_can_be_read() -> None:
    steps = np.linspace(-1, 1, 121)
    assert style.signed_text(-0.001) == "0.00" and style.signed_text(0.004) == "0.00"
    assert style.signed_text(-0.25) == "\u22120.25" and style.signed_text(0.25) == "+0.25"
    assert style.signed_text(-0.25, plus=False) == "\u22120.25"
    values = np.eye(16)
    values[np.tril_indices(16, -1)] = steps[:120]
    drawn = figures.category_similarity(values, [f"{c}" for c in range(16)])
    axes = drawn.axes[0]
    image = axes.images[0]
    for text in axes.texts:
        value = float(text.get_text().replace("\u2212", "-"))
        light, dark = (
            style._luminance(c) for c in (text.get_color(), image.cmap(image.norm(value)))
        )
        light, dark = max(light, dark), min(light, dark)
        assert (light + 0.05) / (dark + 0.05) > 3.7, text.get_text()
    assert "\u22120.00" not in {text.get_text() for text in axes.texts}


def test_two_names_are_shortened_only_where_they_do_not_fit() -> None:
    assert style.way_name("golden_retriever", "lifeboat", 28) == "golden retriever → lifeboat"
    assert style.way_name("ipod", "steel_arch_bridge", 24) == "ipod → steel arch bridge"
    long = style.way_name("golden_retriever", "steel_arch_bridge", 28)
    assert [len(name) for name in long.split(" → ")] == [14, 14]


def test_a_share_is_not_said_to_be_none_where_something_lies_beyond() -> None:
    points = np.full((5000, 3), 0.5)
    points[0] = 9
    assert "under 0.1% lie beyond" in drawable(points, 1.0, 10, 0)[1]


def test_both_columns_of_the_ablation_have_the_same_ticks() -> None:
    r = np.array([0.6, -0.35, 0.5, 0.61, 0.59, 0.4])
    factors = ["alpha", "alpha", "kappa_p", "kappa_p", "log C in T, a longer name", "P is of"]
    levels = ["0", "a long level", "x 1", "x 2", "a much longer level", "b"]
    drawn = figures.ablation(figures.Band(r, r - 0.1, r + 0.1), r, factors, levels, [True] * 6)
    assert len({tuple(axes.get_xticks()) for axes in drawn.get_axes()}) == 1


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda: figures.losses([1.0, 2.0]), "curves: expected Mapping, got list"),
        (lambda: figures.Band.of("ab"), "intervals: expected value, low and high, or None, got"),
        (lambda: figures.category_style("cat"), "index: expected a whole number, got 'cat'"),
        (
            lambda: figures.importance_maps(torch.rand(2, 3, 8, 8), torch.rand(2, 4), 4),
            r"grid: expected \(H, W\), two numbers of at least 1, got 4",
        ),
    ],
)
def test_what_nothing_can_be_drawn_of_is_named(draw: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        draw()
