"""Losses in parts: mean and gradients are those of the whole, and pairs are drawn evenly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emergence_ext.method import blocks
from emergence_ext.method.blocks import (
    block_size,
    deal,
    is_of_all,
    mean_over_blocks,
    mean_over_groups,
    parts_of,
)

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(23, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _scores(x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """One loss an image, of all of the inputs."""
    return ((x[rows] @ x.t()).sin() * y).sum(1)


def _with_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(3 * loss, inputs)]


@pytest.mark.parametrize("size", [1, 5, 23, 40])
def test_blocks_give_the_mean_and_its_gradients(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", size)
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    whole = _with_gradients(_scores(x, y, slice(None)).mean(), x, y)

    def loss(block: slice, x: Tensor, y: Tensor) -> Tensor:
        return _scores(x, y, block).mean()

    for a, b in zip(_with_gradients(mean_over_blocks(loss, 23, x, y), x, y), whole, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(mean_over_blocks(loss, 23, x, y), whole[0])
    (only,) = torch.autograd.grad(mean_over_blocks(loss, 23, x.detach(), y), y)
    torch.testing.assert_close(3 * only, whole[2])


def test_groups_give_the_mean_and_its_gradients() -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    groups = deal(23, 4, torch.Generator().manual_seed(0))
    whole = sum(_scores(x[g], y[g], slice(None)).sum() for g in groups) / 23

    def loss(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
        assert len(images) == len(x) == len(y)
        return _scores(x, y, slice(None)).mean()

    found = _with_gradients(mean_over_groups(loss, groups, x, y), x, y)
    for a, b in zip(found, _with_gradients(whole, x, y), strict=True):
        torch.testing.assert_close(a, b)


def test_every_image_is_dealt_once_and_meets_as_many_others() -> None:
    generator = torch.Generator().manual_seed(0)
    met = torch.zeros(30, 30)
    for _ in range(2000):
        groups = deal(30, 9, generator)
        assert [len(group) for group in groups] == [10, 10, 10]
        assert torch.equal(torch.cat(groups).sort().values, torch.arange(30))
        for group in groups:
            met[group[:, None], group] += 1
    others = met[~torch.eye(30, dtype=torch.bool)] / 2000
    assert abs(others.mean() - 9 / 29) < 1e-6 and (others - 9 / 29).abs().max() < 0.05


def test_few_images_are_scored_against_all() -> None:
    assert [is_of_all(*x) for x in ((None, 9), (4, 9), (4, 10), (100, 50))] == [
        True, True, False, True,
    ]  # fmt: skip
    assert len(deal(9, 4, torch.Generator())) == 1


@pytest.mark.parametrize(("count", "size", "parts"), [(16, 16, 1), (300, 38, 8), (9000, 512, 18)])
def test_few_images_are_parts_too_which_processes_can_share(
    count: int, size: int, parts: int
) -> None:
    assert block_size(count) == size and parts_of(None, count) == parts
