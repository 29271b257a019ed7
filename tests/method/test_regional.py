"""The projection of regions: both losses are the paper's, and the fit finds what is planted."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method.frame import Frame, unit_rows
from emergence_ext.method.importance import on_simplex
from emergence_ext.method.knowledge import knowledge_points
from emergence_ext.method.regional import (
    RegionalProjection,
    alignment_loss,
    normalise_strengths,
    similarity_loss,
)
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import image_similarity
from emergence_ext.method.vmf import ExactKappa, log_normalizer
from emergence_ext.ops import library as _library
from tests.planted import Planted, planted


class Case:
    """What a fit of Lambda takes, made from planted features."""

    def __init__(self, data: Planted) -> None:
        samples = SampleProjection().fit(data.f, data.z)
        self.data, self.frame = data, samples.frame_
        self.g = samples.transform(data.f)
        self.w = torch.full(data.F.shape[:2], 1 / data.F.shape[1])
        self.P = image_similarity(data.z, 8.0)

    def fit(
        self,
        init: RegionalProjection | None = None,
        left_out: Tensor | None = None,
        **arguments: Any,
    ) -> RegionalProjection:
        projection = RegionalProjection(self.frame, **arguments)
        F, w, P, g = self.data.F, self.w, self.P, self.g
        return projection.fit(F, w, P, g, init=init, left_out=left_out)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(planted(48))


@pytest.fixture(params=["fused", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that this machine has."""
    if request.param == "fused":
        request.getfixturevalue("library")
    return request.param


@pytest.fixture(scope="module")
def fitted(case: Case) -> RegionalProjection:
    return case.fit(max_evals=60)


def _problem(
    N: int = 4, R: int = 3, dim: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Frame]:
    """h, w, P, g and a frame, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    frame = Frame(torch.ones(2) / 2, unit_rows(random(2, dim)), ExactKappa(dim))
    P = torch.softmax(random(N, N), dim=1)
    return 2 * random(N, R, dim), on_simplex(random(N, R)), P, random(N, dim), frame


def _by_loops(
    h: Tensor, w: Tensor, P: Tensor, frame: Frame, include_self: bool, weights_of: str = "scored"
) -> float:
    """Eq. 7-9 as they are printed, or with the roles of both images exchanged, region by region."""
    N, R, dim = h.shape
    kappa = frame.kappa(h.norm(dim=-1))
    total = 0.0
    for i in range(N):
        others = [j for j in range(N) if include_self or j != i]
        T = torch.zeros(len(others), dtype=torch.float64)
        for place, other in enumerate(others):
            j, k = (other, i) if weights_of == "scored" else (i, other)
            for r in range(R):
                best = max(float(torch.cosine_similarity(h[j, r], h[k, s], 0)) for s in range(R))
                log_C = float(log_normalizer(kappa[j, r], dim))
                T[place] += w[j, r] * (log_C + kappa[j, r] * best)
        log_q = torch.log_softmax(T, dim=0)
        p = P[i, others]
        total += float((p * (p.log() - log_q)).sum()) / N
    return total


@pytest.mark.parametrize("weights_of", ["scored", "conditioning"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_the_similarity_loss_is_that_of_the_equations(
    dim: int, include_self: bool, weights_of: Any, backend: Any
) -> None:
    h, w, P, _, frame = _problem(dim=dim)
    if not include_self:
        P = P.fill_diagonal_(0) / P.sum(1, keepdim=True)
    got = similarity_loss(
        h, w, P, frame, include_self=include_self, weights_of=weights_of, backend=backend
    )
    expected = _by_loops(h, w, P, frame, include_self, weights_of)
    assert float(got) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("include_self", [True, False])
def test_without_its_normaliser_the_density_is_left_to_kappa(include_self: bool) -> None:
    h, w, P, _, frame = _problem()
    if not include_self:
        P = P.fill_diagonal_(0) / P.sum(1, keepdim=True)
    kappa = frame.kappa(h.norm(dim=-1))
    log_C = (w * log_normalizer(kappa, 3)).sum(1)
    T = torch.stack([
        (w * kappa * torch.cosine_similarity(h[:, :, None], h[i], dim=-1).amax(-1)).sum(1)
        for i in range(len(h))
    ])  # fmt: skip
    if not include_self:
        T = T.fill_diagonal_(-torch.inf)
    for normaliser, scores in ((True, T + log_C), (False, T)):
        log_q = torch.log_softmax(scores, dim=1)
        expected = torch.where(P > 0, P * (P.log() - log_q), 0).sum(1).mean()
        got = similarity_loss(
            h, w, P, frame, include_self=include_self, normaliser=normaliser, weights_of="scored"
        )
        torch.testing.assert_close(got, expected)


def test_a_fit_knows_whether_it_had_the_normaliser(case: Case, tmp_path: Path) -> None:
    of: Any = {"weights_of": "scored"}
    with_it, without = (case.fit(normaliser=x, max_evals=5, **of) for x in (True, False))
    h = without.transform(case.data.F)
    expected = similarity_loss(h, case.w, case.P, case.frame, normaliser=False, **of)
    assert without.stats_.terms["similarity"] == pytest.approx(float(expected), rel=1e-4)
    assert not torch.allclose(with_it.Lambda_, without.Lambda_)
    without.save(tmp_path / "layer")
    assert not RegionalProjection.load(tmp_path / "layer").normaliser


def test_the_alignment_loss_is_that_of_equation_10() -> None:
    h, w, _, g, _ = _problem()
    expected = 0.0
    for i in range(4):
        for r in range(3):
            expected -= float(w[i, r] * torch.cosine_similarity(g[i], h[i, r], 0)) / 4
    assert float(alignment_loss(h, w, g)) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10_000), dim=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_turning_regions_changes_the_alignment_and_not_the_similarity(seed: int, dim: int) -> None:
    h, w, P, g, frame = _problem(dim=dim, seed=seed)
    Q, _ = torch.linalg.qr(_problem(N=dim, R=1, dim=dim, seed=seed + 1)[0][:, 0])
    loss = similarity_loss(h, w, P, frame)
    torch.testing.assert_close(similarity_loss(h @ Q.t(), w, P, frame), loss, rtol=1e-9, atol=1e-12)
    assert abs(alignment_loss(h @ Q.t(), w, g) - alignment_loss(h, w, g)) > 1e-6
    # Both together turned, the alignment is what it was.
    torch.testing.assert_close(alignment_loss(h @ Q.t(), w, g @ Q.t()), alignment_loss(h, w, g))


@pytest.mark.parametrize(
    "change",
    [
        torch.diag(torch.tensor([1.3, 1.3, 1.3])),  # stretching
        torch.diag(torch.tensor([1.0, 1.0, 0.5])),  # flattening
        torch.tensor([[1.0, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),  # shearing
    ],
)
def test_nothing_but_turning_leaves_the_similarity_as_it_is(change: Tensor) -> None:
    h, w, P, _, frame = _problem()
    changed = similarity_loss(h @ change.double().t(), w, P, frame)
    assert abs(changed - similarity_loss(h, w, P, frame)) > 1e-3


@pytest.mark.parametrize("weights_of", ["scored", "conditioning"])
@pytest.mark.parametrize("include_self", [True, False])
def test_gradients_are_those_of_finite_differences(
    include_self: bool, weights_of: Any, backend: Any
) -> None:
    _, w, P, g, frame = _problem()
    if not include_self:
        P = P.fill_diagonal_(0) / P.sum(1, keepdim=True)
    Lambda = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    F = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss(Lambda: Tensor, w: Tensor) -> Tensor:
        h = F @ Lambda.t()
        similarity = similarity_loss(
            h, w, P, frame, include_self=include_self, weights_of=weights_of, backend=backend
        )
        return similarity + alignment_loss(h, w, g)

    assert torch.autograd.gradcheck(loss, (Lambda.requires_grad_(), w.requires_grad_()))


def test_the_loss_of_float32_is_that_of_float64_even_for_strong_features() -> None:
    for strength in (1e-3, 1.0, 30.0):
        h, w, P, _, frame = _problem(N=6, R=5)
        exact = similarity_loss(strength * h, w, P, frame)
        got = similarity_loss((strength * h).float(), w.float(), P.float(), frame)
        assert float(got) == pytest.approx(float(exact), rel=1e-3, abs=1e-5)


def test_regions_without_strength_are_harmless() -> None:
    h, w, P, g, frame = _problem()
    h[0, 1], h[2] = 0, 0
    h.requires_grad_()
    (similarity_loss(h, w, P, frame) + alignment_loss(h, w, g)).backward()
    assert torch.isfinite(h.grad).all()


def test_the_losses_never_rise_and_the_terms_are_those_of_the_result(
    case: Case, fitted: RegionalProjection
) -> None:
    assert all(b <= a for a, b in pairwise(fitted.stats_.losses))
    h = fitted.transform(case.data.F)
    terms = fitted.stats_.terms
    similarity = float(similarity_loss(h, case.w, case.P, case.frame))
    align = float(alignment_loss(h, case.w, case.g))
    assert terms["similarity"] == pytest.approx(similarity, rel=1e-3)
    assert terms["align"] == pytest.approx(align, rel=1e-3)


def test_planted_categories_are_found_in_the_regions_that_show_them(
    case: Case, fitted: RegionalProjection
) -> None:
    points = knowledge_points(fitted.transform(case.data.F), case.frame, case.data.y)
    telling = case.data.telling
    reliable = points.reliable.float()
    # The other regions are noise, whose best matches say nothing of a category; where exactly the
    # telling ones end depends on the local optimum (0.76, 0.78 and over 0.8 were seen).
    assert reliable[:, telling].mean() > 0.7
    assert reliable[:, ~telling].mean() < 0.5 * reliable[:, telling].mean()


def test_more_alignment_turns_regions_to_their_samples(case: Case) -> None:
    loose, tight = (case.fit(alpha=alpha, max_evals=40) for alpha in (0.0, 10.0))
    assert tight.stats_.terms["align"] < loose.stats_.terms["align"] - 0.1


def test_least_squares_is_a_better_start_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def reliable(case: Case, fit: RegionalProjection) -> float:
        points = knowledge_points(fit.transform(case.data.F), case.frame, case.data.y)
        return float(points.reliable.float().mean())

    generator = torch.Generator().manual_seed(0)

    def chance(self: RegionalProjection, images: Any) -> Tensor:
        Lambda = torch.randn(3, 10, generator=generator)
        return 3 * Lambda / (images.F @ Lambda.t()).norm(dim=-1).mean()

    cases = [Case(planted(48, seed=seed)) for seed in range(3)]
    least_squares = [case.fit(max_evals=30) for case in cases]
    monkeypatch.setattr(RegionalProjection, "_start", chance)
    random = [[case.fit(max_evals=30) for _ in range(6)] for case in cases]
    losses = sum(fit.stats_.losses[-1] for fit in least_squares)
    assert losses < sum(fit.stats_.losses[-1] for fits in random for fit in fits) / 6
    for case, own, fits in zip(cases, least_squares, random, strict=True):
        assert reliable(case, own) > sum(reliable(case, fit) for fit in fits) / 6


def test_a_warm_start_with_its_own_result_does_not_raise_the_loss(
    case: Case, fitted: RegionalProjection
) -> None:
    warm = case.fit(init=fitted, max_evals=20)
    assert warm.stats_.losses[0] == pytest.approx(fitted.stats_.losses[-1], rel=1e-4)
    assert warm.stats_.losses[-1] <= fitted.stats_.losses[-1] * (1 + 1e-4)


def test_the_unit_of_the_features_does_not_matter(case: Case) -> None:
    plain = case.fit(max_evals=20)
    scaled = RegionalProjection(case.frame, max_evals=20)
    scaled.fit(1024 * case.data.F, case.w, case.P, case.g)  # a power of two: nothing is rounded
    assert scaled.stats_.losses == plain.stats_.losses
    assert torch.equal(1024 * scaled.Lambda_, plain.Lambda_)


@pytest.mark.slow
def test_some_pairs_find_what_all_find_also_on_other_images() -> None:
    both = Case(planted(120))
    learned, other = torch.arange(80), torch.arange(80, 120)
    for arguments in ({"max_evals": 60}, {"max_evals": 60, "pairs": 20}):
        fit = both.fit(alpha=1.0, left_out=other, **arguments)
        h = fit.transform(both.data.F[other])
        points = knowledge_points(h, both.frame, both.data.y[other])
        assert points.reliable[:, both.data.telling].float().mean() > 0.7
        assert fit.stats_.terms["similarity"] < 0.9 * _loss_of_nothing(both, learned)
        assert fit.stats_.terms["left_out_similarity"] < 0.9 * _loss_of_nothing(both, other)


def _loss_of_nothing(case: Case, kept: Tensor) -> float:
    """The similarity loss where all strengths are 0 and nothing tells images apart."""
    nothing = torch.zeros(len(kept), 6, 3)
    P = case.P[kept][:, kept]
    return float(similarity_loss(nothing, case.w[kept], P / P.sum(1, keepdim=True), case.frame))


def test_images_that_are_left_out_are_not_seen_and_their_loss_is_told(case: Case) -> None:
    out = torch.tensor([3, 10, 11, 30, 41])
    fit = case.fit(left_out=out, max_evals=15)
    F, w, P, g = case.data.F.clone(), case.w.clone(), case.P.clone(), case.g.clone()
    F[out], w[out], g[out], P[:, out] = -F[out], w[out].flip(1), -g[out], 0.5
    other = RegionalProjection(case.frame, max_evals=15).fit(F, w, P, g, left_out=out)
    assert torch.equal(other.Lambda_, fit.Lambda_)
    assert other.stats_.losses == fit.stats_.losses

    h, P = fit.transform(case.data.F), case.P[out][:, out]
    told = similarity_loss(h[out], case.w[out], P / P.sum(1, keepdim=True), case.frame)
    assert fit.stats_.terms["left_out_similarity"] == pytest.approx(float(told), rel=1e-3)
    assert "left_out_similarity" not in case.fit(max_evals=1).stats_.terms


def test_the_seed_settles_every_bit(case: Case) -> None:
    for arguments in ({"max_evals": 10}, {"max_evals": 2, "pairs": 12, "random_state": 4}):
        first, second = case.fit(**arguments), case.fit(**arguments)
        assert torch.equal(first.Lambda_, second.Lambda_)
    other = case.fit(max_evals=2, pairs=12, random_state=5)
    assert not torch.equal(first.Lambda_, other.Lambda_)


@pytest.mark.parametrize("pairs", [None, 16])
def test_both_backends_find_the_same(case: Case, pairs: int | None, library: None) -> None:
    fused, plain = (
        case.fit(max_evals=10, pairs=pairs, backend=backend) for backend in ("fused", "reference")
    )
    assert fused.stats_.backend == "fused" and plain.stats_.backend == "reference"
    assert fused.stats_.losses[0] == pytest.approx(plain.stats_.losses[0], rel=1e-5)
    # The solver lets rounding grow.
    assert fused.stats_.losses[:5] == pytest.approx(plain.stats_.losses[:5], rel=1e-3)
    assert fused.stats_.losses[-1] == pytest.approx(plain.stats_.losses[-1], rel=0.05)


def test_the_number_of_threads_changes_no_bit(case: Case, library: None, threads: None) -> None:
    # The ops deal out even so little work; torch's own sums are too short to be dealt out.
    fits = []
    for count in (1, 2):
        torch.set_num_threads(count)
        fits.append(case.fit(max_evals=20, backend="fused"))
    assert fits[0].stats_.losses == fits[1].stats_.losses
    assert torch.equal(fits[0].Lambda_, fits[1].Lambda_)


def test_a_backend_that_cannot_be_had_is_an_error(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        case.fit(backend="fast")
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": "it was never built here")
    with pytest.raises(RuntimeError, match="never built"):
        case.fit(backend="fused")


def test_strengths_of_layers_are_brought_to_that_of_the_last(case: Case) -> None:
    features = {"early": 5 * case.data.F, "middle": case.data.F[:, :2], "last": case.data.F}
    projections = {}
    for scale, name in zip((0.2, 3.0, 1.0), features, strict=True):
        projections[name] = RegionalProjection(case.frame)
        projections[name].Lambda_ = scale * torch.ones(3, 10)
        projections[name].scale_ = 7.0  # left over from before
    normalise_strengths(projections, features)
    means = [float(projections[x].transform(F).norm(dim=-1).mean()) for x, F in features.items()]
    assert means == pytest.approx([means[-1]] * 3, rel=1e-5)
    assert projections["last"].scale_ == 1
    assert torch.equal(projections["early"].Lambda_, 0.2 * torch.ones(3, 10))


def test_a_projection_comes_back_from_disk(case: Case, tmp_path: Path) -> None:
    fit = case.fit(
        alpha=0.5,
        pairs=16,
        max_evals=2,
        random_state=3,
        left_out=torch.arange(5),
        backend="reference",
    )
    fit.scale_ = 1.5
    fit.save(tmp_path / "layer")
    again = RegionalProjection.load(tmp_path / "layer")
    assert torch.equal(again.Lambda_, fit.Lambda_) and again.scale_ == 1.5
    assert torch.equal(again.frame.directions, case.frame.directions)
    assert torch.equal(again.frame.priors, case.frame.priors)
    assert again.frame.kappa == case.frame.kappa and again.stats_ == fit.stats_
    for name in ("alpha", "include_self", "pairs", "max_evals", "tol", "random_state"):
        assert getattr(again, name) == getattr(fit, name), name
    assert torch.equal(again.transform(case.data.F), fit.transform(case.data.F))
    # How it was computed is known, and how the next fit is computed is this machine's affair.
    assert again.stats_.backend == "reference" and again.backend == "auto"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"F": torch.rand(4, 6)}, r"F must be \[N, R, K\]"),
        ({"w": torch.rand(4, 5)}, r"w must be \[4, 6\]"),
        ({"P": torch.rand(4, 3)}, r"P must be \[4, 4\]"),
        ({"g": torch.rand(4, 2)}, r"g must be \[4, 3\]"),
        ({"F": torch.rand(4, 6, 2)}, "K = 2 channels, fewer than the dim = 3"),
        ({"F": torch.ones(4, 6, 10)}, "all alike|are alike"),
        ({"F": torch.full((4, 6, 10), torch.nan)}, "image 0 is not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    case: Case, changed: dict[str, Tensor], message: str
) -> None:
    inputs = {"F": case.data.F[:4], "w": case.w[:4], "P": case.P[:4, :4], "g": case.g[:4]}
    with pytest.raises(ValueError, match=message):
        RegionalProjection(case.frame).fit(**(inputs | changed))


@pytest.mark.parametrize(("argument", "value"), [("alpha", -0.1), ("pairs", 0)])
def test_wrong_arguments_are_named(case: Case, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        RegionalProjection(case.frame, **{argument: value})  # type: ignore[arg-type]


def test_features_of_another_width_are_refused(fitted: RegionalProjection) -> None:
    with pytest.raises(ValueError, match="K = 10"):
        fitted.transform(torch.rand(2, 3, 4))
