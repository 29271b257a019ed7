"""What is no argument of a training is named before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emergence_ext.data import ArraySamples
from emergence_ext.training import FeaturePlace, Recipe, distil, evaluate, train

IMAGES = ArraySamples(torch.rand(4, 3, 4, 4), [0, 1, 0, 1], ["cat", "dog"])
RECIPE = Recipe(epochs=1, batch_size=4)


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 2))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"module": IMAGES}, "module: expected a torch.nn.Module, got ArraySamples"),
        ({"train_set": None}, "train_set: expected Samples, got NoneType"),
        ({"val_set": [1]}, "val_set: expected Samples, got list"),
        ({"recipe": {"epochs": 1}}, "recipe: expected Recipe, got dict"),
        ({"out": None}, "out: expected a path, got NoneType"),
        ({"preprocess": "clip"}, "preprocess: expected a module, got str; network.preprocess"),
        ({"checkpoints": 1}, "checkpoints: expected Iterable, got int"),
        ({"device": "gpu"}, "device: expected cpu, cuda or cuda:1, got 'gpu'"),
        ({"loss": "mse"}, "loss: expected one such as CrossEntropy.*, got 'mse'"),
    ],
)
def test_arguments_of_a_training_are_named(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    given = {"module": _network(), "train_set": IMAGES, "val_set": IMAGES, "recipe": RECIPE}
    with pytest.raises((ValueError, TypeError), match=told):
        train(**{**given, "out": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"module": IMAGES, "samples": IMAGES}, "module: expected a torch.nn.Module"),
        ({"samples": [1]}, "samples: expected Samples, got list"),
        ({"preprocess": "clip"}, "preprocess: expected a module, got str"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"precision": "half"}, "precision must be one of float32, bfloat16, got 'half'"),
    ],
)
def test_arguments_of_an_evaluation_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        evaluate(**{"module": _network(), "samples": IMAGES, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": None}, "teacher: expected a torch.nn.Module, got NoneType"),
        ({"student": nn.Conv2d}, "student: Conv2d is a class"),
        ({"place": "0"}, "place: expected FeaturePlace, got str"),
        ({"train_set": None}, "train_set: expected Samples, got NoneType"),
        ({"recipe": {}}, "recipe: expected Recipe, got dict"),
        ({"preprocess": "clip"}, "preprocess: expected a module, got str"),
    ],
)
def test_arguments_of_a_distillation_are_named(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    given = {
        "teacher": _network(),
        "student": _network(),
        "place": FeaturePlace("conv", "0"),
        "train_set": IMAGES,
        "val_set": IMAGES,
        "recipe": RECIPE,
    }
    with pytest.raises((ValueError, TypeError), match=told):
        distil(**{**given, "out": tmp_path / "out", **changes})


def test_a_side_of_a_module_is_its_output_or_its_input() -> None:
    with pytest.raises(ValueError, match="side must be one of output, input, got 'middle'"):
        FeaturePlace("conv", "0", "middle")  # type: ignore[arg-type]
