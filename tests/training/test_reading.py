"""Training does not depend on whether its images are kept, or read ahead of each step."""

from __future__ import annotations

from pathlib import Path

import torch

from emergence_ext.data import ImageFolder
from emergence_ext.training import Recipe, train
from tests import tiny_networks


def test_what_is_not_kept_trains_the_same_network(image_folder: Path, tmp_path: Path) -> None:
    logs, states = [], []
    for memory in (1 << 30, 0):
        images = ImageFolder(image_folder, size=16, max_memory=memory)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = tiny_networks.three()
        recipe = Recipe(epochs=2, batch_size=7, augment=True)
        log = train(network, images, images, recipe, out=tmp_path / str(memory))
        logs.append((log.loss[1:], log.val_accuracy))
        states.append(network.state_dict())
    assert logs[0] == logs[1]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
