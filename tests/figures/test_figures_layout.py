"""Figures as pages: every text on the page and apart from the others, every mark in its panel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.text import Text

from emergence_ext import figures
from emergence_ext.figures import space

DIGITS = [str(c) for c in range(10)]
PHOTOS = [
    "desk",
    "golden_retriever",
    "ipod",
    "lifeboat",
    "orange",
    "school_bus",
    "sports_car",
    "steel_arch_bridge",
    "tabby_cat",
    "tailed_frog",
]
LAYERS = ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "features.layer4.1.conv2", "head"]
IMAGES, REGIONS = 60, 49


def scene(names: list[str], times: int, depth: int) -> dict[str, Any]:
    """A training as networks have it: a dot at first, then far too strong, then apart."""
    rng = np.random.default_rng(0)
    mu = rng.normal(size=(len(names), 3))
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    y = np.arange(IMAGES) % len(names)
    scale = np.array([0.02, 5.0, *[1.0] * 6])[:times] if times > 1 else np.ones(1)
    g = 4 * mu[y] + rng.normal(size=(times, IMAGES, 3))
    h = 4 * mu[y][:, None] + 2 * rng.normal(size=(max(times, depth), IMAGES, REGIONS, 3))
    p = rng.random((depth, IMAGES, REGIONS))
    return {
        "names": names,
        "mu": mu,
        "y": y,
        "g": g * scale[:, None, None],
        "h": h[:times] * scale[:, None, None, None],
        "layers_h": h[:depth] * np.linspace(4, 1, depth)[:, None, None, None],
        "p": p,
        "point": p[-1] > 0.2,
        "reliable": p[-1] > 0.4,
        "epochs": [0, 10, 30, 60, 100, 200][:times],
        "layers": LAYERS[:depth],
        "w": rng.dirichlet(np.ones(REGIONS), IMAGES),
        "images": rng.random((IMAGES, 3, 14, 14)),
        "entropy": rng.exponential(size=IMAGES) ** 6,
    }


def band(value: Any) -> figures.Band:
    return figures.Band(value, 0.9 * value, 1.1 * value)


def drawings(x: dict[str, Any]) -> dict[str, Callable[[], Figure]]:
    frame = (x["y"], x["mu"], x["names"])
    counts = np.outer(np.arange(len(x["epochs"])), np.arange(1, 1 + len(x["layers"]))) * 1000.0
    ratio = np.where(counts > 0, 0.1, np.nan)
    knowledge = (band(counts), band(counts / 2), band(ratio), x["epochs"], x["layers"])
    force = np.linalg.norm(x["g"][-1], axis=1)
    strengths = np.linalg.norm(x["h"][-1], axis=-1)
    curves = {
        f"{kind}/{layer}/{t}": [5.0, 1.0, 0.01 * (1 + t)]
        for kind in ("importance", "regional")
        for layer in x["layers"]
        for t in x["epochs"]
    }
    return {
        "samples": lambda: figures.samples(x["g"][-1], *frame),
        "samples_through_epochs": lambda: figures.samples_through_epochs(
            x["g"], *frame, x["epochs"], accuracies=np.linspace(0.1, 1, len(x["epochs"]))
        ),
        "regions_through_epochs": lambda: figures.regions_through_epochs(
            x["h"], *frame, x["epochs"]
        ),
        "regions_through_layers": lambda: figures.regions_through_layers(
            x["layers_h"], x["p"], *frame, x["layers"], x["reliable"]
        ),
        "knowledge_epochs": lambda: figures.knowledge_curves(*knowledge, shared=band(counts)),
        "knowledge_layers": lambda: figures.knowledge_curves(*knowledge, along="layers"),
        "learning": lambda: figures.learning_speed(
            band(counts), counts, band(counts / counts.max()), *knowledge[3:]
        ),
        "tau_curve": lambda: figures.tau_curve(
            [0.2, 0.4, 0.6],
            np.outer(np.arange(1, 1 + len(x["layers"])), [3000, 2000, 0]),
            np.outer(np.arange(1, 1 + len(x["layers"])), [1000, 900, 0]),
            x["layers"],
        ),
        "point_regions": lambda: figures.point_regions(
            x["images"], x["y"], x["point"], x["reliable"], x["p"][-1], (7, 7), x["names"]
        ),
        "shared_regions": lambda: figures.shared_regions(
            x["images"][None, :4].repeat(3, axis=0),
            x["point"][None, :4].repeat(3, axis=0),
            (7, 7),
            [f"{x['names'][0]} and {x['names'][-1]}"] * 3,
            ["1234 shared regions, cosine of the directions \u22120.12"] * 3,
        ),
        "importance_maps": lambda: figures.importance_maps(
            x["images"][:8], x["w"][:8], (7, 7), labels=x["y"][:8], categories=x["names"]
        ),
        "losses": lambda: figures.losses({"samples/0": [2.0, 1.0], **curves}),
        "category_similarity": lambda: figures.category_similarity(x["mu"] @ x["mu"].T, x["names"]),
        "strength_entropy": lambda: figures.strength_entropy(
            force, x["entropy"], x["y"], x["names"], -0.6, 0.4, baseline=(force, -0.1)
        ),
        "importance_strength": lambda: figures.importance_strength(
            x["w"], strengths, x["p"][-1, :, 0], baseline_r=x["p"][-1, :, 1]
        ),
    }


SHAPES = {"digits": (DIGITS, 5, 5), "photos": (PHOTOS, 4, 4), "short": (PHOTOS, 1, 3)}
SHAPES |= {"long": (PHOTOS, 6, 6), "single": (["only"], 2, 1)}
NAMES = sorted(drawings(scene(DIGITS, 2, 2)))


def corners(text: Text, figure: Figure) -> np.ndarray:
    """Corners `[4, 2]` of the text's own box on the page, turned with it, less 5 % of slack."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    turn = np.deg2rad(text.get_rotation())
    outer = text.get_window_extent(renderer)
    back = text.get_rotation()
    text.set_rotation(0)
    flat = text.get_window_extent(renderer)
    text.set_rotation(back)
    half = 0.475 * np.array([flat.width, flat.height])
    middle = np.array([(outer.x0 + outer.x1) / 2, (outer.y0 + outer.y1) / 2])
    box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(middle + box @ spin.T)


def apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether an edge of one of two rectangles separates them."""
    for box in (one, other):
        for edge in (box[1] - box[0], box[2] - box[1]):
            a, b = one @ edge, other @ edge
            if a.max() <= b.min() or b.max() <= a.min():
                return True
    return False


def visible_texts(figure: Figure) -> list[Text]:
    hidden = [a for a in figure.axes if not a.axison]
    off = {t for a in hidden for axis in (a.xaxis, a.yaxis) for t in axis.findobj(Text)}
    extra = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    ticks = {
        t
        for a in figure.axes
        for axis in (a.xaxis, a.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for t in tick.findobj(Text)
    }
    shown = {
        t
        for a in figure.axes
        for axis in (a.xaxis, a.yaxis)
        for t in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))
        if axis.get_view_interval().min() - 1e-9
        <= t.get_position()[axis.axis_name == "y"]
        <= axis.get_view_interval().max() + 1e-9
    }
    return [t for t in extra if t not in off and (t not in ticks or t in shown)]


IN_SPACE = [
    "samples",
    "samples_through_epochs",
    "regions_through_epochs",
    "regions_through_layers",
]
PAGES = [(name, shape) for name in NAMES for shape in ("digits", "long")]
PAGES += [
    (name, shape)
    for name in (*IN_SPACE, "knowledge_layers", "knowledge_epochs")
    for shape in ("photos", "short", "single")
]


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("name", "shape"), PAGES)
def test_every_text_is_on_the_page_and_clear_of_the_others(name: str, shape: str) -> None:
    figure = drawings(scene(*SHAPES[shape]))[name]()
    figure.draw_without_rendering()
    boxes = {t: corners(t, figure) for t in visible_texts(figure)}
    assert len(boxes) > 2
    width, height = figure.bbox.size
    off = [
        t.get_text()
        for t, box in boxes.items()
        if box.min() < 0 or box[:, 0].max() > width or box[:, 1].max() > height
    ]
    assert not off, "beyond the page"
    hit = [
        (a.get_text(), b.get_text())
        for a, b in combinations(boxes, 2)
        if not apart(boxes[a], boxes[b])
    ]
    assert not hit, "over each other"


def marks(axes: Axes) -> np.ndarray:
    """All places `[n, 2]` of lines, marks and circles that no other shape clips."""
    places = [np.zeros((0, 2))]
    for line in axes.get_lines():
        clip = line.get_clip_path()
        if clip is None or line.get_linestyle() == "None":
            places.append(np.column_stack(line.get_data()).astype(float))
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            places.append(np.asarray(collection.get_offsets()))
    for patch in axes.patches:
        if patch.get_clip_path() is None or not isinstance(patch, Polygon):
            box = patch.get_extents().transformed(axes.transData.inverted())
            places.append(np.array([box.min, box.max]))
    found = np.concatenate(places)
    return found[np.isfinite(found).all(axis=1)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", IN_SPACE)
def test_no_mark_is_cut_off_by_the_edge_of_its_panel(name: str, shape: str) -> None:
    figure = drawings(scene(*SHAPES[shape]))[name]()
    figure.draw_without_rendering()
    for axes in figure.axes:
        place = axes.get_position()
        assert place.min.min() >= -1e-9
        assert place.max.max() <= 1 + 1e-9
        if axes.axison:  # a chart, which may cut its lines off
            continue
        found = marks(axes)
        low = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
        high = np.array([axes.get_xlim()[1], axes.get_ylim()[1]])
        assert (found >= low - 1e-9).all()
        assert (found <= high + 1e-9).all()


def words(figure: Figure) -> str:
    return " | ".join(t.get_text().replace("\n", " ") for t in visible_texts(figure))


def test_both_spheres_of_the_samples_have_one_size_on_the_page() -> None:
    figure = drawings(scene(PHOTOS, 1, 1))["samples"]()
    radii = [a.patches[0].get_window_extent().width for a in figure.axes]
    assert len(radii) == 2
    assert radii[0] == pytest.approx(radii[1])


@pytest.mark.parametrize("name", ["samples_through_epochs", "regions_through_epochs"])
def test_the_last_checkpoint_sets_the_scale_and_the_others_say_how_they_differ(name: str) -> None:
    x = scene(DIGITS, 4, 1)
    figure = drawings(x)[name]()
    last = np.linalg.norm((x["g"] if name.startswith("samples") else x["h"])[-1], axis=-1)
    sphere = figure.axes[0].get_xlim()[1] / 1.06
    assert np.quantile(last, 0.95) <= sphere <= 1.5 * last.max()
    told = [next((t.get_text() for t in a.texts), "") for a in figure.axes[:4]]
    assert told[0].replace("\n", " ").startswith("all in one heap at the centre, within 0.")
    share = float(told[1].split("%")[0])
    early = np.linalg.norm((x["g"] if name.startswith("samples") else x["h"])[1], axis=-1)
    assert share == pytest.approx(100 * (early > sphere).mean(), abs=0.051)
    assert f"|{name[0].replace('s', 'g').replace('r', 'h')}| = {sphere:g}" in words(figure)


def test_points_beyond_the_scale_keep_their_direction() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, 30, 40], [0, 0, -0.5]])
    moved = space.onto_rim(points, 2.0)
    assert moved == pytest.approx(np.array([[0, 0, 0], [1, 0, 0], [0, 1.2, 1.6], [0, 0, -0.5]]))


@pytest.mark.parametrize("strengths", [[0.0], [np.nan], [3.2], [7, 8, 9.9], [1e-7], [123.0]])
def test_the_scale_is_a_round_number_that_holds_all(strengths: list[float]) -> None:
    reach = space.strength_reach(np.array(strengths)[:, None] * [[0.6, 0, 0.8]])
    assert len(f"{reach:g}".replace(".", "").strip("0").removeprefix("1e-0")) <= 2
    assert reach >= max([0.0, *(s for s in strengths if np.isfinite(s))]) * (1 - 1e-9)


def test_few_far_points_do_not_set_the_scale() -> None:
    points = np.zeros((1000, 3))
    points[:, 0] = np.linspace(0, 4, 1000)
    points[-3:] *= 100
    assert space.strength_reach(points) == 4


def test_colour_says_the_true_category_and_hatching_another() -> None:
    point = np.array([[True, True, False, False]])
    reliable = np.array([[True, False, False, False]])
    truth = np.array([[0.9, 0.05, 0.3, 0.2]])
    figure = figures.point_regions(
        np.zeros((1, 1, 4, 4)), [0], point, reliable, truth, (2, 2), ["a"]
    )
    plain, chart = figure.axes[1:3]
    assert len(plain.collections) == 0
    assert np.asarray(chart.images[1].get_array()).ravel() == pytest.approx(truth[0])
    hatched, outline = chart.collections
    assert hatched.get_hatch()
    (square,) = hatched.get_paths()
    assert square.vertices.min(axis=0).tolist() == [2, 0]
    assert square.vertices.max(axis=0).tolist() == [4, 2]
    edges = np.concatenate(outline.get_segments())
    assert (edges.min(), edges.max()) == (0, 2)


def test_entropies_that_crowd_at_zero_get_a_logarithmic_axis() -> None:
    x = scene(DIGITS, 1, 1)
    assert drawings(x)["strength_entropy"]().axes[0].get_yscale() == "log"
    x["entropy"] = np.linspace(0.1, 1, IMAGES)
    assert drawings(x)["strength_entropy"]().axes[0].get_yscale() == "linear"
