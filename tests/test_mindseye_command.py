"""The command `mindseye`, its sheets, figures and tables."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_mindseye import QUICK
from test_render import Net
from typer.testing import CliRunner

from emergence_ext import figures
from emergence_ext.cli import app
from emergence_ext.data import image_set
from emergence_ext.mindseye import MindsEye, Schedule
from emergence_ext.sheets import Sheet
from emergence_ext.sheets.mindseye import ImageSet, facet_sheet, film_frames


@pytest.fixture
def given(generator: torch.Generator) -> ImageSet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    images = torch.rand(14, 3, 10, 10, generator=generator)
    names = [f"{n}.png" for n in range(14)]
    return ImageSet(net, {"early": "relu1", "late": "relu2"}, images, names, outputs={0: "cat"})


@pytest.fixture
def made(given: ImageSet) -> tuple[Sheet, dict[str, MindsEye]]:
    return facet_sheet(given, 2, (2, 3), replace(QUICK, steps=6))


def test_the_sheet_shows_layers_channels_and_iterations(
    made: tuple[Sheet, dict[str, MindsEye]],
) -> None:
    sheet, found = made
    assert list(found) == ["early", "late"]
    kinds = {name.split("_")[0] for name in sheet.figures}
    assert kinds == {"embedding", "facets", "iterations", "channels", "layers", "losses"}
    scores, channels = sheet.tables["scores"], sheet.tables["channels"]
    assert len(scores) == 2 * 2 * 2 and len(channels) == 2 * 2 * (2 + 3)
    eye = found["late"]
    row = next(r for r in scores if r["of"] == "late k=2" and r["facet"] == 2)
    score = eye.score
    assert row["image / initial"] == pytest.approx(float(score.rendered[1] / score.initial[1]))
    assert row["best real image"] == f"{int(score.real[1].argmax())}.png"
    assert row["network says"] in {"cat", "output 1", "output 2"}
    members = [r for r in sheet.tables["members"] if r["of"] == "late k=2"]
    assert sum(r["weight"] for r in members) == pytest.approx(2)
    assert len(sheet.notes) == 8 and "times the best real" in sheet.notes[0]


def test_a_film_has_a_frame_for_each_kept_iteration(
    made: tuple[Sheet, dict[str, MindsEye]],
) -> None:
    eye = made[1]["late"]
    frames = list(film_frames(eye))
    assert len(frames) == len(eye.kept) == 7
    assert frames[0].shape == (230, 460, 3) and frames[0].dtype.name == "uint8"
    assert (frames[0] != frames[-1]).any()
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        next(film_frames(replace(eye, kept={0: torch.rand(1, 4, 10, 10)})))


def test_the_figures_refuse_what_does_not_fit() -> None:
    picture = torch.rand(3, 4, 4)
    with pytest.raises(ValueError, match="2 rows of 1 pictures"):
        figures.picture_sheet([[picture]], ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="must be of C=1"):
        figures.facet_embedding(torch.rand(3, 2), [0, 0, 0], torch.rand(1, 2), [], [], [])
    drawn = figures.picture_sheet([[picture, None]], [""], ["x", "y"], [["a", "b"]])
    assert len(drawn.axes) == 2


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without denoising, so that scikit-image is not needed."""

    def without(steps: int) -> Schedule:
        return replace(QUICK, steps=steps)

    monkeypatch.setattr("emergence_ext.mindseye.Schedule", without)


def test_the_command_from_a_folder(
    quick: None, image_folder: Path, training: Path, tmp_path: Path
) -> None:
    code, told = run(
        "--images", image_folder / "red", "--model", "tiny_networks:three", "--weights",
        training / "epoch_0012.safetensors", "--size", 16, "--layer", "conv2_1", "--facets", 2,
        "--top-k", "3", "--steps", 8, "--out", tmp_path / "eye",
    )  # fmt: skip
    assert code == 0, told
    assert told.splitlines()[-1] == str(tmp_path / "eye")
    names = {path.name for path in (tmp_path / "eye" / "figures").iterdir()}
    assert {"embedding_conv2_1.png", "facets_conv2_1.svg", "iterations_conv2_1.png"} <= names
    assert any(
        name.startswith("iterations_conv2_1.") and name[-3:] in ("mp4", "gif") for name in names
    )
    with (tmp_path / "eye" / "tables" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and float(rows[0]["image / initial"]) > 1


def test_the_command_from_a_run(quick: None, finished_run: Path, tmp_path: Path) -> None:
    code, told = run(
        "--run", finished_run, "--layer", "conv2_1", "--directions", "--steps", 25, "--out",
        tmp_path / "along",
    )  # fmt: skip
    assert code == 0, told
    with (tmp_path / "along" / "tables" / "directions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == ["blue", "green", "red"]
    for row in rows:
        assert float(row["component along mu, image"]) > float(row["noise"])
    code, told = run(
        "--run", finished_run, "--layer", "conv2_1", "--points", "--category", "red", "--top-k", 2,
        "--steps", 3, "--out", tmp_path / "points",
    )  # fmt: skip
    if code:
        assert "no image of red has a reliable point" in told
    else:
        assert (tmp_path / "points" / "red" / "tables" / "scores.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give either --images and --model, or --run"),
        (["--images", "x"], "give either --images and --model"),
        (["--images", "absent", "--model", "tiny_networks:three"], "no folder absent"),
        (["--run", "absent"], "holds no finished run"),
        (["--run", "absent", "--model", "x"], "leave those options out"),
        (["--images", "x", "--model", "y", "--points"], "need --run"),
        (["--run", "absent", "--top-k", "two"], "top_k: expected numbers"),
        (["--run", "absent", "--steps", "0"], "steps: expected at least 1"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], told: str, tmp_path: Path) -> None:
    code, output = run("--layer", "conv2_1", "--out", tmp_path, *arguments)
    assert code == 2 and told in output


def test_unknown_categories_and_layers_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    for option, value in (("--category", "cyan"), ("--layer", "conv9")):
        code, output = run(
            "--run", finished_run, "--layer", "conv2_1", option, value, "--out", tmp_path
        )
        assert code == 2 and f"got '{value}'" in output
