"""Gradient descent, as the paper's authors fit: what it keeps, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.method.blocks import deal_to_each
from emergence_ext.method.importance import RegionImportance
from emergence_ext.method.regional import RegionalProjection, normalise_strengths
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import image_similarity
from emergence_ext.method.solver import descend
from tests.planted import planted

DATA = planted(24, 3)
P = image_similarity(DATA.z, 8.0, include_self=False)
SAMPLES = SampleProjection().fit(DATA.f, DATA.z)
G = SAMPLES.transform(DATA.f)


def _importance(**given: Any) -> RegionImportance:
    given = {"solver": "sgd", "rate": 0.005, "max_evals": 20, **given}
    return RegionImportance(include_self=False, weights_of="conditioning", **given)


def test_descent_follows_the_gradient_and_tells_each_step() -> None:
    seen: list[tuple[int, float]] = []
    (x,), stats = descend(
        lambda x: lambda x: x.square().sum(), [torch.ones(2)], steps=30, rate=0.1,
        step=lambda *told: seen.append(told),
    )  # fmt: skip
    assert x.norm() < 0.2 and len(stats.losses) == 30 == len(seen)
    assert stats.stopped == "took 30 steps of gradient descent at rate 0.1"


def test_a_loss_that_becomes_no_number_is_named_with_its_step() -> None:
    def draw(x: Tensor) -> Any:
        return lambda x: x.exp().sum()

    with pytest.raises(ValueError, match=r"the loss is inf at step 1 .* are the inputs finite"):
        descend(draw, [torch.full((1,), 1e4)], steps=3, rate=1.0)
    with pytest.raises(ValueError, match=r"is inf at step 2 .*; a rate below 1e\+30 may do"):
        descend(
            lambda x: lambda x: (x * x - x).sum(), [torch.ones(1)], steps=9, rate=1e30,
            after=lambda x: x.mul_(torch.inf).sub_(torch.inf),
        )  # fmt: skip


def test_shares_stay_shares_and_an_image_is_fitted_as_if_it_were_alone() -> None:
    fit = _importance().fit(DATA.F, P)
    for x in (fit.w_, fit.v_):
        assert (x >= 0).all()
        torch.testing.assert_close(x.sum(1), torch.ones(len(x)))
    assert fit.stats_.losses[-1] < fit.stats_.losses[0] and len(fit.stats_.losses) == 20
    # With another P for the other images, that of the first stays what it is.
    other = P.roll(5, 1).clone()
    other.fill_diagonal_(0)
    other = other / other.sum(1, keepdim=True)
    other[0] = P[0]
    again = _importance().fit(DATA.F, other)
    torch.testing.assert_close(again.w_[0], fit.w_[0])
    assert not torch.allclose(again.w_[1], fit.w_[1])


def test_some_pairs_are_drawn_anew_in_each_step() -> None:
    fits = [_importance(pairs=5, random_state=seed).fit(DATA.F, P) for seed in (0, 0, 1)]
    assert torch.equal(fits[0].w_, fits[1].w_) and not torch.equal(fits[0].w_, fits[2].w_)


def test_lambda_is_learned_step_by_step() -> None:
    importance = _importance().fit(DATA.F, P)
    fit = RegionalProjection(
        SAMPLES.frame_, include_self=False, strength_prior=0.0, normaliser=False, max_evals=20,
        pairs=10, weights_of="conditioning", matches="raw", strength_gradient=False,
        solver="sgd", rate=1.0,
    )  # fmt: skip
    fit.fit(DATA.F, importance.w_, P, G, v=importance.v_)
    losses = torch.tensor(fit.stats_.losses)
    assert len(losses) == 20 * len(DATA.F)
    assert losses[-24:].mean() < losses[:24].mean()
    assert fit.Lambda_.isfinite().all() and set(fit.stats_.terms) == {"similarity", "align"}


def test_raw_matches_want_channels_and_strengths_without_a_gradient_descent() -> None:
    w = torch.full(DATA.F.shape[:2], 1 / DATA.F.shape[1])
    with pytest.raises(ValueError, match='v: matches = "raw" are looked up with it'):
        RegionalProjection(SAMPLES.frame_, matches="raw").fit(DATA.F, w, P, G)
    with pytest.raises(ValueError, match='strength_gradient = False needs solver = "sgd"'):
        RegionalProjection(SAMPLES.frame_, strength_gradient=False)


def test_raw_matches_are_followed_by_the_other_solver_too() -> None:
    importance = _importance().fit(DATA.F, P)
    fit = RegionalProjection(
        SAMPLES.frame_, include_self=False, matches="raw", weights_of="conditioning"
    ).fit(DATA.F, importance.w_, P, G, v=importance.v_)
    assert fit.stats_.losses[-1] < fit.stats_.losses[0]


def test_samples_are_learned_by_descent_and_refitted_in_their_frame() -> None:
    fit = SampleProjection(solver="sgd", rate=2.0, strength_prior=0.0, max_rounds=10)
    fit.fit(DATA.f, DATA.z)
    assert len(fit.stats_.losses) == 200 and fit.stats_.losses[-1] < 0.5 * fit.stats_.losses[0]
    agrees = fit.predict_proba(DATA.f).argmax(1) == DATA.z.argmax(1)
    assert agrees.float().mean() > 0.8
    again = fit.refit(DATA.f, DATA.z)
    assert again.frame_ is fit.frame_ and len(again.stats_.losses) == 200


def test_every_image_has_its_turn_with_others_of_its_own() -> None:
    groups = deal_to_each(6, 3, torch.Generator().manual_seed(0))
    assert sorted(int(group[0]) for group in groups) == list(range(6))
    assert all(len(set(group.tolist())) == 4 for group in groups)
    assert all(len(g) == 6 for g in deal_to_each(6, None, torch.Generator().manual_seed(0)))


def test_layers_are_brought_to_one_mean_strength_of_their_own_or_of_the_last() -> None:
    def projection(size: float) -> RegionalProjection:
        fit = RegionalProjection(SAMPLES.frame_)
        fit.Lambda_, fit.scale_ = size * torch.eye(3, DATA.F.shape[-1]), 1.0
        return fit

    fits = {"a": projection(1.0), "b": projection(5.0), "none": projection(0.0)}
    features = dict.fromkeys(fits, DATA.F)
    for to, wanted in (("own mean", 1.0), ("last layer", None)):
        some = {n: fits[n] for n in ("a", "b")}
        normalise_strengths(some, features, to)  # type: ignore[arg-type]
        means = [float(x.transform(DATA.F).norm(dim=-1).mean()) for x in some.values()]
        assert means[0] == pytest.approx(means[1])
        assert wanted is None or means[0] == pytest.approx(wanted)
    normalise_strengths(fits, features, "own mean")
    assert fits["none"].scale_ == 1.0
