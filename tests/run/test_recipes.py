"""Recipes: every choice reaches the fits that it is about, and the results say what they are of."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.method import (
    ExactKappa,
    Frame,
    RegionImportance,
    entropy,
    image_similarity,
    sample,
)
from emergence_ext.network.features import FeatureSet
from emergence_ext.run.emerging import Checkpoint, Emergence, emergence
from emergence_ext.run.estimators import (
    compared,
    image_similarities,
    origins_of_choices,
    region_importance,
    regional_projection,
    sample_projection,
    settled_kappa_p,
)
from emergence_ext.settings import Settings, with_later
from tests.planted import feature_set

QUICK: dict[str, Any] = {"region_images": 16, "importance_evals": 3, "regional_evals": 2}
DATA = feature_set(1.0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gradient descent on samples take 100 steps, where it takes 2,000."""
    monkeypatch.setattr(sample, "EVALS_PER_ROUND", 1)


def _run(folder: Path | None = None, **given: Any) -> Emergence:
    settings = Settings(**{**QUICK, **given})
    states = [Checkpoint(f"{t}", t, lambda t=t: feature_set(0.5 + t / 2)) for t in (0, 1)]  # type: ignore[misc]
    return emergence(states, settings, folder=folder)


def test_the_paper_has_its_loss_as_it_is_printed() -> None:
    paper = Settings(recipe="paper")
    assert region_importance(paper).kappa_tilde == 1000
    samples = sample_projection(paper)
    assert (samples.responsibilities, samples.strength_prior) == ("posterior", 0.0)
    regional = regional_projection(paper, _run().frame)
    assert (regional.strength_prior, regional.normaliser) == (0.0, True)
    found = _run(recipe="paper", temperature=2.0)
    assert found.h is not None and found.h.isfinite().all()


def test_the_authors_settings_reach_every_fit(tmp_path: Path) -> None:
    found = _run(tmp_path, recipe="authors", sample_rate=2.0)
    assert found.frame.kappa_p == 5.0 and found.frame.kappa == ExactKappa(3, base=1000.0)
    assert torch.equal(found.frame.priors, torch.full((4,), 0.25))
    assert found.h is not None and found.h.isfinite().all()
    strength = found.h[:, :, found.region_images].norm(dim=-1)
    torch.testing.assert_close(strength.mean((2, 3)), torch.ones(2, 2), rtol=1e-4, atol=1e-4)
    importance = RegionImportance.load(tmp_path / "1" / "conv2.importance")
    assert (importance.solver, importance.weights_of) == ("sgd", "conditioning")
    assert (importance.pairs, importance.kappa_tilde) == (100, 1000.0)
    assert len(importance.stats_.losses) == QUICK["importance_evals"]
    regional = found.fits["regional/conv2/1"]
    assert len(regional.losses) == QUICK["regional_evals"] * QUICK["region_images"]
    assert "gradient descent at rate 0.01" in regional.stopped
    assert len(found.fits["samples/1"].losses) == 100


def test_a_rate_that_may_be_too_small_is_named_where_directions_collapse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def onto_one(g: Tensor, frame: Frame, responsibilities: Tensor | None = None) -> Frame:
        return replace(frame, directions=torch.tensor([[0.6, 0.8, 0.0]]).expand(4, 3))

    monkeypatch.setattr(sample, "em_step", onto_one)
    with pytest.raises(ValueError, match=r"sample_rate = 1e-09 may go too short a way"):
        sample_projection(Settings(recipe="authors", sample_rate=1e-9)).fit(DATA.f, DATA.z)


def test_similarity_is_of_what_the_settings_say() -> None:
    z = DATA.z
    tempered = Settings(similarity_of="probabilities", temperature=4.0, kappa_p=5.0)
    P = image_similarities(tempered, z, settled_kappa_p(tempered, z))
    expected = image_similarity(torch.softmax(z / 4, dim=1), 5.0)
    assert isinstance(P, torch.Tensor)
    torch.testing.assert_close(P, expected)
    assert torch.equal(compared(Settings(temperature=4.0), z), z)


def test_every_choice_of_a_fit_is_among_its_origins_and_defaults_are_not() -> None:
    before = Settings(**with_later({}))
    assert origins_of_choices(before) == {}
    changed = replace(before, weights_of="conditioning", importance_weights_of="conditioning")
    assert origins_of_choices(changed) == {"weights_of": "conditioning"}
    assert origins_of_choices(replace(before, pairs=7)) == {"pairs": "7, drawn by 0"}
    assert origins_of_choices(Settings()).keys() == {
        "importance_weights_of", "importance_solver", "importance_rate"
    }  # fmt: skip
    authors = origins_of_choices(Settings(recipe="authors"))
    assert {"kappa_p", "matches", "region_base", "solver", "point_priors"} < authors.keys()


def test_fits_of_another_recipe_are_refused_in_a_folder(tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(ValueError, match=r"fits with another .*kappa_tilde"):
        _run(tmp_path, recipe="paper")


def test_images_without_features_are_named_and_make_no_nan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def features() -> FeatureSet:
        made = feature_set(1.0)
        made.layers["conv1"][:5] = 0
        return made

    for given in ({}, {"recipe": "authors", "sample_rate": 2.0}):
        caplog.clear()
        settings = Settings(**{**QUICK, "region_images": 36, **given})
        with caplog.at_level(logging.WARNING):
            found = emergence([Checkpoint("last", 0, features)], settings)
        blank = [i for i in range(5) if i in found.region_images]
        assert (
            f"all features are zero in {len(blank)} of 36 images (image {blank[0]}" in caplog.text
        )
        assert "layer 'conv1' of checkpoint 'last'" in caplog.text
        for x in (found.h, found.w, found.g):
            assert x is not None and x.isfinite().all()


def test_temperatures_at_which_outputs_tell_nothing_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match=r"temperature = 1e\+09 makes P\(y.x\) the same for every"):
        _run(temperature=1e9)
    sure = replace(DATA, z=100 * DATA.z)
    cold = Settings(**QUICK, temperature=1e-3)
    assert float(entropy(sure.z, 1e-3).max()) < 1e-4
    found = emergence([Checkpoint("last", 0, lambda: sure)], cold)
    assert found.h is not None and found.h.isfinite().all()
    assert "as good as one-hot for every image" in caplog.text
    assert not math.isnan(found.frame.solved_kappa_p)
