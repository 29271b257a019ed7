"""Runs with more than a page can hold: figures show some and say so, tables hold everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.text import Text

from emergence_ext.figures import distinct_names, noted
from emergence_ext.figures.style import new_figure
from emergence_ext.method import FitStats, Frame
from emergence_ext.method.vmf import ExactKappa
from emergence_ext.report import emergence
from emergence_ext.report.html.pictures import _limit
from emergence_ext.report.shown import CATEGORIES, STEPS, Shown
from emergence_ext.run import Emergence, Thumbnails
from tests.studies.saved import save_run


def crowd(C: int, per: int = 3, T: int = 2, L: int = 2, R: int = 4) -> Emergence:
    """A run of many categories, the later the surer, whose names differ in the middle."""
    generator = torch.Generator().manual_seed(0)
    N = C * per
    mu = torch.randn(C, 3, generator=generator)
    mu /= mu.norm(dim=1, keepdim=True)
    y = torch.arange(N) % C
    clear = torch.linspace(0.5, 9, C)[y][:, None, None]
    h = mu[y][:, None] * clear + 0.5 * torch.randn(T, L, N, R, 3, generator=generator)
    z = torch.randn(T, N, C, generator=generator)
    held_out = torch.arange(N) // C == 0
    learned = (~held_out).nonzero().flatten()
    labels, layers = (
        [str(10 * t) for t in range(T)],
        [f"features.{k:02d}.convolution" for k in range(L)],
    )
    names = [
        f"{kind}/{layer}/{t}"
        for kind in ("importance", "regional")
        for layer in layers
        for t in labels
    ]
    return Emergence(
        frame=Frame(torch.full((C,), 1 / C), mu, ExactKappa(3), 5.0),
        labels=labels,
        epochs=list(range(T)),
        layers=layers,
        categories=[f"a kind of animal called {c:03d} which is rare" for c in range(C)],
        names=[f"{n}.png" for n in range(N)],
        grid=(2, R // 2),
        tau=0.1,
        y=y,
        held_out=held_out,
        region_images=learned,
        g=h[:, -1, :, 0],
        z=z,
        h=h,
        w=torch.full((T, L, len(learned), R), 1 / R),
        scale=torch.ones(T, L),
        raw_strength=torch.rand(T, L, len(learned), R, generator=generator),
        fits={name: FitStats((2.0, 1.0), 0.0, "converged") for name in names},
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Emergence:
    return crowd(60, T=2, L=2)


def words(figure: object) -> str:
    return " ".join(t.get_text() for t in figure.findobj(Text))  # type: ignore[attr-defined]


def test_few_of_everything_is_all_of_it() -> None:
    e = crowd(CATEGORIES, T=3, L=STEPS)
    shown = Shown.of(e)
    assert shown.categories.tolist() == list(range(CATEGORIES))
    assert shown.steps == ([0, 1, 2], list(range(STEPS)))
    assert shown.note("categories", "checkpoints", "layers") == ""


def test_the_categories_shown_have_the_most_reliable_points(results: Emergence) -> None:
    shown = Shown.of(results)
    points = results.points().subset(results.held_out)
    counts = torch.zeros(60).index_add(0, points.y, points.reliable.sum(1).float())
    assert len(shown.categories) == CATEGORIES
    left_out = torch.ones(60, dtype=torch.bool).index_fill(0, shown.categories, False)
    assert counts[shown.categories].min() >= counts[left_out].max()
    assert shown.labels(shown.categories).tolist() == list(range(CATEGORIES))
    assert shown.note("categories").startswith("Shown: 20 of 60 categories (those with the most ")


def test_categories_without_a_held_out_image_are_not_shown() -> None:
    e = crowd(50)
    held_out = e.held_out & (e.y >= 30)
    e = Emergence(**{**vars(e), "held_out": held_out, "tau": 0.99999})
    assert Shown.of(e).categories.tolist() == list(range(30, 50))


def test_checkpoints_and_layers_are_at_even_distances() -> None:
    shown = Shown.of(crowd(3, T=50, L=30))
    for steps, count in zip(shown.steps, (50, 30), strict=True):
        assert len(steps) == STEPS and steps[0] == 0 and steps[-1] == count - 1
    assert shown.note("checkpoints", "layers") == "Shown: 12 of 50 checkpoints, 12 of 30 layers."


@pytest.mark.slow
def test_every_figure_of_many_is_bounded_and_says_what_it_shows(
    results: Emergence, tmp_path: Path
) -> None:
    pixels = torch.full((len(results.y), 1, 4, 4), 128, dtype=torch.uint8)
    run = save_run(tmp_path, results, Thumbnails(pixels, torch.zeros(0, 4, dtype=torch.int64)))
    partial = {
        "samples", "confidence_map", "samples_through_epochs", "regions_through_epochs",
        "regions_through_layers", "strength_entropy", "category_similarity", "point_regions",
        "importance_maps",
    }  # fmt: skip
    drawings = emergence.figures(run)
    assert partial <= set(drawings)
    for name, draw in drawings.items():
        assert callable(draw), name
        figure = draw()
        assert figure.get_size_inches()[1] < 11, name
        assert ("Shown: 20 of 60 categories" in words(figure)) == (name in partial), name
    tables = emergence.tables(run)
    assert len(tables["similarity"]) == 60 * 59 / 2
    assert len(tables["images"]) == len(results.y)


@pytest.mark.slow
def test_lines_and_panels_of_many_steps_are_bounded(tmp_path: Path) -> None:
    run = save_run(tmp_path, crowd(12, T=40, L=20))
    for name, draw in emergence.figures(run).items():
        if name.startswith(("knowledge", "losses", "tau", "regions_through_l", "samples_through")):
            assert callable(draw)
            figure = draw()
            assert figure.get_size_inches()[1] < 11, name
            assert "Shown: 12 of " in words(figure), name


def test_shared_regions_are_counted_for_every_pair(results: Emergence) -> None:
    from emergence_ext.method import shared_categories

    shared = shared_categories(results.h[-1, -1, results.held_out], results.frame, results.tau)
    rows = emergence.similarity(results)
    by_name = {name: number for number, name in enumerate(results.categories)}
    for row in (*rows[::97], max(rows, key=lambda row: row["regions that both share"])):
        pair = torch.tensor([by_name[row["category"]], by_name[row["and"]]])
        assert row["regions that both share"] == int((shared == pair).all(-1).sum())
    assert sum(row["regions that both share"] for row in rows) == int((shared[..., 0] >= 0).sum())


def test_points_of_many_images_are_those_of_each() -> None:
    from emergence_ext.method import knowledge, knowledge_points

    e = crowd(30)
    whole = knowledge_points(e.h[-1, -1], e.frame, e.y, e.tau)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knowledge, "BATCH", 7)
        parts = knowledge_points(e.h[-1, -1], e.frame, e.y, e.tau)
    assert torch.equal(whole.confidence, parts.confidence)
    assert torch.equal(whole.category, parts.category)


def test_names_that_would_be_shortened_alike_stay_distinct() -> None:
    layers = [f"features.block{k}.attention.projection" for k in range(30)]
    cut = distinct_names(layers, 13)
    assert len(set(cut)) == 30 and max(map(len, cut)) <= 13
    assert distinct_names(["cat", "dog"], 13) == ["cat", "dog"]
    assert distinct_names(["cat", "cat"], 13) == ["cat", "cat"]


@pytest.mark.parametrize("constrained", [True, False])
def test_a_note_above_moves_nothing_on_the_page(constrained: bool) -> None:
    figure = new_figure(4, 2, constrained=constrained)
    axes = figure.add_axes((0.2, 0.2, 0.5, 0.5)) if not constrained else figure.subplots()
    figure.text(0.1, 0.05, "below")
    figure.draw_without_rendering()
    before = axes.get_position().y0 * 2
    noted(figure, "Shown: some.")
    figure.draw_without_rendering()
    assert axes.get_position().y0 * figure.get_size_inches()[1] == pytest.approx(before, abs=0.03)
    assert figure.texts[0].get_position()[1] * figure.get_size_inches()[1] == pytest.approx(0.1)
    assert noted(figure, "") is figure and len(figure.texts) == 2


def test_room_is_dealt_out_to_large_pictures_alone() -> None:
    assert _limit([10, 10, 500, 900], 220) == 100
    assert _limit([10, 20], 100) == 20
    assert _limit([], 100) == 0
