"""The mixture is a posterior for every feature, and the surer the longer the feature is."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.vmf import ExactKappa, MonteCarloKappa


def _frame(C: int = 5, dim: int = 3, seed: int = 0, uniform: bool = False) -> Frame:
    generator = torch.Generator().manual_seed(seed)
    priors = torch.ones(C) if uniform else 0.2 + torch.rand(C, generator=generator)
    directions = unit_rows(torch.randn(C, dim, generator=generator).double())
    return Frame(priors.double() / priors.sum(), directions, ExactKappa(dim))


def _features(N: int, dim: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(N, dim, generator=generator, dtype=torch.float64)


def test_the_posterior_is_that_of_equation_4() -> None:
    frame, g = _frame(), _features(8)
    for row, got in zip(g, frame.posterior(g), strict=True):
        length = math.sqrt(math.fsum(x * x for x in row.tolist()))
        kappa = float(frame.kappa(torch.tensor([length], dtype=torch.float64)))
        scores = []
        for pi, mu in zip(frame.priors.tolist(), frame.directions.tolist(), strict=True):
            cosine = math.fsum(a * b for a, b in zip(row.tolist(), mu, strict=True)) / length
            scores.append(pi * math.exp(kappa * cosine))
        expected = torch.tensor(scores, dtype=torch.float64) / math.fsum(scores)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_the_posterior_sums_to_1_for_features_of_any_shape_and_length() -> None:
    frame = _frame()
    g = _features(24).view(2, 3, 4, 3) * torch.tensor([1e-9, 1.0, 1e2, 1e4]).view(4, 1)
    p = frame.posterior(g)
    assert p.shape == (2, 3, 4, 5)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 3, 4, dtype=torch.float64))


def test_a_feature_without_length_has_the_prior_as_its_posterior() -> None:
    frame = _frame()
    torch.testing.assert_close(frame.posterior(torch.zeros(2, 3))[1], frame.priors.float())


@given(seed=st.integers(0, 10_000), dim=st.integers(2, 6), growth=st.floats(1.0, 10.0))
@settings(max_examples=40, deadline=None)
def test_a_longer_feature_is_never_less_sure(seed: int, dim: int, growth: float) -> None:
    """Sec. 3.1 and Fig. 17: for uniform priors confidence does not fall along a direction."""
    frame = _frame(dim=dim, seed=seed, uniform=True)
    g = _features(20, dim, seed)
    before, after = (frame.posterior(x).max(-1).values for x in (g, growth * g))
    assert (after >= before - 1e-12).all()


def test_another_width_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="dim = 3"):
        _frame().posterior(torch.ones(4, 2))


def test_polar_takes_features_apart_and_leaves_zero_rows_alone() -> None:
    x = _features(6)
    x[2] = 0
    strength, orientation = polar(x.requires_grad_())
    torch.testing.assert_close(strength[..., None] * orientation, x)
    assert strength[2] == 0 and (orientation[2] == 0).all()
    torch.testing.assert_close(orientation.norm(dim=1)[[0, 1, 3]], torch.ones(3).double())
    (strength.sum() + orientation.sum()).backward()
    assert torch.isfinite(x.grad).all() and (x.grad[2] == 0).all()


def test_gradients_of_polar_are_those_of_finite_differences() -> None:
    x = _features(4).requires_grad_()
    assert torch.autograd.gradcheck(polar, x)


def test_kappa_p_is_added_to_a_copy() -> None:
    frame = _frame()
    assert frame.with_kappa_p(20).solved_kappa_p == 20.0 and frame.kappa_p is None
    with pytest.raises(ValueError, match="kappa_p is not solved yet"):
        _ = frame.solved_kappa_p


@pytest.mark.parametrize("kappa", [ExactKappa(3, base=50.0), MonteCarloKappa(3, samples=50)])
@pytest.mark.parametrize("kappa_p", [None, 12.5])
def test_a_frame_comes_back_from_disk(
    tmp_path: Path, kappa: ExactKappa | MonteCarloKappa, kappa_p: float | None
) -> None:
    frame = Frame(_frame().priors, _frame().directions, kappa, kappa_p)
    frame.save(tmp_path / "frame")
    again = Frame.load(tmp_path / "frame")
    assert torch.equal(again.priors, frame.priors) and again.priors.dtype == torch.float64
    assert torch.equal(again.directions, frame.directions)
    assert again.kappa == frame.kappa and again.kappa_p == frame.kappa_p
    assert torch.equal(again.posterior(_features(5)), frame.posterior(_features(5)))
