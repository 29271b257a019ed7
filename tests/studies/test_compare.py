"""Two states are paired region by region: what did not move is found still, what did is found."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import ortho_group
from torch import Tensor
from typer.testing import CliRunner

from emergence_ext import figures
from emergence_ext.cli import app
from emergence_ext.data.samples import ArraySamples
from emergence_ext.method.frame import Frame
from emergence_ext.method.vmf import ExactKappa
from emergence_ext.report import compare as report
from emergence_ext.report.experiments import experiments
from emergence_ext.report.files import NO_IMAGES
from emergence_ext.run import FinishedRun, Thumbnails
from emergence_ext.run.address import find_checkpoint, split_address
from emergence_ext.run.emerging import Checkpoint, Emergence, Settings, emergence
from emergence_ext.run.subject import Subject
from emergence_ext.studies.compare import Comparison, align, comparable, compare, differences
from tests import tiny_networks
from tests.planted import feature_set
from tests.studies.saved import NOWHERE, assert_equal, assert_same_again, save_run

N = 32


@pytest.fixture(scope="module")
def analysed() -> Emergence:
    settings = Settings(region_images=12, importance_evals=2, regional_evals=5)
    sets = [feature_set(share, N) for share in (0.3, 1.0)]
    return emergence(
        [Checkpoint(f"epoch {t}", 5 * t, lambda kept=kept: kept) for t, kept in enumerate(sets)],  # type: ignore[misc]
        settings,
    )


def turned(e: Emergence, turn: Tensor) -> Emergence:
    """The same in another frame."""
    frame = Frame(e.frame.priors, e.frame.directions @ turn, e.frame.kappa, e.frame.kappa_p)
    return replace(e, frame=frame, g=e.g @ turn, h=e.h @ turn)


def shuffled(e: Emergence, seed: int = 0) -> Emergence:
    """The same images in another order."""
    order = torch.randperm(len(e.names), generator=torch.Generator().manual_seed(seed))
    place = torch.argsort(order)
    return replace(
        e,
        names=[e.names[i] for i in order],
        y=e.y[order],
        held_out=e.held_out[order],
        region_images=place[e.region_images],
        g=e.g[:, order],
        z=e.z[:, order],
        h=e.h[:, :, order],
    )


def test_a_run_does_not_differ_from_itself(analysed: Emergence) -> None:
    same = compare(analysed, analysed)
    assert same.alignment.same and not same.distance.any()
    assert same.turned[same.turned.isfinite()].abs().max() < 1e-6
    assert torch.equal(same.w[0], same.w[1]) and torch.equal(same.says[0], same.says[1])
    for row in differences(same):
        assert row.turned.value == pytest.approx(0, abs=1e-6)
        assert row.stronger.value == row.changed.value == row.points.value == 0
        assert row.reweighed is None or row.reweighed.value == 0


@pytest.mark.parametrize("seed", [0, 1])  # a rotation and a reflection
def test_neither_another_frame_nor_another_order_is_a_difference(
    analysed: Emergence, seed: int
) -> None:
    turn = torch.from_numpy(ortho_group.rvs(3, random_state=seed)).float()
    other = shuffled(turned(analysed, turn))
    c = compare(analysed, other)
    assert not c.alignment.same
    torch.testing.assert_close(c.alignment.map, turn.double().t(), atol=1e-5, rtol=0)
    torch.testing.assert_close(c.alignment.cosine, torch.ones(4).double())
    assert c.alignment.chance < 0.95
    assert c.distance.max() < 1e-4 * float(analysed.h.norm(dim=-1).max())
    assert torch.equal(c.says[0], c.says[1])
    torch.testing.assert_close(c.truth[0], c.truth[1], atol=1e-4, rtol=0)
    assert torch.equal(c.w[0], c.w[1]) and torch.equal(c.weighed, analysed.region_images)
    assert "mean cosine of 1.00" in comparable(c)[0]


def test_what_was_moved_is_found_and_ranked_first(analysed: Emergence) -> None:
    images = analysed.held_out.nonzero().flatten()
    moved = analysed.h.clone()
    moved[-1, -1, images[3], 2] *= -3
    moved[-1, -1, images[5], 1] *= -2
    strength = analysed.h[-1, -1].norm(dim=-1)
    far = [(int(images[3]), 2, 4 * strength[images[3], 2])]
    far += [(int(images[5]), 1, 3 * strength[images[5], 1])]
    far.sort(key=lambda x: -x[2])
    c = compare(analysed, replace(analysed, h=moved))
    assert c.ranked_regions(most=2) == [x[:2] for x in far]
    assert int(c.ranked_images()[0]) == far[0][0]
    for i, r, distance in far:
        assert float(c.distance[-1, i, r]) == pytest.approx(float(distance), rel=1e-5)
        assert float(c.turned[-1, i, r]) == pytest.approx(2)
    assert not c.distance[0].any()


def test_differences_are_those_of_their_layer_and_category(analysed: Emergence) -> None:
    moved = analysed.h.clone()
    moved[-1, 1, analysed.y == 2] *= 1.5
    rows = differences(compare(analysed, replace(analysed, h=moved)))
    assert [(r.layer, r.category) for r in rows[:2]] == [("conv1", None), ("conv1", "category 0")]
    mine = analysed.held_out & (analysed.y == 2)
    expected = 0.5 * float(analysed.h[-1, 1, mine].norm(dim=-1).mean())
    for row in rows:
        if (row.layer, row.category) == ("conv2", "category 2"):
            assert row.stronger.value == pytest.approx(expected, rel=1e-4)
            assert row.stronger.low <= row.stronger.value <= row.stronger.high
            assert row.images == int(mine.sum())
        elif row.category is not None:
            assert row.stronger.value == 0
        assert row.turned.value == pytest.approx(0, abs=1e-6)


def test_points_and_importance_are_counted_by_image(analysed: Emergence) -> None:
    # What held-out images said with all their regions, none says now; all weight in one region.
    moved, w = analysed.h.clone(), analysed.w.clone()
    moved[-1, -1] = 0
    w[-1, -1] = torch.eye(w.shape[-1])[0]
    other = replace(analysed, h=moved, w=w)
    c = compare(analysed, other)
    row = next(r for r in differences(c) if r.layer == "conv2" and r.category is None)
    points = analysed.points().subset(analysed.held_out)
    assert row.points.value == pytest.approx(-float(points.point.double().sum(1).mean()))
    assert row.reliable.value == pytest.approx(-float(points.reliable.double().sum(1).mean()))
    assert row.changed.value == pytest.approx(float(points.point.double().mean()))
    assert row.reweighed is not None and row.weighed == 12
    assert row.reweighed.value == pytest.approx(
        float((1 - analysed.w[-1, -1, :, 0]).mean()), rel=1e-5
    )
    # A region without strength has no direction that could have turned.
    assert c.turned[-1].isnan().all() and np.isnan(row.turned.value)
    rows = report.tables(c, NOWHERE)["differences"]
    cells = [x for x in rows if x["layer"] == "conv2" and x["category"] == "all"]
    assert [x["1 - cos"] for x in cells] == ["no direction"]


def test_intervals_are_the_same_every_time_and_absent_for_a_single_image(
    analysed: Emergence,
) -> None:
    c = compare(analysed, analysed, 0, 1)
    assert differences(c) == differences(c)
    lone = replace(c, held_out=torch.arange(N) < 2)
    row = next(r for r in differences(lone) if r.category == "category 0")
    assert row.images == 1 and np.isnan(row.stronger.low) and np.isfinite(row.stronger.value)


def test_frames_that_do_not_fit_are_said_to_be_incomparable(analysed: Emergence) -> None:
    mu = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    ours = Frame(analysed.frame.priors, mu, ExactKappa(3))
    theirs = Frame(analysed.frame.priors, mu[[0, 3, 1, 2]].roll(1, 0), ExactKappa(3))
    c = compare(replace(analysed, frame=ours), replace(analysed, frame=theirs))
    expected = align(ours, theirs)
    assert float(expected.cosine.mean()) < 0.95
    told = " ".join(comparable(replace(c, alignment=replace(expected, chance=0.9))))
    assert "little better than chance" in told and "Do not read them" in told
    told = " ".join(comparable(replace(c, alignment=replace(expected, chance=-0.9))))
    assert "mean nothing" in told and "Do not read" not in told


def test_a_comparison_is_kept_and_read_again(analysed: Emergence, tmp_path: Path) -> None:
    c = compare(analysed, analysed, 0, 1, names=("a", "b"))
    c.save(tmp_path / "compare")
    again = Comparison.load(tmp_path / "compare")
    assert_equal(again, c)
    assert differences(again) == differences(c) and (again.a, again.b) == ("a", "b")
    assert again.ranked_regions() == c.ranked_regions() and again.grid == c.grid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["conv1", "other"]}, "differ in their layers"),
        ({"tau": 0.6}, r"differ in their threshold of knowledge points \(0.4 and 0.6\)"),
        ({"grid": (3, 2)}, r"differ in their grid of regions \(\[2, 3\] and \[3, 2\]\)"),
        ({"categories": list("abcd")}, "differ in their categories"),
        ({"names": [f"photo {i}" for i in range(N)]}, "'image 0', 'image 1' and 30 more only in"),
        ({"names": ["one"] * N}, "B has several images of one name"),
        ({"y": torch.zeros(N, dtype=torch.int64)}, "another category in B"),
        ({"held_out": torch.zeros(N, dtype=torch.bool)}, "0 images are held out in both.*--seed"),
        (
            {"frame": Frame(torch.full((4,), 0.25), torch.eye(4), ExactKappa(4))},
            "differ in their projected width",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(
    analysed: Emergence, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(analysed, replace(analysed, **change))


def test_checkpoints_are_found_by_label_and_epoch(analysed: Emergence, tmp_path: Path) -> None:
    for label, place in ((None, 1), ("epoch 0", 0), ("epoch1", 1), ("Epoch_1", 1), ("5", 1)):
        assert find_checkpoint(analysed, label) == place
    with pytest.raises(ValueError, match="no checkpoints '3'; there are epoch 0, epoch 1"):
        find_checkpoint(analysed, "3")
    with pytest.raises(ValueError, match="several checkpoints"):
        find_checkpoint(replace(analysed, labels=["a 1", "a_1"]), "a1")
    assert split_address("runs/x@epoch 3") == (Path("runs/x"), "epoch 3")
    assert split_address("runs/x") == (Path("runs/x"), None)
    (tmp_path / "a@b").mkdir()
    assert split_address(str(tmp_path / "a@b")) == (tmp_path / "a@b", None)
    with pytest.raises(ValueError, match=r"expected RUN_DIR or RUN_DIR@CHECKPOINT"):
        split_address("runs/x@")


def test_tables_say_where_a_region_lies_and_what_it_was_in_either(analysed: Emergence) -> None:
    c = compare(analysed, analysed, 0, 1)
    assert report.tables(c, NOWHERE)["regions"] == report.moved_regions(c)
    rows = report.moved_regions(c, most=3)
    assert [(row["layer"], row["rank"]) for row in rows] == [
        (layer, rank) for layer in analysed.layers for rank in (1, 2, 3)
    ]
    for row in rows:
        k, i = analysed.layers.index(row["layer"]), analysed.names.index(row["image"])
        h = analysed.h[:, k, i, 3 * row["row"] + row["column"]]  # the grid is 2 x 3
        p = analysed.frame.posterior(h)[:, analysed.y[i]].tolist()
        assert [row["p(true) in A"], row["p(true) in B"]] == pytest.approx(p)
        assert [row["|h| in A"], row["|h| in B"]] == pytest.approx(h.norm(dim=1).tolist())
        assert row["moved |h B - h A|"] == pytest.approx(float((h[1] - h[0]).norm()))
        assert row["category"] == analysed.categories[int(analysed.y[i])] and analysed.held_out[i]
    for row in report.tables(c, NOWHERE)["images"]:
        i = analysed.names.index(row["image"])
        counts = [int(analysed.points(t).reliable[i].sum()) for t in (0, 1)]
        assert [row["reliable points in A"], row["reliable points in B"]] == counts


@pytest.fixture(scope="module")
def thumbnails(analysed: Emergence) -> Thumbnails:
    """Images by which each can be known."""
    pictures = torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dataset = ArraySamples(
        pictures, analysed.y, categories=analysed.categories, names=analysed.names
    )
    layers = {"conv1": "conv1_1", "conv2": "conv2_1"}
    return Thumbnails.of(Subject(tiny_networks.three(), layers, dataset), analysed.grid)


@pytest.mark.slow
def test_figures_show_each_image_once_and_few_of_a_category(
    analysed: Emergence, thumbnails: Thumbnails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = compare(analysed, analysed, 0, 1)
    drawings = report.figures(c, save_run(tmp_path, analysed, thumbnails))
    assert list(drawings) == ["differences", "moved_regions", "moved_images"]
    shown: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, labels: int) -> None:
        """Note the images that a figure is given, and their labels, which are a later argument."""
        draw = getattr(figures, name)

        def watched(*given: Any, **more: Any) -> Figure:
            shown[name] = given[0], given[labels]
            return draw(*given, **more)

        monkeypatch.setattr(figures, name, watched)

    watch("moved_regions", 2)
    watch("moved_images", 5)
    monkeypatch.setattr(report, "MOVED_IMAGES", 4)
    assert all(not isinstance(x, str) and isinstance(x(), Figure) for x in drawings.values())
    for name, (pixels, y) in shown.items():
        places = [
            n
            for x in pixels
            for n in range(N)
            if torch.equal(x, thumbnails.images(torch.tensor(n)))
        ]
        assert len(places) == len(set(places)) == len(y), name
        assert analysed.held_out[places].all() and torch.equal(analysed.y[places], y)
    assert len(shown["moved_images"][1]) == 4
    assert shown["moved_images"][1].bincount().max() <= 2


def test_without_images_the_figures_that_need_none_are_drawn(
    analysed: Emergence, tmp_path: Path
) -> None:
    c = compare(analysed, analysed, 0, 1)
    drawings = dict(report.figures(c, save_run(tmp_path, analysed)))
    differences_figure = drawings.pop("differences")
    assert not isinstance(differences_figure, str) and differences_figure().axes
    assert drawings == {"moved_regions": NO_IMAGES, "moved_images": NO_IMAGES}


def test_the_report_of_a_comparison_is_made_of_what_is_saved(
    analysed: Emergence, thumbnails: Thumbnails, tmp_path: Path
) -> None:
    run = save_run(tmp_path, analysed, thumbnails)
    folder = run.inside.experiment("compare") / "a_to_b"
    c = compare(analysed, analysed, 0, 1)
    c.save(folder / "compare")

    def write(run: FinishedRun) -> None:
        last = experiments(run.inside)[-1]
        assert last.section.title == "Comparison: a to b"
        last.write(run, folder / "compare")

    write(run)
    again = FinishedRun.open(tmp_path)
    drawn = {"differences", "moved_regions", "moved_images"}
    assert_same_again(folder, drawn, lambda: write(again))
    assert report.tables(Comparison.load(folder / "compare"), again) == report.tables(c, run)


def test_the_command_writes_tables_and_says_what_compares(
    analysed: Emergence, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    turn = torch.from_numpy(ortho_group.rvs(3, random_state=0)).float()
    for folder, e in zip(folders, (analysed, turned(analysed, turn)), strict=True):
        save_run(folder, e)

    def call(a: str, b: str) -> Any:
        return CliRunner().invoke(app, ["compare", a, b])

    result = call(f"{folders[0]}@epoch0", f"{folders[0]}@epoch1")
    assert result.exit_code == 0, result.output
    assert "one and the same" in result.stdout and "conv2: 1 - cos" in result.stdout
    out = Path(result.stdout.splitlines()[-2].removeprefix("tables and figures: "))
    assert out.parent == folders[0] / "compare"
    kept = {p.stem for p in (out / "tables").iterdir()}
    assert kept == {"differences", "regions", "images", "frames"}
    with (out / "tables" / "differences.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 5
    assert (out / "figures" / "differences.png").is_file()

    result = call(*map(str, folders))
    assert result.exit_code == 0, result.output
    assert "from one epoch 1 to two epoch 1" in result.stdout
    assert "The frames differ" in result.stdout
    assert Path(result.stdout.splitlines()[-1].removeprefix("Written to: ")) != out

    result = call(f"{folders[0]}@7", str(folders[0]))
    assert result.exit_code == 2 and "no checkpoints '7'" in result.stderr


def test_of_many_categories_those_that_turned_most_are_drawn(
    analysed: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "CATEGORIES", 1)
    c = compare(analysed, analysed, 0, 1)
    last = [d for d in differences(c) if d.layer == c.layers[-1] and d.category]
    most = max(last, key=lambda d: d.turned.value if d.turned else -1)
    figure = report.figures(c, save_run(tmp_path, analysed))["differences"]
    assert callable(figure)
    text = " ".join(t.get_text() for t in figure().findobj(Text))
    assert f"1 of {len(c.categories)} categories, those that turned most." in text
    assert most.category in text
    assert not any(name in text for name in c.categories if name != most.category)
