"""The command `mindseye`, its sheets, figures and tables."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from typer.testing import CliRunner

from emergence_ext import figures
from emergence_ext.cli import app
from emergence_ext.data import image_set
from emergence_ext.data.scan import find_images
from emergence_ext.mindseye import MindsEye, Schedule
from emergence_ext.render import maps_of
from emergence_ext.report.look import Sheet
from emergence_ext.report.mindseye import (
    ImageSet,
    direction_sheet,
    directions_of_run,
    facet_sheet,
    facets_of_run,
    film_frames,
)
from emergence_ext.run import Emergence, FinishedRun
from tests.mindseye.test_mindseye import QUICK
from tests.render.test_render import Net


def images_of(channels: int) -> ImageSet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, images = Net(channels), torch.rand(14, channels, 10, 10)
    names = [f"{n}.png" for n in range(14)]
    return ImageSet(net, {"early": "relu1", "late": "relu2"}, images, names, outputs={0: "cat"})


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return images_of(3)


@pytest.fixture(scope="module")
def sheet_and_eyes(images: ImageSet) -> tuple[Sheet, dict[str, MindsEye]]:
    return facet_sheet(images, 2, (2, 3), replace(QUICK, steps=6))


def test_the_sheet_shows_layers_channels_and_iterations(
    sheet_and_eyes: tuple[Sheet, dict[str, MindsEye]],
) -> None:
    sheet, eyes = sheet_and_eyes
    assert list(eyes) == ["early", "late"]
    kinds = {name.split("_")[0] for name in sheet.figures}
    # Facet 2 of one layer is not facet 2 of another, so they do not stand beside each other.
    assert kinds == {"embedding", "facets", "iterations", "channels", "losses"}
    assert {axes.get_xlabel() for axes in sheet.figures["losses"].axes} == {"iteration"}
    scores, channels = sheet.tables["scores"], sheet.tables["channels"]
    assert len(scores) == 2 * 2 * 2 and len(channels) == 2 * 2 * (2 + 3)
    eye = eyes["late"]
    row = next(r for r in scores if r["of"] == "late k=2" and r["facet"] == 2)
    score = eye.score
    assert row["image / initial"] == pytest.approx(float(score.rendered[1] / score.initial[1]))
    assert row["best real image"] == f"{int(score.real[1].argmax())}.png"
    assert row["network says"] in {"cat", "output 1", "output 2"}
    members = [r for r in sheet.tables["members"] if r["of"] == "late k=2"]
    assert sum(r["weight"] for r in members) == pytest.approx(2)
    assert len(sheet.notes) == 8 and "times the best real" in sheet.notes[0]


def test_a_film_has_a_frame_for_each_kept_iteration(
    sheet_and_eyes: tuple[Sheet, dict[str, MindsEye]],
) -> None:
    eye = sheet_and_eyes[1]["late"]
    frames = list(film_frames(eye))
    assert len(frames) == len(eye.kept) == 7
    assert frames[0].shape == (230, 460, 3) and frames[0].dtype.name == "uint8"
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize(("count", "side"), [(1, 9), (3, 9), (7, 33), (50, 9), (2, 2000)])
def test_a_film_of_many_facets_is_a_grid_of_even_size(count: int, side: int) -> None:
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(-1, 4, side, side)
    (frame,) = film_frames(SimpleNamespace(images=images, kept={0: images}))
    height, width, _ = frame.shape
    assert height % 2 == width % 2 == 0 and 18 <= height <= width <= 1920
    columns = next(n for n in range(1, count + 1) if n * n >= count)
    cell = width // columns
    for place in range(count):
        y, x = (place // columns) * cell + cell // 2, (place % columns) * cell + cell // 2
        assert abs(int(frame[y, x, 0]) - 255 * float(images[place, 0, 0, 0])) <= 1


def test_everything_is_checked_before_anything_is_optimised(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("optimised")

    monkeypatch.setattr("emergence_ext.report.mindseye.facets.minds_eye", never)
    for top_k, message in (((5,), "4, the channels of early, got 5"), ((), "a number of channels")):
        with pytest.raises(ValueError, match=message):
            facet_sheet(images, 1, top_k)
    with pytest.raises(ValueError, match="no layer 'relu3'"):
        facet_sheet(replace(images, layers={"early": "relu1", "late": "relu3"}))
    with pytest.raises(ValueError, match="at most 14"):
        facet_sheet(images, 15)


def test_one_facet_of_all_channels_of_two_layers(images: ImageSet) -> None:
    sheet, eyes = facet_sheet(images, 1, schedule=replace(QUICK, steps=1))
    assert "layers" in sheet.figures
    assert [eye.channels.shape[1] for eye in eyes.values()] == [4, 5]


@pytest.mark.slow
def test_images_of_four_channels_are_drawn_as_their_mean() -> None:
    sheet, eyes = facet_sheet(images_of(4), 1, (2,), replace(QUICK, steps=1))
    assert sheet.notes[-1] == "Pictures show the mean of the 4 channels."
    assert next(film_frames(eyes["late"])).shape == (230, 230, 3)


def test_the_embedding_of_many_facets_stays_a_page() -> None:
    def embedding(count: int) -> Figure:
        return figures.facet_embedding(
            torch.rand(10 * count, 2),
            torch.arange(count).repeat(10),
            torch.rand(count, 2),
            [torch.arange(10)] * count,
            [torch.full((10,), 0.1)] * count,
            [torch.rand(10, 3, 4, 4)] * count,
        )

    many = embedding(30)
    assert len(embedding(2).axes) == 1 + 2 * (1 + 10)
    assert many.get_size_inches()[1] < 10
    assert any(text.get_text() == "and 22 more facets" for axes in many.axes for text in axes.texts)


def test_the_figures_refuse_what_does_not_fit() -> None:
    picture = torch.rand(3, 4, 4)
    with pytest.raises(ValueError, match="2 rows of 1 pictures"):
        figures.picture_sheet([[picture]], ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="must be of C=1"):
        figures.facet_embedding(torch.rand(3, 2), [0, 0, 0], torch.rand(1, 2), [], [], [])
    sheet = figures.picture_sheet([[picture, None]], [""], ["x", "y"], [["a", "b"]])
    assert len(sheet.axes) == 2


def test_a_folder_is_one_set_of_images(image_folder: Path, tmp_path: Path) -> None:
    samples = image_set(image_folder / "red", size=8)
    assert samples.categories == ["red"] and len(samples) == 16
    assert len(image_set(image_folder, size=8)) == 48
    with pytest.raises(ValueError, match="holds no image"):
        image_set(tmp_path, size=8)
    with pytest.raises(ValueError, match="no folder"):
        image_set(tmp_path / "absent", size=8)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mindseye", *map(str, arguments)])
    return result.exit_code, result.output


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without denoising, so that scikit-image is not needed."""

    def without(steps: int) -> Schedule:
        return replace(QUICK, steps=steps)

    monkeypatch.setattr("emergence_ext.mindseye.Schedule", without)


def test_the_command_from_a_folder(
    quick: None, image_folder: Path, training: Path, tmp_path: Path
) -> None:
    code, output = run(
        "--images", image_folder / "red", "--model", "tests.tiny_networks:three", "--weights",
        training / "epoch_0012.safetensors", "--size", 16, "--layer", "conv2_1", "--facets", 2,
        "--top-k", "3", "--steps", 8, "--out", tmp_path / "eye",
    )  # fmt: skip
    assert code == 0, output
    assert output.splitlines()[-1] == f"Written to: {tmp_path / 'eye'}"
    names = {path.name for path in (tmp_path / "eye" / "figures").iterdir()}
    assert {"embedding_conv2_1.png", "facets_conv2_1.svg", "iterations_conv2_1.png"} <= names
    assert any(
        name.startswith("iterations_conv2_1.") and name[-3:] in ("mp4", "gif") for name in names
    )
    rows = rows_of(tmp_path / "eye" / "tables" / "scores.csv")
    assert len(rows) == 2 and float(rows[0]["image / initial"]) > 1


def test_a_network_of_one_channel_sees_grey(
    quick: None, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def note(images: ImageSet, *arguments: object) -> tuple[Sheet, dict[str, MindsEye]]:
        taken.append(images)
        return facet_sheet(images, 1, (2,), replace(QUICK, steps=1))

    monkeypatch.setattr("emergence_ext.report.mindseye.write.facet_sheet", note)
    code, output = run(
        "--images", image_folder / "red", "--model", "small_vgg28", "--size", 28, "--layer",
        "conv2_1", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    rgb = torch.stack([image_set(image_folder / "red", size=28)[i][0] for i in range(16)])
    luma = 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]
    torch.testing.assert_close(taken[0].images, luma[:, None])


def test_a_network_of_other_channels_is_refused(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tiny_networks.three", lambda: nn.Sequential(nn.Conv2d(5, 2, 3)))
    code, output = run(
        "--images", image_folder / "red", "--model", "tests.tiny_networks:three", "--size", 16,
        "--layer", "0", "--out", tmp_path,
    )  # fmt: skip
    assert code == 2 and "the network takes images of 5 channels" in output


def test_a_film_that_fails_is_left_out(
    quick: None,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("emergence_ext.report.mindseye.write.write_film", fails)
    code, output = run(
        "--images", image_folder / "red", "--model", "tests.tiny_networks:three", "--size", 16,
        "--layer", "conv2_1", "--steps", 1, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    assert "the film of conv2_1 is left out: no room" in caplog.text
    assert (tmp_path / "tables" / "scores.csv").is_file()


def test_a_notebook_does_in_one_call_what_the_command_does(
    finished_run: Path, tmp_path: Path
) -> None:
    run, quick = FinishedRun.open(finished_run), replace(QUICK, steps=1)
    notes = facets_of_run(run, ["conv2_1"], tmp_path, categories=["red"], top_k=[2], schedule=quick)
    assert [note.startswith("red, conv2_1, facet 1: target channels") for note in notes] == [True]
    assert (tmp_path / "red" / "figures" / "facets_conv2_1.png").is_file()
    # Its pictures are no images, though they lie in a folder of such.
    found = find_images([tmp_path], tmp_path)
    assert not found.images[0] and found.results == {0}
    notes = directions_of_run(run, ["conv2_1"], tmp_path, categories=["red"], schedule=quick)
    assert [note.startswith("red, conv2_1: component along mu") for note in notes] == [True]
    assert len(rows_of(tmp_path / "tables" / "directions.csv")) == 1


def test_directions_of_layers_are_one_table_of_components_of_h(
    quick: None, finished_run: Path, tmp_path: Path
) -> None:
    code, output = run(
        "--run", finished_run, "--layer", "conv1_1,conv2_1", "--directions", "--steps", 25,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    rows = rows_of(tmp_path / "tables" / "directions.csv")
    assert [(row["layer"], row["category"]) for row in rows] == [
        (layer, category)
        for layer in ("conv1_1", "conv2_1")
        for category in ("blue", "green", "red")
    ]
    assert "green, conv1_1: component along mu" in output
    finished = FinishedRun.open(finished_run)
    subject, e, regional = finished.subject(), finished.emergence, finished.learned().regional
    assert any(abs(projection.scale_ - 1) > 0.01 for projection in regional.values())
    images = torch.stack([image for image, _ in subject.dataset])
    for row in rows:
        assert float(row["component along mu, image"]) > float(row["noise"])
        layer, c = subject.layers[row["layer"]], e.categories.index(row["category"])
        maps = maps_of(subject.module, [layer], images[e.y == c], preprocess=subject.preprocess)
        h = regional[row["layer"]].transform(maps[layer].flatten(2).transpose(1, 2))
        along = (h @ e.frame.directions[c]).mean(1)
        assert float(row["best real"]) == pytest.approx(float(along.max()), rel=1e-4)


def test_a_component_of_no_real_image_has_no_ratio(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = FinishedRun.open(finished_run)
    monkeypatch.setattr(
        "emergence_ext.report.mindseye.directions.measure",
        lambda _, x, *__, **___: -torch.ones(len(x)),
    )
    once = replace(QUICK, steps=1)
    sheet = direction_sheet(finished, finished.subject(), ["red"], ["conv2_1"], once)
    assert sheet.tables["directions"][0]["image / best real"] is None
    assert "an undefined number of times the best real" in sheet.notes[0]


def test_directions_leave_the_network_as_it_was(finished_run: Path) -> None:
    finished = FinishedRun.open(finished_run)
    subject = finished.subject()
    subject.module.train()
    before = {name: x.clone() for name, x in subject.module.state_dict().items()}
    direction_sheet(finished, subject, ["red"], ["conv2_1"], replace(QUICK, steps=1))
    assert subject.module.training
    for name, x in subject.module.state_dict().items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=0)


@pytest.fixture
def known_points(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Images and regions `[N, R]` that are reliable points in any layer: none of blue."""
    e = FinishedRun.open(finished_run).emergence
    reliable = torch.zeros(e.h.shape[2:4], dtype=torch.bool)
    for category, images in (("red", [0, 3, 7]), ("green", [1, 2])):
        index = (e.y == e.categories.index(category)).nonzero().flatten()
        reliable[index[images], 5:9] = True
    monkeypatch.setattr(Emergence, "points", lambda *_: SimpleNamespace(reliable=reliable))
    return reliable


@pytest.mark.slow
def test_points_are_the_images_and_regions_that_are_reliable(
    quick: None,
    finished_run: Path,
    known_points: Tensor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    code, output = run(
        "--run", finished_run, "--layer", "conv2_1", "--points", "--top-k", 2, "--steps", 3,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    assert "blue is left out: none of its images has a reliable point in conv2_1" in caplog.text
    written = sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock")
    assert written == ["green", "red", "tables"]
    scores = rows_of(tmp_path / "tables" / "scores.csv")
    assert [(row["category"], row["images"]) for row in scores] == [("green", "2"), ("red", "3")]
    assert "red, conv2_1, facet 1: target channels" in output
    e = FinishedRun.open(finished_run).emergence
    members = [row["image"] for row in rows_of(tmp_path / "red" / "tables" / "members.csv")]
    own = known_points.any(1) & (e.y == e.categories.index("red"))
    assert sorted(members) == sorted(e.names[i] for i in own.nonzero().flatten())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--category", "blue"], "points: no image of blue has a reliable point in conv2_1"),
        (["--facets", "3"], "facets: expected at most 2, the images of green, got 3"),
    ],
)
def test_too_few_points_are_told(
    finished_run: Path, known_points: Tensor, tmp_path: Path, arguments: list[str], message: str
) -> None:
    options = ["--run", finished_run, "--layer", "conv2_1", "--points", "--out", tmp_path]
    code, output = run(*options, *arguments)
    assert code == 2 and message in output


@pytest.mark.slow
def test_the_layers_of_a_run_by_their_dotted_names(
    quick: None, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = FinishedRun.open(finished_run).subject()
    within = {name: f"0.{dotted}" for name, dotted in subject.layers.items()}
    wrapped = replace(subject, module=nn.Sequential(subject.module), layers=within)
    monkeypatch.setattr(FinishedRun, "subject", lambda *_: wrapped)
    code, output = run(
        "--run", finished_run, "--layer", f"{within['conv2_1']},conv2_1", "--category", "red",
        "--steps", 1, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    assert [row["of"] for row in rows_of(tmp_path / "tables" / "scores.csv")] == ["conv2_1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --images and --model, or --run"),
        (["--images", "x"], "give either --images and --model"),
        (["--images", "absent", "--model", "tests.tiny_networks:three"], "no folder absent"),
        (["--run", "absent"], "holds no finished run"),
        (
            ["--run", "absent", "--images", "x", "--model", "y"],
            "--run, which knows network and images",
        ),
        (["--run", "absent", "--size", "9"], "--size: it is of no use with --run"),
        (["--run", "absent", "--preprocess", "none"], "--preprocess: it is of no use"),
        (
            ["--run", "absent", "--directions", "--points"],
            "--points: it is of no use",
        ),
        (["--run", "absent", "--directions", "--facets", "1"], "--facets: it is of no use"),
        (["--run", "absent", "--directions", "--top-k", "8"], "--top-k: it is of no use"),
        (["--images", "x", "--model", "y", "--points"], "--points: it needs --run"),
        (["--images", "x", "--model", "y", "--category", "z"], "--category: it needs --run"),
        (["--run", "absent", "--facets", "0"], "facets: expected at least 1, got 0"),
        (["--run", "absent", "--layer", "act,"], "layer: expected names with one comma between"),
        (["--run", "absent", "--top-k", "two"], "--top-k: expected numbers"),
        (["--run", "absent", "--steps", "0"], "steps: expected at least 1"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, output = run("--layer", "conv2_1", "--out", tmp_path, *arguments)
    assert code == 2 and message in output


def test_unknown_categories_and_layers_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    for option, value in (("--category", "cyan"), ("--layer", "conv9")):
        code, output = run(
            "--run", finished_run, "--layer", "conv2_1", option, value, "--out", tmp_path
        )
        assert code == 2 and f"got '{value}'" in output
