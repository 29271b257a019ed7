"""Projected gradient descent: its steps, its bounds, and networks through which it cannot go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.network.preprocessing import preprocess
from emergence_ext.studies.pgd import pgd, require_differentiable


def _network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 4)
        )


def _images(count: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_the_end_point_is_that_of_captum() -> None:
    robust = pytest.importorskip("captum.robust")
    model, images, labels = _network(), _images(), torch.tensor([0, 1, 2, 3, 0])
    normalise = preprocess("imagenet")

    def network(x: Tensor) -> Tensor:
        return model(normalise(x))

    theirs = robust.PGD(network, nn.CrossEntropyLoss(reduction="none"), 0.0, 1.0)
    theirs.fgsm.zero_thresh = 0.0  # else it leaves pixels of small gradient where they are
    for eps, step, steps in ((1 / 255, 0.1 / 255, 20), (0.1, 0.02, 7)):
        expected = theirs.perturb(
            images.clone().requires_grad_(), eps, step, steps, labels
        ).detach()
        *_, (end, z) = pgd(network, images, labels, eps=eps, step=step, steps=steps)
        torch.testing.assert_close(end, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(z, network(expected).detach(), rtol=0, atol=1e-4)


def test_of_a_linear_network_every_step_is_known() -> None:
    away = torch.tensor([1.0, -1.0, 0.0, 1.0])

    def network(x: Tensor) -> Tensor:
        first = x.flatten(1) @ away
        return torch.stack([first, torch.zeros_like(first)], dim=1)

    clean = torch.tensor([0.5, 0.5, 0.5, 0.02]).view(1, 1, 2, 2)
    seen = list(pgd(network, clean, torch.tensor([0]), eps=0.1, step=0.04, steps=3))
    assert len(seen) == 4 and torch.equal(seen[0][0], clean)
    for (x, z), moved in zip(seen, (0.0, 0.04, 0.08, 0.1), strict=True):
        expected = (clean.flatten() - moved * away).clamp(0, 1)  # the last pixel stops at 0
        torch.testing.assert_close(x.flatten(), expected)
        torch.testing.assert_close(z, network(x))


@pytest.mark.parametrize("sure", [25.0, 60.0, 200.0])  # p(y) is 1 in float32, float64, and ever
def test_a_network_that_is_sure_is_still_led_uphill(sure: float) -> None:
    """Where p(y) rounds to 1, the gradient of the cross-entropy points elsewhere."""
    away = torch.tensor([[3.0, 1.0], [1.0, 2.0], [0.5, -4.0]])
    base = torch.tensor([sure, 0.0, -1.0])
    clean = torch.full((1, 1, 1, 2), 0.5)
    *_, (end, _) = pgd(
        lambda x: base + x.flatten(1) @ away.t(), clean, torch.tensor([0]), eps=0.1, step=0.1,
        steps=1,
    )  # fmt: skip
    torch.testing.assert_close(end.flatten(), torch.tensor([0.4, 0.6]))


def test_steps_stay_within_bounds_and_leave_the_network_alone() -> None:
    model, images, labels = _network(), _images(), torch.zeros(5, dtype=torch.int64)
    with torch.no_grad():
        seen = list(pgd(model, images, labels, eps=0.05, step=0.02, steps=6))
    losses = [float(functional.cross_entropy(z, labels)) for _, z in seen]
    assert losses[-1] > losses[0]
    for x, z in seen:
        assert not x.requires_grad and not z.requires_grad
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        assert float((x - images).abs().max()) <= 0.05 + 1e-6
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda x: x.detach().flatten(1)[:, :2], "no gradient with respect to the images"),
        (lambda x: x.flatten(1)[:, :2] / 0, "NaN or infinite logits at step 0"),
        (lambda x: (x - x).flatten(1)[:, :2].sqrt(), "NaN or infinite gradients at step 0"),
    ],
)
def test_a_network_without_a_way_up_is_refused(
    network: Callable[[Tensor], Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        list(pgd(network, _images(2), torch.tensor([0, 1])))


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x.detach(),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: (255 * x).round() / 255,
        lambda x: (255 * x).byte(),
    ],
)
def test_a_preprocessing_that_cuts_the_gradient_is_refused(cut: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"^preprocess: no gradient.*run again\.$"):
        require_differentiable(cut, _images(1))


@pytest.mark.parametrize(
    "prepare",
    [nn.Identity(), preprocess("imagenet"), lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True)],
)
def test_a_preprocessing_of_torch_is_accepted(prepare: Callable[[Tensor], Tensor]) -> None:
    require_differentiable(prepare, _images(1))
