"""Images that are read while the network runs: the same batches, also where memory runs out."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emergence_ext.data import ArraySamples, ImageFolder, as_samples
from emergence_ext.network import extract, in_batches, read_ahead
from tests import tiny_networks


class Starved(ArraySamples):
    """Has no memory for an image at its first reading."""

    left = 1

    def read(self, indices: Iterable[int]) -> Generator[Tensor, None, None]:
        for index in indices:
            if index == 5 and self.left:
                self.left -= 1
                raise MemoryError
            yield self[index][0]


@pytest.mark.parametrize("kind", [ArraySamples, Starved])
@pytest.mark.parametrize("most", [7, 3, 2])
def test_batches_are_the_same_where_memory_runs_out(kind: type[ArraySamples], most: int) -> None:
    images = torch.rand(10, 3, 2, 2)
    samples = kind(images, [0] * 10, ["a"])

    def run(batch: slice) -> Tensor:
        stack = read(batch)
        if len(stack) > most:
            raise MemoryError
        return stack

    with read_ahead(samples) as read:
        batches = list(in_batches(run, 10, 7, description="test"))
    assert torch.equal(torch.cat([stack for _, stack in batches]), images)
    assert all(torch.equal(stack, images[batch]) for batch, stack in batches)


def test_images_of_another_size_are_named() -> None:
    sizes = [4, 4, 5]
    samples = as_samples([(torch.rand(3, side, side), 0) for side in sizes], names=["a", "b", "c"])
    with (
        pytest.raises(ValueError, match=r"image 'c' has shape \[3, 5, 5\]"),
        read_ahead(samples) as read,
    ):
        list(in_batches(read, 3, 3, description="test"))


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_networks.three()


def parts(features: Any) -> list[Any]:
    return [*features.layers.values(), features.f, features.z, features.y]


def test_features_do_not_depend_on_how_images_are_read(
    image_folder: Path, network: nn.Module
) -> None:
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    kept = ImageFolder(image_folder, size=16)
    expected = extract(network, kept, layers, batch_size=7)
    items = [(image, label) for image, label in (kept[n] for n in range(len(kept)))]
    for other in (
        ImageFolder(image_folder, size=16, max_memory=0),
        as_samples(items, workers=2, categories=kept.categories, names=kept.names),
        as_samples(iter(items), categories=kept.categories, names=kept.names),
    ):
        found = extract(network, other, layers, batch_size=7)
        assert found.names == expected.names and found.categories == expected.categories
        for x, y in zip(parts(found), parts(expected), strict=True):
            assert torch.equal(x, y)
