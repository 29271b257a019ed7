"""Which recipe suits a network: every difference once, and figures that are those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks import recipes
from emergence_ext.method import (
    KAPPA_TILDE,
    ExactKappa,
    Frame,
    RegionImportance,
    image_similarity,
    similarity_with,
    spearman,
)
from emergence_ext.run import Checkpoint, FinishedRun, Settings, emergence
from emergence_ext.settings import RECIPES
from emergence_ext.studies.shapley import shapley
from tests.planted import planted


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
        [
            str(finished_run),
            "--only",
            "default",
            "priors",
            "--out",
            str(out),
            "--grad-cam",
            "--seeds",
            "2",
        ]
    )
    found = json.loads(out.read_text())
    run = FinishedRun.open(finished_run)
    assert found["layer"] == run.emergence.layers[-1]
    assert [row["label"] for row in found["rows"]] == ["default", "point_priors = False"]
    assert "default | " in capsys.readouterr().out
    # w does not feel the priors; all figures of the first row by another way.
    default, without = found["rows"]
    assert default["shapley"] == without["shapley"]
    features = run.features(layers=run.emergence.layers[-1:])
    agreement, reliable = [], []
    for seed in range(2):
        settings = Settings(
            held_out=run.settings.held_out,
            region_images=run.settings.region_images,
            random_state=run.settings.random_state + seed,
        )
        e = emergence([Checkpoint("network", 0, lambda: features)], settings)
        count = e.points().subset(e.held_out).count()
        assert count.ratio is not None
        reliable.append(count.ratio.value)
        values = recipes._grad_cam(run, e.layers[-1], e.region_images)
        agreement.append(float(spearman(e.w[-1, 0], values).mean()))
    assert default["reliable"] == pytest.approx(sum(reliable) / 2)
    assert default["reliable_over_seeds"] == pytest.approx(max(reliable) - min(reliable))
    assert default["shapley"] == pytest.approx(sum(agreement) / 2)
    assert default["shapley_over_seeds"] == pytest.approx(max(agreement) - min(agreement))


@pytest.mark.parametrize("whose", ["conditioning", "scored"])
def test_what_is_left_out_is_scored_as_the_fit_scores(whose: Any) -> None:
    data = planted(24)
    half = torch.arange(24) % 2 == 0
    kappa_p = 6.0
    frame = Frame(torch.ones(4) / 4, torch.eye(4), ExactKappa(4), kappa_p)
    P = image_similarity(data.z[half], kappa_p)
    fit = RegionImportance(weights_of=whose).fit(data.F[half], P)
    found = recipes._divergence_from(data.F[half], data.F[~half], data.z, half, fit, frame)
    f, d = (normalize(data.F[x].double(), dim=-1) for x in (half, ~half))
    T = torch.einsum("irk,jsk->ijrs", fit.v_[:, None] * f, d).amax(3)
    T = KAPPA_TILDE * data.F.shape[-1] * (fit.w_[:, None] * T).sum(2)
    P = similarity_with(data.z[half], data.z[~half], kappa_p).double()
    if whose == "scored":
        T, P = T.t(), similarity_with(data.z[~half], data.z[half], kappa_p).double()
    expected = (P * (P.log() - T.log_softmax(1))).sum(1).mean()
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_grad_cam_is_that_of_the_study(finished_run: Path) -> None:
    run = FinishedRun.open(finished_run)
    study = shapley(run.subject(), run.emergence, samples=32)
    found = recipes._grad_cam(run, study.layers[0], run.emergence.region_images)
    torch.testing.assert_close(found, study.grad_cam[0])
