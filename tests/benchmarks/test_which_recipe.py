"""Which recipe suits a network: every difference once, and figures that are those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import recipes
from emergence_ext.method import spearman
from emergence_ext.run import Checkpoint, FinishedRun, Settings, emergence
from emergence_ext.settings import RECIPES
from emergence_ext.studies.shapley import shapley


def test_every_difference_has_a_row_that_can_be_set() -> None:
    rows = dict(recipes.choices(64))
    assert len(rows) == len([*recipes.choices(64)])  # no two of one name
    for name, changed in rows.items():
        settings = Settings(**changed)
        assert (settings == Settings()) == (name == "default")
    alone = {name for changed in rows.values() if "recipe" not in changed for name in changed}
    rates = {"sample_rate", "regional_rate"}  # of gradient descent, which has rows
    differing = {
        name
        for recipe in RECIPES.values()
        for name, value in recipe.items()
        if value != getattr(Settings(), name)
    }
    assert differing <= alone | rates


def test_the_figures_are_those_of_an_analysis(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recipes.json"
    recipes.main(
        [str(finished_run), "--only", "default", "priors", "--out", str(out), "--grad-cam"]
    )
    found = json.loads(out.read_text())
    run = FinishedRun.open(finished_run)
    assert found["layer"] == run.emergence.layers[-1]
    assert [row["label"] for row in found["rows"]] == ["default", "point_priors = False"]
    assert "default | " in capsys.readouterr().out
    # w does not feel the priors; all figures of the first row by another way.
    default, without = found["rows"]
    assert default["shapley"] == without["shapley"]
    settings = Settings(
        held_out=run.settings.held_out,
        region_images=run.settings.region_images,
        random_state=run.settings.random_state,
    )
    features = run.features(layers=run.emergence.layers[-1:])
    e = emergence([Checkpoint("network", 0, lambda: features)], settings)
    count = e.points().subset(e.held_out).count()
    assert count.ratio is not None and default["reliable"] == pytest.approx(count.ratio.value)
    values = recipes._grad_cam(run, e.layers[-1])
    r = float(spearman(e.w[-1, 0], values).mean())
    assert default["shapley"] == pytest.approx(r)


def test_grad_cam_is_that_of_the_study(finished_run: Path) -> None:
    run = FinishedRun.open(finished_run)
    study = shapley(run.subject(), run.emergence, samples=32)
    torch.testing.assert_close(recipes._grad_cam(run, study.layers[0]), study.grad_cam[0])
