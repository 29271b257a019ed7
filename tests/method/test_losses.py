"""The choices of the loss: fixed matches, one image at a time, strengths without a gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.losses import matches_of, similarity_loss
from emergence_ext.method.mixture import cross_entropy, divergence
from emergence_ext.method.similarity import image_similarity
from emergence_ext.method.vmf import ExactKappa, Kappa, MonteCarloKappa
from emergence_ext.settings import WeightsOf

N, R, DIM = 7, 4, 3
SIDES: tuple[WeightsOf, ...] = ("scored", "conditioning")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _frame(kappa: Kappa) -> Frame:
    return Frame(torch.full((5,), 0.2).double(), unit_rows(_random(5, kappa.dim, seed=1)), kappa)


FRAME = _frame(ExactKappa(DIM))
W = torch.softmax(_random(N, R, seed=2), dim=1)
Z = _random(N, 5, seed=3)


@pytest.mark.parametrize(
    "kappa", [ExactKappa(3), ExactKappa(3, base=10.0), ExactKappa(5), MonteCarloKappa(3)]
)
def test_the_gradient_of_the_divergence_is_that_of_autograd(kappa: Kappa) -> None:
    scale = torch.logspace(-3, 1.5, 30, dtype=torch.float64)[:, None]
    g = scale * _random(30, kappa.dim)
    g[0] = 0  # without a direction there is no gradient
    P = torch.softmax(_random(30, 5), dim=1)
    frame = _frame(kappa)

    def by_autograd(g: Tensor) -> Tensor:
        return (torch.xlogy(P, P) - P * frame.log_posterior(g)).sum(1).mean()

    losses, gradients = [], []
    for loss in (by_autograd, lambda g: divergence(g, P, frame)):
        x = g.clone().requires_grad_()
        value = loss(x)
        losses.append(value.detach())
        gradients += torch.autograd.grad(3 * value, x)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0][1:].abs().sum(1).min() > 0
    own = torch.xlogy(P, P).sum(1).mean()
    torch.testing.assert_close(own + cross_entropy(g, P, frame), losses[0])


@pytest.mark.parametrize("weights_of", SIDES)
def test_a_match_is_the_best_region_by_raw_features_and_channels(weights_of: WeightsOf) -> None:
    F, v = _random(N, R, 6).relu(), torch.softmax(3 * _random(N, 6, seed=4), dim=1)
    Fn = unit_rows(F)
    found = matches_of(F, v, weights_of)
    for i, j in itertools.product(range(N), range(N)):
        mine, other = (i, j) if weights_of == "conditioning" else (j, i)
        scores = (v[mine] * Fn[mine]) @ Fn[other].t()
        assert found[i, j].tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("weights_of", SIDES)
def test_matches_that_are_the_best_make_the_same_loss(
    weights_of: WeightsOf, include_self: bool
) -> None:
    h = _random(N, R, DIM)
    P = image_similarity(Z, 5.0, include_self=include_self)
    best = matches_of(h, torch.ones(N, DIM).double(), weights_of)
    losses, gradients = [], []
    for matches in (None, best):
        x = h.clone().requires_grad_()
        loss = similarity_loss(
            x, W, P, FRAME, include_self=include_self, weights_of=weights_of, matches=matches
        )
        losses.append(loss.detach())
        gradients += torch.autograd.grad(loss, x)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("with_matches", [True, False])
@pytest.mark.parametrize("weights_of", SIDES)
def test_the_loss_is_the_mean_of_each_image_conditioning_alone(
    weights_of: WeightsOf, with_matches: bool
) -> None:
    h, P = _random(N, R, DIM), image_similarity(Z, 5.0, include_self=False)
    v = torch.softmax(_random(N, DIM, seed=4), dim=1)
    matches = matches_of(h, v, weights_of) if with_matches else None

    def loss(groups: list[Tensor] | None, of_first: bool) -> Tensor:
        return similarity_loss(
            h, W, P, FRAME, include_self=False, weights_of=weights_of, matches=matches,
            groups=groups, of_first=of_first,
        )  # fmt: skip

    alone = [loss([torch.arange(N).roll(-i)], True) for i in range(N)]
    torch.testing.assert_close(torch.stack(alone).mean(), loss(None, False))


def test_strengths_without_a_gradient_are_numbers() -> None:
    h, P = _random(N, R, DIM), image_similarity(Z, 5.0)
    whole = similarity_loss(h, W, P, FRAME, weights_of="conditioning")
    x = h.clone().requires_grad_()
    loss = similarity_loss(x, W, P, FRAME, weights_of="conditioning", strength_gradient=False)
    torch.testing.assert_close(loss, whole)
    (gradient,) = torch.autograd.grad(loss, x)
    # A step to the side of a region, where its strength stays, changes the loss as it says.
    strength, o = polar(h)
    side = unit_rows(_random(N, R, DIM, seed=9) - 0)
    side = side - (side * o).sum(-1, keepdim=True) * o
    step = 1e-6
    ahead = [
        similarity_loss(
            strength[..., None] * unit_rows(h + sign * step * side),
            W, P, FRAME, weights_of="conditioning",
        )
        for sign in (1, -1)
    ]  # fmt: skip
    torch.testing.assert_close(
        (ahead[0] - ahead[1]) / (2 * step), (gradient * side).sum(), rtol=1e-4, atol=1e-8
    )


def test_regions_without_strength_make_no_loss_that_is_no_number() -> None:
    h = _random(N, R, DIM)
    h[2] = 0
    x, P = h.requires_grad_(), image_similarity(Z, 5.0)
    for weights_of, gradient in itertools.product(SIDES, (True, False)):
        loss = similarity_loss(x, W, P, FRAME, weights_of=weights_of, strength_gradient=gradient)
        (slope,) = torch.autograd.grad(loss, x)
        assert loss.isfinite() and slope.isfinite().all()
