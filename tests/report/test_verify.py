"""`emergence verify` reads a run and its report whole and says what does not belong together."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emergence_ext import report
from emergence_ext.cli import app
from emergence_ext.data import ArraySamples
from emergence_ext.report import files as report_files
from emergence_ext.run import FinishedRun
from emergence_ext.store import StoreError, made_from
from emergence_ext.studies.foreground import Objects
from emergence_ext.training import Recipe, TrainingLog, train
from tests.old_runs import set_config


@pytest.fixture(scope="module")
def reported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a report, without figures, which take long and are compared as any file."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("reported") / "run")
    run = FinishedRun.open(folder)
    held = [run.emergence.names[n] for n in run.emergence.held_out.nonzero().flatten().tolist()]
    inside = run.emergence.h[-1, -1].norm(dim=-1)[: len(held)] > 0
    run.keep(Objects(held, inside), "foreground")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_files, "save_figure", lambda figure, path: None)
        patch.setattr("emergence_ext.report.emergence.figures", lambda run: {})
        report.write(run)
    return folder


@pytest.fixture
def mine(reported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reported, tmp_path / "run")


def _verify(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["-q", "verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_run_that_is_as_it_was_written_passes_with_its_tables_computed_again(mine: Path) -> None:
    code, output = _verify(mine, "--recompute")
    assert code == 0, output
    for kind in (
        "configuration: 1",
        "checkpoints: 3",
        "sets of images: 1",
        "reports: 1",
        "again: 1",
    ):
        assert kind in output
    assert _verify(mine.parent / "none")[0] == 2
    assert _verify(mine, "--report", mine.parent / "none.html")[0] == 2


def test_what_was_changed_is_told_a_line_each_with_exit_1(mine: Path) -> None:
    table, page = mine / "tables" / "knowledge.csv", mine / "report.html"
    rows = list(csv.reader(table.open(newline="")))
    rows[1][-1] = "0.123"
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    code, output = _verify(mine)
    assert (
        code == 1
        and "wrong: " in output
        and "tables/knowledge.csv of the page is another" in output
    )
    good = page.read_bytes()
    for place in (len(good) // 2, len(good) - 30, good.index(b'id="receipts"') + 40):
        page.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert _verify(mine)[0] == 1, place
    page.unlink()
    code, output = _verify(mine)
    assert code == 0 and "no report to compare" in output
    copy = mine.parent / "copy.html"
    copy.write_bytes(good)
    assert _verify(mine, "--report", copy)[0] == 1
    code, output = _verify(mine, "--recompute")
    assert code == 1 and "knowledge.csv is another table" in output


def test_a_study_of_other_results_is_left_out_and_named(
    mine: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FinishedRun.open(mine)
    objects = Objects.load(run.inside.result("foreground"))
    page = run.inside.report.read_text()
    assert 'id="foreground"' in page
    objects.save(run.inside.result("foreground"), {"emergence": "of another run"})
    monkeypatch.setattr("emergence_ext.report.emergence.figures", lambda run: {})
    report.write(mine)
    assert "foreground is left out: it was made from other results" in caplog.text
    page = run.inside.report.read_text()
    assert 'id="foreground"' not in page and "foreground is left out" in page
    with pytest.raises(StoreError, match="was made from other results"):
        report.update(run, "foreground")
    code, output = _verify(mine)
    assert code == 1 and "foreground was made from other results than" in output


def test_a_log_of_another_training_is_told(mine: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    samples = ArraySamples(torch.rand(4, 3, 4, 4), [0, 1, 0, 1], ["a", "b"])
    folder = mine / "distill" / "students" / "conv"
    train(module, samples, samples, Recipe(epochs=1, batch_size=4), out=folder)
    code, output = _verify(mine)
    assert code == 0 and "trainings: 1" in output
    log = TrainingLog.load(folder / "log")
    log.save(folder / "log", {**(made_from(folder / "log") or {}), "seed": "another"})
    code, output = _verify(mine)
    assert code == 1 and "is of another training than" in output


def test_files_that_are_not_there_are_noted_and_other_ones_are_wrong(mine: Path) -> None:
    subject = FinishedRun.open(mine).config.subject or {}
    training = shutil.copytree(Path(subject["checkpoints"]).parent, mine / "training")
    set_config(mine, subject=subject | {"checkpoints": "training/epoch_*.safetensors"})
    assert _verify(mine)[0] == 0
    weights = training / "epoch_0002.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, output = _verify(mine)
    assert code == 1 and "epoch_0002.safetensors is not the file that the run looked at" in output
    weights.unlink()
    code, output = _verify(mine)
    assert code == 0 and "note: not there: weights of epoch 2" in output
    shutil.move(mine, mine.parent / "moved")
    assert FinishedRun.open(mine.parent / "moved").subject().checkpoints[-1].epoch == 12
