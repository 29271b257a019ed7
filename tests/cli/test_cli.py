"""The command line: what it writes, what it says, and how it ends."""

import csv
import json
import logging
import os
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from emergence_ext import __version__
from emergence_ext.cli import app, common
from emergence_ext.method import Interval
from emergence_ext.network.features import FeatureSet
from emergence_ext.run import analyse as run
from emergence_ext.run.emerging import Settings
from emergence_ext.run.finished import FinishedRun
from emergence_ext.studies import paper_tables
from emergence_ext.training import recipes
from emergence_ext.training.recipes import Recipe

FEW = ["--set", "importance_evals=4", "--set", "regional_evals=6"]
LIMITS = ["--size", "16", "--region-images", "12", *FEW]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emergence_ext.report.emergence.figures", lambda run: {})
    monkeypatch.setattr(run, "strength_entropy", partial(run.strength_entropy, folds=2))
    monkeypatch.setattr("emergence_ext.run.strength.TEMPERATURES", (1.0,))


def _call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(x) for x in arguments])


def _run(data: Path, out: Path, *arguments: str | Path, model: str = "three") -> Result:
    network = f"tests.tiny_networks:{model}"
    return _call("run", "--data", data, "--out", out, "--model", network, *LIMITS, *arguments)


def _assert_refused(result: Result, *words: str, status: int = 2) -> None:
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert result.stderr.strip(), (result.exception, result.output)
    last = result.stderr.strip().splitlines()[-1]
    for word in ("error: ", *words):
        assert word in last, last


@pytest.fixture
def weights(training: Path) -> Path:
    return training / "epoch_0012.safetensors"


def test_a_run_writes_a_report_and_names_it_last(
    image_folder: Path, training: Path, tmp_path: Path, quick: None
) -> None:
    checkpoints = training / "epoch_*.safetensors"
    out = tmp_path / "run"
    asked = ["--checkpoints", checkpoints, "--layers", "conv2_1", "--alphas", "1", "--tau", "0.5"]
    result = _run(image_folder, out, *asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Report: {(out / 'report.html').as_uri()}"
    assert (out / "report.html").is_file()
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["model"] == "tests.tiny_networks:three"
    assert config["settings"]["tau"] == 0.5 and config["settings"]["alphas"] == [1.0]
    assert config["layers"] == ["conv2_1"]
    assert [c["epoch"] for c in config["checkpoints"]] == [0, 2, 12]

    again = _run(image_folder, out, *asked)
    assert again.exit_code == 0, again.output
    _assert_refused(_run(image_folder, out, *asked, "--alpha", "3"), "holds another run", "alpha")


def test_the_backend_that_was_asked_for_matches_the_regions(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    out = tmp_path / "run"
    result = _run(image_folder, out, "--weights", weights, "--backend", "reference")
    assert result.exit_code == 0, result.output
    noted = json.loads((out / "config.json").read_text())["settings"]["backend"]
    assert noted == {"asked": "reference", "computed": "reference"}


def test_the_validation_images_of_a_divided_folder_are_analysed(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    data = tmp_path / "data"
    shutil.copytree(image_folder, data / "val")
    for category in ("red", "green", "blue"):
        (data / "train" / category).mkdir(parents=True)
    result = _run(data, tmp_path / "run", "--weights", weights, "--per-class", "8")
    assert result.exit_code == 0, result.output
    assert len(FeatureSet.load(tmp_path / "run" / "features" / "network")) == 24


def test_a_network_left_in_training_mode_gives_the_same_features(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    features = []
    for model in ("three", "left_in_training_mode"):
        out = tmp_path / model
        result = _run(image_folder, out, "--weights", weights, model=model)
        assert result.exit_code == 0, result.output
        features.append(FeatureSet.load(out / "features" / "network"))
    assert torch.equal(features[0].z, features[1].z)
    assert torch.equal(features[0].layers["conv2_1"], features[1].layers["conv2_1"])


def test_an_image_that_cannot_be_read_is_listed_in_the_report(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "red" / "broken & <b>.png").write_bytes(b"\x89PNG and no more")
    (data / "red" / "empty.jpg").touch()
    result = _run(data, tmp_path / "run", "--weights", weights)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert "broken &amp; &lt;b&gt;.png" in page and "the file is empty" in page
    assert "<b>.png" not in page
    assert len(FeatureSet.load(tmp_path / "run" / "features" / "network")) == 48


def test_a_layer_that_is_not_there_suggests_the_nearest(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    out = tmp_path / "run"
    result = _run(image_folder, out, "--weights", weights, "--layers", "conv2_1, conv1_l")
    _assert_refused(result, "no layer 'conv1_l'", "Nearest: 'conv1_1'", "emergence doctor")
    # The next attempt is not refused for the sake of the one that failed.
    assert _run(image_folder, out, "--weights", weights, "--layers", "conv1_1").exit_code == 0


def test_folders_that_do_not_match_the_outputs_need_a_class_map(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    result = _run(image_folder, tmp_path / "run", model="five_outputs")
    _assert_refused(result, "3 categories but 5 outputs", "which output each category is (--class")
    mapping = tmp_path / "map.json"
    mapping.write_text(json.dumps({"red": 4, "green": 0, "bleu": 2}))
    asked: list[str | Path] = ["--class-map", mapping]
    result = _run(image_folder, tmp_path / "run", *asked, model="five_outputs")
    _assert_refused(result, "no output for category 'blue'", "'bleu'")
    mapping.write_text(json.dumps({"red": 4, "green": 0, "blue": 2, "not there": 1}))
    state = load_file(weights)
    columns = [2, 0, 4]  # of blue, green and red
    for name in ("fc2.weight", "fc2.bias"):
        rows = torch.zeros(5, *state[name].shape[1:])
        rows[columns] = state[name]
        state[name] = rows
    save_file(state, tmp_path / "five.safetensors")
    asked += ["--weights", tmp_path / "five.safetensors"]
    result = _run(image_folder, tmp_path / "run", *asked, model="five_outputs")
    assert result.exit_code == 0, result.output
    z = FeatureSet.load(tmp_path / "run" / "features" / "network").z
    assert z.shape == (48, 3) and (z.argmax(1) == torch.arange(3).repeat_interleave(16)).all()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("not_finite", ["NaN or infinite values in the logits", "'red/00.png'"]),
        ("constant", ["the logits of the images are (nearly) all alike"]),
        ("in_a_dict", ["expected logits", "dict"]),
        ("maps", ["expected logits", "[1, 4, 16, 16]"]),
        ("nothing_like_it", ["no 'nothing_like_it'"]),
    ],
)
def test_networks_that_cannot_be_analysed_are_errors_that_name_the_cause(
    model: str, words: list[str], image_folder: Path, tmp_path: Path, quick: None
) -> None:
    _assert_refused(_run(image_folder, tmp_path / "run", model=model), *words)


def test_one_category_is_an_error_that_says_so(
    image_folder: Path, tmp_path: Path, quick: None
) -> None:
    shutil.copytree(image_folder / "red", tmp_path / "data" / "red")
    result = _run(tmp_path / "data", tmp_path / "run", model="one_output")
    _assert_refused(result, "one category")


def test_fewer_images_than_can_be_fitted_are_an_error_that_says_so(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    asked = ["--weights", weights, "--per-class"]
    result = _run(image_folder, tmp_path / "run", *asked, "2")
    _assert_refused(result, "leaves 4 to fit", "3 categories need at least 6")


def test_folders_without_images_are_errors_that_name_them(
    image_folder: Path, tmp_path: Path
) -> None:
    _assert_refused(_run(tmp_path / "nowhere", tmp_path / "run"), "no folder", "nowhere")
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "violet").mkdir()
    (data / "violet" / "bad.png").write_text("no image")
    _assert_refused(_run(data, tmp_path / "run"), "no readable image of 'violet'")


def test_a_checkpoint_of_another_network_is_refused(
    image_folder: Path, training: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    for asked in (["--weights", weights], ["--checkpoints", training / "epoch_*.safetensors"]):
        result = _run(image_folder, tmp_path / "run", *asked, model="wider")
        _assert_refused(result, "another network", "conv1_1.0.weight")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--device", "gpu9"], ["device", "gpu9"]),
        (["--precision", "half"], ["precision", "half"]),
        (["--preprocess", "imagent"], ["preprocess", "'imagenet'"]),
        (["--backend", "cuda"], ["backend must be one of", "'cuda'"]),
        (["--tau", "0.1"], ["tau must be in [1/C, 1)"]),
        (["--tau", "2"], ["tau must be between 0 and 1"]),
        (["--dim", "1"], ["dim must be at least 2"]),
        (["--dim", "40"], ["dim = 40 is more than the 6 channels of layer 'conv1_1'"]),
        (["--alpha", "-1"], ["alpha must be at least 0"]),
        (["--alphas", "1;2"], ["alphas", "1;2"]),
        (["--checkpoints", "nowhere/*.pt"], ["nothing matches", "nowhere/*.pt"]),
        (["--checkpoints", "x", "--weights", "y"], ["either --weights or --checkpoints"]),
        (["--weights", "nowhere.pt"], ["cannot read nowhere.pt"]),
        (["--class-map", "nowhere.json"], ["--class-map", "no file nowhere.json"]),
        (["--size", "0"], ["size"]),
    ],
)
def test_wrong_use_ends_with_2_and_names_the_argument(
    asked: list[str], words: list[str], image_folder: Path, tmp_path: Path, quick: None
) -> None:
    _assert_refused(_run(image_folder, tmp_path / "run", *asked), *words)


def test_a_result_that_was_damaged_ends_with_1(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    out = tmp_path / "run"
    assert _run(image_folder, out, "--weights", weights).exit_code == 0
    array = out / "fits" / "frame.safetensors"
    array.write_bytes(array.read_bytes()[:-8])
    result = _run(image_folder, out, "--weights", weights)
    _assert_refused(result, f"error: {array} is", status=1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder without rights")
def test_a_folder_that_cannot_be_written_ends_with_1(
    image_folder: Path, weights: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    result = _run(image_folder, tmp_path / "run", "--weights", weights)
    _assert_refused(result, "PermissionError", status=1)


def test_a_place_that_can_hold_no_results_is_refused_before_anything_is_read(
    image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("a file")
    there = sorted(image_folder.rglob("*"))
    asked = ("--weights", "no/such/weights.pt")  # which would be told next
    _assert_refused(_run(image_folder, tmp_path / "run", *asked), "--out: ", "is a file; name a")
    _assert_refused(_run(image_folder, image_folder, *asked), "--out: ", "folder of the images")
    train = ["train", "--data", image_folder, "--out", image_folder, "--model", "small_vgg28"]
    _assert_refused(_call(*train), "--out: ", "folder of the images")
    assert sorted(image_folder.rglob("*")) == there


def test_a_file_in_place_of_the_folder_of_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("a file")
    result = _run(tmp_path / "photo.jpg", tmp_path / "run")
    _assert_refused(result, "--data: ", "photo.jpg is a file, expected a folder")


def test_training_keeps_checkpoints_that_a_run_takes(
    image_folder: Path, tmp_path: Path, quick: None
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        shutil.copytree(image_folder, data / split)
    out = tmp_path / "training"
    asked = [
        "--model",
        "tests.tiny_networks:three",
        "--size",
        "16",
        "--epochs",
        "10",
        "--lr",
        "0.02",
    ]
    result = _call("train", "--data", data, "--out", out, *asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Written to: {out}"
    assert "left-out images" in result.stdout
    kept = sorted(path.name for path in out.glob("epoch_*.safetensors"))
    assert kept == [f"epoch_{epoch:04d}.safetensors" for epoch in (0, 1, 2, 4, 8, 10)]
    result = _run(data, tmp_path / "run", "--checkpoints", out / "epoch_00[01]0.safetensors")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--keep", "0,9"], ["--keep: ", "[0, 9]"]),
        (["--keep", "first"], ["keep", "'first'"]),
        (["--freeze", "nothing"], ["freeze"]),
        (["--epochs", "0"], ["epochs"]),
    ],
)
def test_wrong_use_of_train_is_named(
    asked: list[str], words: list[str], image_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        shutil.copytree(image_folder, data / split)
    network = ["--model", "tests.tiny_networks:three", "--size", "16", "--epochs", "1"]
    result = _call("train", "--data", data, "--out", tmp_path / "out", *network, *asked)
    _assert_refused(result, *words)


def test_what_a_network_freezes_by_itself_is_trained_where_that_is_asked_for(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, name = tmp_path / "data", "tests.tiny_networks:three"
    for split in ("train", "val"):
        shutil.copytree(image_folder, data / split)
    monkeypatch.setitem(recipes.RECIPES, name, Recipe(epochs=1, freeze="^conv1"))
    for out, asked, kept in (("own", [], {"conv1_1.0"}), ("all", ["--freeze", "none"], set())):
        asked += ["--model", name, "--size", "16", "--keep", "0,1", "--out", str(tmp_path / out)]
        result = _call("train", "--data", data, *asked)
        assert result.exit_code == 0, result.output
        states = [load_file(tmp_path / out / f"epoch_000{epoch}.safetensors") for epoch in (0, 1)]
        same = {key for key in states[0] if torch.equal(states[0][key], states[1][key])}
        assert {key.rpartition(".")[0] for key in same} >= kept and bool(same) == bool(kept)


def test_training_needs_train_and_val_of_the_same_categories(
    image_folder: Path, tmp_path: Path
) -> None:
    asked = ["--out", tmp_path / "out", "--model", "tests.tiny_networks:three", "--size", "16"]
    _assert_refused(_call("train", "--data", image_folder, *asked), "must hold train/ and val/")
    shipped = _call("train", "--data", "digits", "--split", "val", *asked)
    _assert_refused(shipped, "--split: digits has none to choose")
    data = tmp_path / "data"
    for split in ("train", "val"):
        shutil.copytree(image_folder, data / split)
    (data / "val" / "red").rename(data / "val" / "rot")
    _assert_refused(_call("train", "--data", data, *asked), "different categories")


def test_a_report_is_written_again(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None
) -> None:
    out = tmp_path / "run"
    assert _run(image_folder, out, "--weights", weights).exit_code == 0
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    result = _call("report", out)
    assert result.exit_code == 0
    assert result.stdout.strip() == f"Report: {(out / 'report.html').as_uri()}"
    assert (out / "report.html").read_bytes() == page
    _assert_refused(_call("report", tmp_path), "holds no finished run")


def test_a_report_is_opened_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    _assert_refused(_call("open", tmp_path), "holds no finished run", "emergence run")
    assert not opened
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>")
    result = _call("open", tmp_path)
    assert result.exit_code == 0 and opened == [page.resolve().as_uri()]
    assert result.stdout.strip() == opened[0]


def test_a_plan_takes_what_a_run_takes_and_writes_nothing(
    image_folder: Path,
    weights: Path,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "runs" / "it"
    network = ["--model", "tests.tiny_networks:three", "--weights", weights]
    asked = ["plan", "--data", image_folder, "--out", out, *network, *LIMITS, "--pairs", "4"]
    result = _call(*asked)
    assert result.exit_code == 0, result.output
    assert not out.parent.exists()
    for words in ("w and v", "in all", "features of all are kept", "pass", "are free on the disk"):
        assert words in result.stdout, words
    monkeypatch.setattr("emergence_ext.run.plan.free_space", lambda folder: 100)
    _assert_refused(_call(*asked), "OSError", "--out: this run writes", "--per-class", status=1)
    _assert_refused(_call(*asked, "--dim", "50"), "--dim")


def test_the_doctor_speaks_of_the_installation_and_of_a_network() -> None:
    brief = _call("doctor", "--brief")
    assert brief.exit_code == 0 and "cpu" in brief.stdout
    result = _call("doctor", "--model", "tests.tiny_networks:three", "--size", "16")
    assert result.exit_code == 0, result.output
    for word in ("conv2_1", "fc2", "eval mode", torch.__version__):
        assert word in result.stdout, word
    _assert_refused(_call("doctor", "--model", "smal_vgg28"), "'small_vgg28'")


def test_the_doctor_names_the_nearest_network_of_torchvision() -> None:
    pytest.importorskip("torchvision")
    result = _call("doctor", "--model", "torchvision:resnet43")
    _assert_refused(result, "no 'resnet43'", "'resnet34'")


@pytest.mark.parametrize("command", ["demo", "run", "plan", "train", "report", "doctor"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = _call(command, "--help")
    assert result.exit_code == 0
    assert f"Example: emergence {command}" in " ".join(result.output.replace("│", " ").split())


def test_the_version_and_unknown_commands() -> None:
    assert _call("--version").stdout.strip() == __version__
    assert _call("analyse").exit_code == 2
    assert _call("run").exit_code == 2  # without --data
    assert _call().exit_code in (0, 2) and "Usage" in _call().output


def test_quiet_logs_only_errors_and_verbose_shows_where_it_failed(
    image_folder: Path, weights: Path, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["run", "--data", image_folder, "--model", "tests.tiny_networks:three", *LIMITS]
    logger = logging.getLogger("emergence_ext")
    result = _call("-q", *asked, "--out", tmp_path / "run", "--weights", weights)
    assert result.exit_code == 0 and logger.level == logging.ERROR
    assert not caplog.records
    loud = _call("-v", *asked, "--out", tmp_path / "run", "--layers", "no_such")
    assert logger.level == logging.DEBUG
    assert loud.exit_code == 1 and isinstance(loud.exception, ValueError)


@pytest.mark.slow
def test_a_shortened_demo_shows_where_its_digits_are_in_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "scene_vgg", Recipe(epochs=2, batch_size=50, lr=2e-3))
    result = _call("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    page = tmp_path / "demo" / "report.html"
    assert result.stdout.splitlines()[-1] == f"Report: {page.as_uri()}"
    config = json.loads((tmp_path / "demo" / "config.json").read_text())
    assert [c["epoch"] for c in config["checkpoints"]] == [0, 1, 2]
    assert config["checkpoints"][-1]["accuracy"] > 0.3 > config["checkpoints"][0]["accuracy"]
    with (tmp_path / "demo" / "foreground" / "tables" / "foreground.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == config["layers"]
    assert float(rows[-1]["reliable, low"]) > float(rows[-1]["area"])
    assert all(f"  {row['layer']}: " in result.stdout for row in rows)
    assert "Do knowledge points lie on the object?" in page.read_text()
    with Image.open(tmp_path / "demo" / "figures" / "samples.png") as figure:
        assert min(figure.size) > 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tables", "--images", "20"], ["images", "only with --ablation"]),
        (["tables", "--temperatures", "1,nan"], ["temperatures", "'1,nan'"]),
        (["foreground", "--boxes", "none.csv"], ["boxes", "no file none.csv"]),
        (["foreground"], ["either --boxes FILE or --masks DIR"]),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = SimpleNamespace(emergence=None, folder=tmp_path, held=nullcontext)
    monkeypatch.setattr(FinishedRun, "open", lambda folder: opened)
    command, *options = arguments
    _assert_refused(_call(command, tmp_path, *options), *words)


def test_a_checkpoint_is_not_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emergence = SimpleNamespace(labels=["epoch 0", "epoch 3"], epochs=[0, 3])
    opened = SimpleNamespace(emergence=emergence, folder=tmp_path)
    monkeypatch.setattr(FinishedRun, "open", lambda folder: opened)
    refused = _call("compare", tmp_path, f"{tmp_path}@epoch3")
    _assert_refused(refused, "A and B are both 'epoch 3'", "nothing moved")


def test_an_ablation_takes_no_more_images_than_the_frame_was_fitted_to() -> None:
    emergence = SimpleNamespace(held_out=torch.arange(50) < 20)
    settings, kept = Settings(alpha=1.0), torch.arange(50)
    opened: Any = SimpleNamespace(emergence=emergence, settings=settings, kept_images=kept)
    choices = paper_tables._default(opened, None)
    assert (choices.images, choices.alpha) == (30, 1.0)
    assert paper_tables._default(opened, 12).images == 12
    for images in (7, 31):
        with pytest.raises(ValueError, match=f"images: expected 8 to 30, .* got {images}"):
            paper_tables._default(opened, images)


def test_an_interval_that_is_unknown_is_not_written() -> None:
    assert common.with_interval(Interval(0.5, 0.25, 0.75), ".0%") == "50% (25% to 75%)"
    nan = float("nan")
    assert common.with_interval(Interval(-0.5, nan, nan), "+.2f") == "-0.50"
    assert common.with_interval(Interval(nan, nan, nan), "+.2f") == "undefined"
    assert common.with_interval(None, "+.2f") == "undefined"


def test_options_of_network_and_images_are_the_same_for_run_and_look() -> None:
    shared = ("--weights", "--checkpoints", "--layers", "--size", "--preprocess", "--class-map")
    told = [
        {name: parameter.help for parameter in command.params for name in parameter.opts}
        for command in (typer.main.get_command(app).commands[name] for name in ("run", "look"))
    ]
    for name in ("--data", "--model", "--precision", *shared):
        assert told[0][name] == told[1][name]
