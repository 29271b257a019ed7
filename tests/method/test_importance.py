"""Importance: the loss falls, rows stay distributions, what tells the category gets the weight."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.method.importance import RegionImportance, on_simplex
from emergence_ext.method.similarity import image_similarity, similarity_with
from emergence_ext.ops import library as _library
from tests import oracle
from tests.planted import planted

DATA = planted(32)
P = image_similarity(DATA.z, 8.0)
PRINTED: Any = {"weights_of": "scored", "solver": "lbfgs", "max_evals": 40}
"""As Eq. 11 and 12 are printed: all w and v are one problem."""


@pytest.fixture(scope="module")
def fitted() -> RegionImportance:
    return RegionImportance().fit(DATA.F, P)


def _loss(fit: RegionImportance, F: Tensor, P: Tensor) -> float:
    """Eq. 11 and 12 as printed, by loops in float64, for few images."""
    Fn = torch.nn.functional.normalize(F.double(), dim=-1)
    exclude = None if fit.include_self else torch.arange(len(F))
    a = (fit.kappa_tilde or 1.5 * F.shape[-1]) * fit.w_.double()
    return oracle.match_kl_scaled(Fn, fit.v_, Fn, a, torch.zeros(len(F)), P, exclude)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("kappa_tilde", [10.0, 1000.0])
def test_the_loss_never_rises_and_is_that_of_the_equations(
    include_self: bool, kappa_tilde: float
) -> None:
    few = planted(8, 2)
    target = image_similarity(few.z, 5.0, include_self=include_self)
    fit = RegionImportance(kappa_tilde, include_self, **PRINTED).fit(few.F, target)
    assert all(b <= a for a, b in pairwise(fit.stats_.losses))
    assert fit.stats_.losses[-1] < fit.stats_.losses[0]
    assert fit.stats_.losses[-1] == pytest.approx(_loss(fit, few.F, target), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize("include_self", [True, False])
def test_weights_of_the_conditioning_image_are_a_problem_of_each_image(
    include_self: bool, solver: Any
) -> None:
    few = planted(8, 2)
    target = image_similarity(few.z, 5.0, include_self=include_self)
    fit = RegionImportance(
        10.0, include_self, max_evals=25, precision="highest", solver=solver
    ).fit(few.F, target)
    if solver == "lbfgs":
        assert all(b <= a for a, b in pairwise(fit.stats_.losses))

    def divergences(w: Tensor, v: Tensor) -> Tensor:
        """`KL(P[i] || softmax_j T[i])` of each image, by loops in float64."""
        Fn = torch.nn.functional.normalize(few.F.double(), dim=-1)
        N = len(Fn)
        T = torch.zeros(N, N, dtype=torch.float64)
        for i in range(N):
            for j in range(N):
                products = (v[i].double() * Fn[i]) @ Fn[j].t()
                T[i, j] = 10 * (w[i].double() * products.max(1).values).sum()
        if not include_self:
            T.fill_diagonal_(-torch.inf)
        Q = torch.softmax(T, dim=1)
        return torch.where(target > 0, target * (target / Q).log(), 0.0).sum(1)

    found = float(divergences(fit.w_, fit.v_).mean())
    if solver == "lbfgs":  # the losses of gradient descent are those before each step
        assert fit.stats_.losses[-1] == pytest.approx(found, rel=1e-3, abs=1e-5)
    assert found < 0.8 * fit.stats_.losses[0]
    # Another w of one image changes its own divergence and no other.
    w = fit.w_.clone()
    w[3] = w[3].flip(0)
    changed = divergences(w, fit.v_) != divergences(fit.w_, fit.v_)
    assert changed.nonzero().flatten().tolist() in ([3], [])


def test_a_step_moves_the_shares_of_an_image_by_its_own_gradient_alone() -> None:
    """Some of the images, each scored against the same as before, get the same w and v."""
    target = image_similarity(DATA.z, 8.0, include_self=True)
    whole = RegionImportance(include_self=True, precision="highest").fit(DATA.F, target)
    for images in (slice(0, 16), slice(5, 6)):
        w, v = whole.fit_new(DATA.F[images], DATA.F, target[images])
        torch.testing.assert_close(w, whole.w_[images], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(v, whole.v_[images], rtol=1e-3, atol=1e-5)
    few, others = DATA.F[:4], DATA.F[4:]
    target = similarity_with(DATA.z[:4], DATA.z[4:], 8.0)
    fit = RegionImportance(precision="highest")
    together, alone = fit.fit_new(few, others, target), fit.fit_new(few[2:3], others, target[2:3])
    for x, y in zip(together, alone, strict=True):
        torch.testing.assert_close(x[2:3], y, rtol=1e-4, atol=1e-6)


def test_a_step_is_in_proportion_to_shares() -> None:
    """Regions twice, as they are, get half of the shares each, and their sum what it was."""
    once = RegionImportance(precision="highest").fit(DATA.F, P)
    twice = RegionImportance(precision="highest").fit(DATA.F.repeat(1, 2, 1), P)
    both = twice.w_.unflatten(1, (2, 6)).sum(1)
    torch.testing.assert_close(both, once.w_, rtol=1e-3, atol=1e-4)


def test_a_new_image_gets_what_it_would_have_had_and_depends_on_no_other() -> None:
    few = planted(9, 2)
    whole = image_similarity(few.z, 5.0, include_self=False)
    fit = RegionImportance(
        10.0, False, max_evals=60, tol=0, solver="lbfgs", precision="highest"
    ).fit(few.F, whole)
    before = fit.w_.clone(), fit.v_.clone()
    others = torch.arange(9) != 4
    P = similarity_with(few.z[4:5], few.z[others], 5.0)
    torch.testing.assert_close(P[0], whole[4, others])
    w, v = fit.fit_new(few.F[4:5], few.F[others], P)
    assert torch.equal(fit.w_, before[0]) and torch.equal(fit.v_, before[1])
    cosine = torch.nn.functional.cosine_similarity(w[0], fit.w_[4], dim=0)
    assert w.shape == (1, few.F.shape[1]) and v.shape == (1, few.F.shape[2]) and cosine > 0.97
    two = fit.fit_new(few.F[[7, 4]], few.F[others], torch.cat([whole[7:8, others], P]))
    assert torch.equal(two[0][1:], w) and torch.equal(two[1][1:], v)
    with pytest.raises(ValueError, match='weights_of must be "conditioning"'):
        RegionImportance(weights_of="scored").fit_new(few.F[4:5], few.F[others], P)
    with pytest.raises(ValueError, match=r"must be \[n, R, K\], \[N, R, K\] and \[n, N\]"):
        fit.fit_new(few.F[4:6], few.F[others], P)


def test_a_divergence_that_rises_is_told(caplog: pytest.LogCaptureFixture) -> None:
    RegionImportance().fit(DATA.F, P)
    assert not caplog.records
    RegionImportance(1000.0, weights_of="scored", rate=0.05).fit(DATA.F, P)
    assert "w and v: their divergence rose from" in caplog.text


def test_one_of_two_may_weigh() -> None:
    with pytest.raises(ValueError, match="weights_of must be one of scored, conditioning"):
        RegionImportance(weights_of="both")  # type: ignore[arg-type]


def test_the_fit_starts_from_equal_importance() -> None:
    few = planted(8, 2)
    target = image_similarity(few.z, 5.0)
    fit = RegionImportance(**PRINTED).fit(few.F, target)
    even = RegionImportance()
    even.w_, even.v_ = torch.full((8, 6), 1 / 6), torch.full((8, 10), 1 / 10)
    assert fit.stats_.losses[0] == pytest.approx(_loss(even, few.F, target), rel=1e-4)


def test_the_concentration_is_that_of_a_channel_times_the_channels() -> None:
    usual = RegionImportance(max_evals=10).fit(DATA.F, P)
    assert DATA.F.shape[-1] == 10
    assert torch.equal(usual.w_, RegionImportance(15.0, max_evals=10).fit(DATA.F, P).w_)


def test_rows_are_distributions(fitted: RegionImportance) -> None:
    for x, width in ((fitted.w_, 6), (fitted.v_, 10)):
        assert x.shape == (32, width) and not x.requires_grad
        assert (x >= 0).all()
        assert (x.double().sum(1) - 1).abs().max() < 1e-6


def test_regions_that_show_the_category_weigh_more() -> None:
    data = planted(60, C=2)
    P = image_similarity(data.z, 8.0)
    for more, least in (({}, 0.7), ({"max_evals": 10}, 0.8), (PRINTED, 0.95)):
        fit = RegionImportance(**more).fit(data.F, P)
        share = fit.w_[:, data.telling].sum(1)
        assert share.mean() > least  # half of the regions show it: equal weights give 0.5
        assert (share > 0.5).float().mean() > 0.95


def test_regions_without_features_are_harmless() -> None:
    F = DATA.F.clone()
    F[:, 1] = 0  # a dead region everywhere
    F[5] = 0  # an image without any feature
    fits = [RegionImportance().fit(F, P), RegionImportance(**PRINTED).fit(F, P)]
    assert all(b <= a for a, b in pairwise(fits[1].stats_.losses))
    for fit in fits:
        for x in (fit.w_, fit.v_):
            assert torch.isfinite(x).all()
            assert (x.double().sum(1) - 1).abs().max() < 1e-6


def test_importance_does_not_see_the_length_of_features(fitted: RegionImportance) -> None:
    stretched = DATA.F * (0.1 + torch.arange(6.0)).view(1, 6, 1)
    fit = RegionImportance().fit(stretched, P)
    assert fit.stats_.losses[0] == pytest.approx(fitted.stats_.losses[0], rel=1e-4)
    # From there on rounding decides at kinks which of many nearly equal ways is taken.
    assert fit.stats_.losses[-1] == pytest.approx(fitted.stats_.losses[-1], rel=0.1)


def test_both_backends_find_the_same(library: None) -> None:
    fused, plain = (
        RegionImportance(max_evals=10, backend=backend).fit(DATA.F, P)
        for backend in ("fused", "reference")
    )
    assert fused.stats_.backend == "fused" and plain.stats_.backend == "reference"
    assert fused.stats_.losses[0] == pytest.approx(plain.stats_.losses[0], rel=1e-5)
    # The solver lets rounding grow.
    assert fused.stats_.losses[:5] == pytest.approx(plain.stats_.losses[:5], rel=1e-3)
    assert fused.stats_.losses[-1] == pytest.approx(plain.stats_.losses[-1], rel=0.05)


def test_the_number_of_threads_changes_no_bit(library: None, threads: None) -> None:
    # The ops deal out even so little work; torch's own sums are too short to be dealt out.
    fits = []
    for count in (1, 2):
        torch.set_num_threads(count)
        fits.append(RegionImportance(max_evals=20, backend="fused").fit(DATA.F, P))
    assert fits[0].stats_.losses == fits[1].stats_.losses
    assert torch.equal(fits[0].w_, fits[1].w_) and torch.equal(fits[0].v_, fits[1].v_)


def test_a_backend_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        RegionImportance(backend="fast").fit(DATA.F, P)
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": "it was never built here")
    with pytest.raises(RuntimeError, match="never built"):
        RegionImportance(backend="fused").fit(DATA.F, P)


def test_some_pairs_find_what_all_find() -> None:
    data = planted(60)
    P = image_similarity(data.z, 8.0, include_self=True)
    for printed in (PRINTED, {}):
        whole = RegionImportance(include_self=True, **printed).fit(data.F, P)
        some = RegionImportance(include_self=True, pairs=19, **printed).fit(data.F, P)
        both = torch.stack([whole.w_.flatten(), some.w_.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9
    some = RegionImportance(include_self=True, pairs=19, **PRINTED).fit(data.F, P)
    assert some.stats_.terms["new_pairs"] < 0.6 * some.stats_.losses[0]
    assert "rounds, each of other pairs, 19 an image" in some.stats_.stopped
    asked = []

    def among(images: Tensor) -> Tensor:
        asked.append(len(images))
        return image_similarity(data.z[images], 8.0, include_self=True)

    again = RegionImportance(include_self=True, pairs=19, **PRINTED).fit(data.F, among)
    assert set(asked) == {20}
    torch.testing.assert_close(again.stats_.losses[0], some.stats_.losses[0], rtol=1e-5, atol=0)
    other = RegionImportance(include_self=True, pairs=19, random_state=1, **PRINTED).fit(data.F, P)
    assert not torch.equal(other.w_, some.w_)
    with pytest.raises(ValueError, match=r"P must be .* where all pairs are scored"):
        RegionImportance().fit(data.F, among)


def test_the_inputs_and_the_random_state_are_left_alone(fitted: RegionImportance) -> None:
    F, state = DATA.F.clone(), torch.get_rng_state()
    again = RegionImportance().fit(DATA.F, P)
    assert torch.equal(DATA.F, F) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.w_, fitted.w_) and torch.equal(again.v_, fitted.v_)


def test_the_caller_hears_of_every_evaluation() -> None:
    heard: list[float] = []
    fit = RegionImportance(max_evals=12).fit(DATA.F, P, step=lambda n, loss: heard.append(loss))
    assert heard == list(fit.stats_.losses)


def test_importance_comes_back_from_disk(tmp_path: Path) -> None:
    fit = RegionImportance(100.0, False, max_evals=11, tol=1e-2, backend="reference").fit(
        DATA.F, image_similarity(DATA.z, 8.0, include_self=False)
    )
    fit.save(tmp_path / "conv5_3.importance")
    again = RegionImportance.load(tmp_path / "conv5_3.importance")
    assert torch.equal(again.w_, fit.w_) and torch.equal(again.v_, fit.v_)
    assert again.stats_ == fit.stats_
    for name in ("kappa_tilde", "include_self", "max_evals", "tol"):
        assert getattr(again, name) == getattr(fit, name), name
    # How it was computed is known, and how the next fit is computed is this machine's affair.
    assert again.stats_.backend == "reference" and again.backend == "auto"


@pytest.mark.parametrize(
    ("F", "P", "message"),
    [
        (torch.rand(4, 6), torch.rand(4, 4), r"F must be \[N, R, K\]"),
        (torch.rand(4, 6, 3), torch.rand(4, 5), r"P must be \[4, 4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(F: Tensor, P: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionImportance().fit(F, P)


def test_numbers_that_are_none_are_named_with_their_image() -> None:
    F = DATA.F.clone()
    F[9, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="9"):
        RegionImportance().fit(F, P)


def test_the_simplex_holds_absolute_values() -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    expected = torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    torch.testing.assert_close(on_simplex(x), expected)


def test_what_was_stored_before_choices_could_be_made_was_as_it_was() -> None:
    arrays, settings = RegionImportance(max_evals=2).fit(DATA.F, P)._state()
    for name in ("precision", "weights_of", "solver", "rate"):
        del settings["parameters"][name]
    then = RegionImportance._from_state(arrays, settings)
    assert (then.precision, then.weights_of, then.solver) == ("highest", "scored", "lbfgs")
