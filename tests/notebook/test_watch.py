"""A training that is watched, and what becomes of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import emergence_ext as ee
from tests import tiny_networks

IMAGES = [(torch.zeros(3, 16, 16), 0)]
QUICK = ee.run.Settings(importance_evals=2, regional_evals=2, held_out=0.3)


def _train(watch: ee.Watch, epochs: int, module: nn.Module | None = None) -> nn.Module:
    module = module or tiny_networks.three()
    watch(module, 0)
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
        watch(module, epoch)
    return module


def _files(watch: ee.Watch) -> list[str]:
    return sorted(path.stem for path in (watch.out / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("every", "kept"), [(None, [0, 1, 2, 4]), (2, [0, 2, 4, 6]), (5, [0, 5]), (1, [*range(8)])]
)
def test_epochs_are_kept_evenly_or_ever_farther_apart(
    every: int | None, kept: list[int], tmp_path: Path
) -> None:
    watch = ee.Watch(IMAGES, tmp_path / "run", every=every)
    _train(watch, 7)
    assert _files(watch) == [f"epoch_{epoch:04d}" for epoch in kept]
    assert repr(watch).endswith(f"epochs kept: {', '.join(map(str, kept))}")


def test_every_kept_state_and_the_last_is_analysed(
    image_folder: Path, training: Path, tmp_path: Path
) -> None:
    trained = "tests.tiny_networks:three", training / "epoch_0012.safetensors"
    watch = ee.Watch(image_folder, tmp_path / "run [1]", every=2)  # which is no pattern
    module = _train(watch, 3, ee.load_model(trained[0], weights=trained[1]).module)
    analysis = watch.analyze(size=16, preprocess="none", layers=["conv2_1"], settings=QUICK)
    assert analysis.emergence.epochs == [0, 2, 3]
    images = ee.ImageFolder(image_folder, size=16)
    z = ee.extract(module, images, {"conv2_1": analysis.config.settings["modules"]["conv2_1"]}).z
    assert torch.equal(analysis.emergence.logits(-1), z)
    assert not torch.equal(analysis.emergence.logits(0), z)


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    watch = ee.Watch(IMAGES, tmp_path)
    module = tiny_networks.three()
    watch(nn.DataParallel(module), 1)
    state = ee.network.models.read_weights(tmp_path / "checkpoints" / "epoch_0001.safetensors")
    assert state.keys() == module.state_dict().keys()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every: expected at least 1 epoch, got 0"):
        ee.Watch(IMAGES, every=0)
    watch = ee.Watch(IMAGES, tmp_path)
    with pytest.raises(RuntimeError, match="saw no network"):
        watch.analyze()
    with pytest.raises(ValueError, match=r"epoch: .* got -1"):
        watch(tiny_networks.three(), -1)
    _train(watch, 1)
    with pytest.raises(ValueError, match=r"epoch: .* got 1, after 1"):
        watch(tiny_networks.three(), 1)
    with pytest.raises(ValueError, match=r"out: .* checkpoints of another training"):
        ee.Watch(IMAGES, tmp_path)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"images": "nowhere"}, "images: no folder nowhere"),
        ({"images": None}, "images: expected a folder, or a data set"),
        ({"images": nn.Linear(2, 2)}, "images: expected a folder.*got Linear"),
        ({"every": "2"}, "every: expected a whole number of epochs, got '2'"),
        ({"out": __file__}, "out: .* is a file"),
        ({"out": 3}, "out: expected a path, got int"),
    ],
)
def test_what_analyze_would_refuse_is_refused_before_the_training(
    given: dict[str, Any], error: str
) -> None:
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=error):
        ee.Watch(**{"images": IMAGES} | given)


@pytest.mark.parametrize(
    ("module", "epoch", "error"),
    [
        (nn.Linear, 0, r"model: Linear is a class; give a network of it, as Linear\(\)"),
        (None, 0, "model: expected a torch.nn.Module, got NoneType"),
        (nn.Linear(2, 2, device="meta"), 0, "model: its weights are on the meta device"),
        (nn.Linear(2, 2), 0.5, "epoch: expected a whole number of epochs, got 0.5"),
        (nn.Linear(2, 2), nn.Linear(2, 2), "epoch: expected a whole number"),
    ],
)
def test_a_call_with_something_else_is_refused(
    module: Any, epoch: Any, error: str, tmp_path: Path
) -> None:
    watch = ee.Watch(IMAGES, tmp_path)
    with pytest.raises((ValueError, TypeError), match=error):
        watch(module, epoch)
    watch(nn.Linear(2, 2), 1.0)
    assert _files(watch) == ["epoch_0001"]
    with pytest.raises(ValueError, match="model: it has other weights than the network before"):
        watch(nn.Linear(2, 3), 2)
