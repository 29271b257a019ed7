"""Which recipe suits a network: every difference once, and figures that are those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import recipes
from emergence_ext.method import pearson, spearman
from emergence_ext.run import FinishedRun, Settings
from emergence_ext.settings import RECIPES


def test_every_difference_has_a_row_that_can_be_set() -> None:
    rows = dict(recipes.choices(64))
    assert len(rows) == len([*recipes.choices(64)])  # no two of one name
    for name, changed in rows.items():
        settings = Settings(**changed)
        assert (settings == Settings()) == (name == "default")
    alone = {name for changed in rows.values() if "recipe" not in changed for name in changed}
    rates = {
        "sample_rate",
        "regional_rate",
        "strength_gradient",
    }  # of use with all of gradient descent
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
    for row in found["rows"]:
        assert -1 <= row["shapley"] <= 1 and -1 <= row["stable"] <= 1
        assert 0 <= row["reliable"] <= 1 and row["points"] > 0
    default, without = found["rows"]
    assert default["shapley"] == without["shapley"]  # w does not feel the priors


def test_grad_cam_is_that_of_the_images_of_w(finished_run: Path) -> None:
    run = FinishedRun.open(finished_run)
    values = recipes._grad_cam(run, run.emergence.layers[-1])
    assert values.shape == run.emergence.w.shape[2:]
    assert float(spearman(values, values).mean()) == pytest.approx(1)
    assert pearson(values, run.emergence.w[-1, -1]).isfinite().all()
