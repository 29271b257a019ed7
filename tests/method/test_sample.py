"""The projection of samples: likelihood, collapse, whose direction is whose, and its frame."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method import sample
from emergence_ext.method.correlation import entropy, pearson
from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.mixture import (
    em_step,
    mean_cosine,
    mixture_log_likelihood,
    spread_directions,
)
from emergence_ext.method.sample import COLLAPSE, SampleProjection
from emergence_ext.method.vmf import ExactKappa, MonteCarloKappa, log_normalizer
from tests.planted import planted

DATA = planted(80)


@pytest.fixture(scope="module")
def fitted() -> SampleProjection:
    return SampleProjection().fit(DATA.f, DATA.z)


def _mixture(seed: int, C: int, dim: int, N: int = 40) -> tuple[Tensor, Frame]:
    generator = torch.Generator().manual_seed(seed)
    g = 2 * torch.randn(N, dim, generator=generator, dtype=torch.float64)
    priors = torch.rand(C, generator=generator).double() + 0.05
    directions = unit_rows(torch.randn(C, dim, generator=generator).double())
    return g, Frame(priors / priors.sum(), directions, ExactKappa(dim))


@given(seed=st.integers(0, 10_000), C=st.integers(2, 6), dim=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_no_em_step_lowers_the_likelihood(seed: int, C: int, dim: int) -> None:
    g, frame = _mixture(seed, C, dim)
    g[0] = 0  # a feature without direction belongs to the mixture like any other
    values = [mixture_log_likelihood(g, frame)]
    for _ in range(8):
        frame = em_step(g, frame)
        values.append(mixture_log_likelihood(g, frame))
    assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(values)), values
    assert values[-1] > values[0]


def test_the_likelihood_is_that_of_the_mixture() -> None:
    g, frame = _mixture(3, 4, 3, N=6)
    strength, orientation = polar(g)
    kappa = frame.kappa(strength)
    density = (log_normalizer(kappa, 3) + kappa * (orientation @ frame.directions.t()).t()).exp()
    expected = (frame.priors[:, None] * density).sum(0).log().sum()
    assert mixture_log_likelihood(g, frame) == pytest.approx(float(expected), rel=1e-10)


def test_a_step_of_em_keeps_a_mixture_and_a_category_without_images_its_direction() -> None:
    g, frame = _mixture(5, 4, 3)
    given_away = torch.zeros(len(g), 4, dtype=torch.float64)
    given_away[:, :3] = 1 / 3
    after = em_step(g, frame, given_away)
    assert torch.equal(after.directions[3], frame.directions[3])
    torch.testing.assert_close(after.directions.norm(dim=1), torch.ones(4).double())
    assert float(after.priors.sum()) == pytest.approx(1) and (after.priors > 0).all()


@pytest.mark.parametrize("responsibilities", ["network", "posterior"])
@pytest.mark.parametrize("seed", range(2))
def test_a_category_keeps_its_own_direction(responsibilities: str, seed: int) -> None:
    data = planted(80, seed=seed)
    fit = SampleProjection(responsibilities=responsibilities).fit(data.f, data.z)  # type: ignore[arg-type]
    orientation = unit_rows(fit.transform(data.f))
    P = torch.softmax(data.z, dim=1)
    means = unit_rows(P.t() @ orientation)
    assert (means @ fit.directions_.t()).argmax(1).tolist() == [0, 1, 2, 3]
    agrees = fit.predict_proba(data.f).argmax(1) == data.z.argmax(1)
    assert agrees.float().mean() > 0.9


def test_the_order_of_the_categories_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    fit = SampleProjection().fit(DATA.f, DATA.z)
    other = SampleProjection().fit(DATA.f, DATA.z[:, order])
    agree = other.predict_proba(DATA.f).argmax(1) == fit.predict_proba(DATA.f)[:, order].argmax(1)
    assert agree.float().mean() > 0.95


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_directions_do_not_collapse_when_the_network_is_unsure(temperature: float) -> None:
    fit = SampleProjection(temperature=temperature).fit(DATA.f, DATA.z)
    assert mean_cosine(fit.directions_) <= COLLAPSE
    assert fit.stats_.terms["mean_cosine"] == pytest.approx(mean_cosine(fit.directions_))
    r = pearson(fit.transform(DATA.f).norm(dim=1), entropy(DATA.z, temperature))
    assert r < -0.5  # what a collapsed fit loses


@pytest.mark.parametrize("strength_prior", [0.0, 1e-3])
@pytest.mark.parametrize("temperature", [20.0, 300.0])
def test_a_collapsed_fit_is_never_returned(strength_prior: float, temperature: float) -> None:
    fit = SampleProjection(temperature=temperature, strength_prior=strength_prior)
    try:
        fit.fit(DATA.f, DATA.z)
    except ValueError as error:
        assert "collapsed" in str(error) and "`temperature`" in str(error)
        assert not hasattr(fit, "M_")
    else:
        assert mean_cosine(fit.directions_) <= COLLAPSE


def test_a_collapse_is_detected_logged_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def onto_one(g: Tensor, frame: Frame, responsibilities: Tensor | None = None) -> Frame:
        return replace(frame, directions=torch.tensor([[0.6, 0.8, 0.0]]).expand(4, 3))

    monkeypatch.setattr(sample, "em_step", onto_one)
    caplog.set_level("INFO", "emergence_ext")
    with pytest.raises(ValueError, match=r"collapsed onto one \(mean cosine 1\.00\)"):
        SampleProjection(max_rounds=2).fit(DATA.f, DATA.z)
    assert {entry.levelname for entry in caplog.records} == {"INFO"}  # a later start may do
    assert "collapsed" in caplog.text and "new start" in caplog.text


def test_the_losses_never_rise_and_kl_is_that_of_the_result(fitted: SampleProjection) -> None:
    for fit in (fitted, SampleProjection(temperature=4, tol=1e-7).fit(DATA.f, DATA.z)):
        assert all(b <= a for a, b in pairwise(fit.stats_.losses)), fit.stats_.losses
        P = torch.softmax(DATA.z.double() / fit.temperature, dim=1)
        kl = (P * (P / fit.predict_proba(DATA.f)).log()).sum(1).mean()
        assert fit.stats_.terms["kl"] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
        assert fit.stats_.stopped and fit.stats_.seconds > 0


def test_the_result_explains_the_network(fitted: SampleProjection) -> None:
    P = torch.softmax(DATA.z, dim=1)
    alone = torch.special.xlogy(P, P / P.mean(0)).sum(1).mean()
    assert fitted.stats_.terms["kl"] < 0.1 * alone


def test_the_seed_settles_every_bit(fitted: SampleProjection) -> None:
    torch.manual_seed(5)
    again = SampleProjection().fit(DATA.f, DATA.z)
    assert torch.equal(again.M_, fitted.M_)
    assert torch.equal(again.directions_, fitted.directions_)
    assert torch.equal(again.priors_, fitted.priors_)


def test_a_fit_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    SampleProjection(max_rounds=2).fit(DATA.f, DATA.z)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_refit_learns_M_in_the_same_frame_and_changes_nothing_else(
    fitted: SampleProjection,
) -> None:
    earlier = planted(80, learned=0.6)
    M = fitted.M_.clone()
    new = fitted.refit(earlier.f, earlier.z)
    assert new is not fitted and torch.equal(fitted.M_, M)
    assert torch.equal(new.directions_, fitted.directions_)
    assert torch.equal(new.priors_, fitted.priors_)
    P = torch.softmax(earlier.z, dim=1)

    def kl(fit: SampleProjection) -> float:
        return float((P * (P / fit.predict_proba(earlier.f)).log()).sum(1).mean())

    assert kl(new) < kl(fitted)
    assert new.stats_.terms["kl"] == pytest.approx(kl(new), rel=1e-3, abs=1e-6)


def test_a_refit_of_the_same_features_stays_where_it_is(fitted: SampleProjection) -> None:
    new = fitted.refit(DATA.f, DATA.z)
    assert new.stats_.terms["kl"] <= fitted.stats_.terms["kl"] * 1.001
    cosine = torch.cosine_similarity(new.transform(DATA.f), fitted.transform(DATA.f))
    assert cosine.min() > 0.95


def test_a_refit_goes_as_far_as_the_fit(fitted: SampleProjection) -> None:
    few = SampleProjection(max_rounds=1).fit(DATA.f, DATA.z)
    again = few.refit(DATA.f, DATA.z)
    assert len(few.stats_.losses) == 1 and 20 <= len(again.stats_.losses) < 20 + 25
    assert len(again.refit(DATA.f, DATA.z).stats_.losses) == len(again.stats_.losses)


def test_a_refit_of_other_widths_starts_anew_and_of_other_categories_is_refused(
    fitted: SampleProjection,
) -> None:
    wide = torch.cat([DATA.f, DATA.f[:, :3]], dim=1)
    assert fitted.refit(wide, DATA.z).M_.shape == (3, 15)
    with pytest.raises(ValueError, match="3 categories, but the frame has 4"):
        fitted.refit(DATA.f, DATA.z[:, :3])


def test_a_warm_start_does_not_raise_the_loss(fitted: SampleProjection) -> None:
    warm = SampleProjection().fit(DATA.f, DATA.z, init=fitted)
    assert warm.stats_.losses[-1] <= fitted.stats_.losses[-1] * 1.001


@pytest.mark.parametrize("responsibilities", ["network", "posterior"])
def test_a_projection_comes_back_from_disk(tmp_path: Path, responsibilities: str) -> None:
    fit = SampleProjection(
        dim=2,
        temperature=2.0,
        responsibilities=responsibilities,  # type: ignore[arg-type]
        kappa=lambda dim: MonteCarloKappa(dim, samples=100),
        strength_prior=0.01,
        max_rounds=3,
        random_state=7,
    ).fit(DATA.f, DATA.z)
    fit.save(tmp_path / "samples")
    again = SampleProjection.load(tmp_path / "samples")
    assert torch.equal(again.M_, fit.M_)
    assert torch.equal(again.directions_, fit.directions_)
    assert torch.equal(again.priors_, fit.priors_)
    assert again.frame_.kappa == fit.frame_.kappa
    assert again.stats_ == fit.stats_
    for name in ("dim", "temperature", "responsibilities", "strength_prior", "max_rounds", "tol"):
        assert getattr(again, name) == getattr(fit, name), name
    assert again.random_state == 7
    assert torch.equal(again.predict_proba(DATA.f), fit.predict_proba(DATA.f))
    assert again.refit(DATA.f, DATA.z).frame_.kappa == fit.frame_.kappa


@pytest.mark.parametrize(
    ("f", "z", "message"),
    [
        (torch.rand(20, 5), torch.rand(19, 3), r"f must be \[N, E\]"),
        (torch.rand(20), torch.rand(20, 3), r"f must be \[N, E\]"),
        (torch.rand(20, 5), torch.rand(20, 1), "one category"),
        (torch.rand(20, 2), torch.rand(20, 3), "dim = 3 is more than the E = 2"),
        (torch.ones(20, 5), torch.rand(20, 3), "all\nimages are alike".replace("\n", " ")),
    ],
)
def test_features_that_cannot_be_fitted_are_named(f: Tensor, z: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleProjection().fit(f, z)


@pytest.mark.parametrize("name", ["f", "z"])
def test_numbers_that_are_none_are_named_with_their_image(name: str) -> None:
    given_ = {"f": DATA.f.clone(), "z": DATA.z.clone()}
    given_[name][11, 2] = torch.nan
    with pytest.raises(ValueError, match=f"{name}: image 11 "):
        SampleProjection().fit(**given_)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dim", 1), ("temperature", 0.0), ("temperature", -1.0), ("responsibilities", "mine")],
)
def test_wrong_arguments_are_named(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        SampleProjection(**{argument: value})  # type: ignore[arg-type]


def test_features_of_another_width_are_refused(fitted: SampleProjection) -> None:
    with pytest.raises(ValueError, match="E = 12"):
        fitted.transform(torch.rand(4, 5))


def test_more_categories_than_images_still_have_directions() -> None:
    few = planted(12, 4)
    z = torch.cat([few.z, few.z - 5, few.z - 6, few.z - 7], dim=1)  # 16 categories, 12 images
    fit = SampleProjection().fit(few.f, z)
    assert fit.directions_.shape == (16, 3) and torch.isfinite(fit.directions_).all()
    torch.testing.assert_close(fit.priors_.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(("C", "dim"), [(2, 3), (4, 3), (10, 3), (10, 2), (6, 5)])
def test_directions_to_start_from_are_spread(C: int, dim: int, random: bool) -> None:
    data = planted(60, C)
    generator = torch.Generator().manual_seed(0) if random else None
    directions = spread_directions(data.f, torch.softmax(data.z, 1), dim, generator)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(C))
    assert mean_cosine(directions) < 0
    cosines = directions @ directions.t() - 2 * torch.eye(C)
    assert cosines.max() < 0.95  # no two of them are one


def test_the_mean_cosine_is_over_pairs() -> None:
    assert mean_cosine(torch.eye(3)) == pytest.approx(0)
    assert mean_cosine(torch.tensor([[1.0, 0], [-1, 0], [1, 0]])) == pytest.approx(-1 / 3)
