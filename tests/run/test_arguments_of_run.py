"""What is no argument of a run, or of what one found, is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import emergence_ext as ee
from emergence_ext import run
from emergence_ext.run import Checkpoint, Settings
from tests.planted import feature_set

FEATURES = feature_set(1.0)
QUICK = Settings(importance_evals=1, regional_evals=1)
LAYERS = list(FEATURES.layers)
NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
IMAGES = ee.data.ArraySamples(torch.rand(24, 3, 8, 8), [0, 1] * 12, ["cat", "dog"])


@pytest.fixture(scope="module")
def found() -> run.Emergence:
    return ee.emergence([Checkpoint("trained", 3, lambda: FEATURES)], QUICK)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Checkpoint("a", 0, FEATURES), "features: expected a function .* got FeatureSet"),
        (lambda: Checkpoint("a", "0", lambda: FEATURES), "epoch: expected a whole number, got '0'"),
        (lambda: Checkpoint(0, 0, lambda: FEATURES), "label: expected str, got int"),
        (lambda: Checkpoint("a", 0, lambda: 3).source(), "features: expected Streamed, got int"),
        (lambda: ee.emergence([FEATURES]), "checkpoints: expected Checkpoint, got FeatureSet"),
        (lambda: ee.emergence(FEATURES), "checkpoints: expected Sequence, got FeatureSet"),
        (lambda: ee.emergence([], {"dim": 2}), "settings: expected Settings, got dict"),
        (lambda: run.forecast(None, "new"), "subject: expected Subject, got NoneType"),
        (lambda: run.verify(None), "run: expected a path, got NoneType"),
        (lambda: run.recompute("runs/demo"), "run: expected FinishedRun, got str"),
        (lambda: run.Subject(NETWORK, ["0"], IMAGES), "layers: expected Mapping, got list"),
        (lambda: run.Subject(NETWORK, {"0": "0"}, [1]), "dataset: expected Samples, got list"),
        (lambda: run.subject_of(NETWORK, IMAGES, boxes=3), "boxes: expected a path, got int"),
        (lambda: run.subject_of(NETWORK, IMAGES, split="val"), "split: it is of a folder"),
        (lambda: Settings(dim=None), r"dim must be a number \(int\), got None"),
        (lambda: Settings(include_self="no"), "include_self must be True or False, got 'no'"),
        (lambda: ee.Analysis.of(3), "finished: expected FinishedRun, got int"),
    ],
)
def test_what_is_no_argument_is_named(call: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        call()


@pytest.mark.parametrize("alphas", ["a", 0.5, ["a"], [-1.0], [float("nan")]])
def test_what_are_no_alphas_is_named(alphas: Any, tmp_path: Path) -> None:
    subject = run.subject_of(NETWORK, IMAGES, ["0"])
    for call in (run.run, run.forecast):
        with pytest.raises((ValueError, TypeError), match="alphas: expected"):
            call(subject, tmp_path / "run", QUICK, alphas=alphas)  # type: ignore[operator]


def test_a_folder_of_fits_may_be_text(found: run.Emergence, tmp_path: Path) -> None:
    again = ee.emergence(
        [Checkpoint("trained", 3, lambda: FEATURES)], QUICK, folder=str(tmp_path / "fits")
    )
    assert torch.equal(again.regions(), found.regions()) and (tmp_path / "fits").is_dir()


def test_a_name_in_place_of_a_number_is_told_its_place(found: run.Emergence) -> None:
    for call in (found.points, found.regions, found.reliable):
        assert call(0, len(LAYERS) - 1) is not None and call(-1, -1) is not None
        with pytest.raises(TypeError, match=rf"layer: .* '{LAYERS[-1]}'; .* is {len(LAYERS) - 1}"):
            call(-1, LAYERS[-1])  # type: ignore[operator]
        with pytest.raises(IndexError, match=f"layer: expected -{len(LAYERS)} to .* got 9"):
            call(0, 9)
    for of_state in (found.points, found.samples, found.logits, found.entropy, found.accuracy):
        with pytest.raises(TypeError, match=r"checkpoint: .* got 'trained'; 'trained' is 0"):
            of_state("trained")  # type: ignore[operator]
        with pytest.raises(IndexError, match="checkpoint: expected -1 to 0, got 1"):
            of_state(1)


def test_images_of_a_part_may_be_a_list(found: run.Emergence) -> None:
    some = found.region_images.tolist()
    assert found.part(some).names == [found.names[i] for i in some]  # type: ignore[arg-type]
