"""What people know from scikit-learn and NumPy holds for everything that is fitted."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import emergence_ext as ee
from emergence_ext.store import NotFittedError
from tests.planted import feature_set

FEATURES = feature_set(1.0)
LAYER = next(iter(FEATURES.layers))
PCA = ee.method.PCA(2).fit(FEATURES.f)


@pytest.fixture(scope="module")
def samples() -> ee.SampleProjection:
    return ee.SampleProjection(max_rounds=4).fit(FEATURES.f, FEATURES.z)


def _estimators(frame: ee.Frame) -> list[Any]:
    return [
        ee.SampleProjection(temperature=2.0),
        ee.RegionImportance(max_evals=2),
        ee.RegionalProjection(frame, alpha=0.5),
    ]


def test_parameters_are_got_and_set_as_scikit_learn_does(samples: ee.SampleProjection) -> None:
    base = pytest.importorskip("sklearn.base")
    for estimator in _estimators(samples.frame_):
        copy = base.clone(estimator)
        assert copy is not estimator and type(copy) is type(estimator)
        if not isinstance(estimator, ee.RegionalProjection):  # whose frame is copied, too
            assert copy.get_params() == estimator.get_params()
    changed = ee.SampleProjection().set_params(temperature=4.0, dim=2)
    assert (changed.temperature, changed.dim) == (4.0, 2)
    with pytest.raises(ValueError, match="temperature: expected above 0"):
        changed.set_params(temperature=0.0)
    with pytest.raises(ValueError, match=r"has no 'temprature'; it has dim, temperature"):
        changed.set_params(temprature=1.0)


def test_what_was_learned_outlives_a_change_of_parameters(samples: ee.SampleProjection) -> None:
    M = samples.M_
    assert samples.set_params(tol=samples.tol).M_ is M


def test_what_is_not_fitted_says_so(samples: ee.SampleProjection, tmp_path: Path) -> None:
    for estimator in _estimators(samples.frame_):
        assert repr(estimator).endswith(", not fitted")
        assert not hasattr(estimator, "stats_")
        for use in (lambda e=estimator: e.stats_, lambda e=estimator: e.save(tmp_path / "x")):
            with pytest.raises(NotFittedError, match=r"has no \w+_ yet: call fit"):
                use()
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            _ = estimator.colour
    with pytest.raises(NotFittedError, match="SampleProjection has no M_ yet"):
        ee.SampleProjection().transform(FEATURES.f)


def test_results_say_in_a_line_what_they_hold(samples: ee.SampleProjection, tmp_path: Path) -> None:
    samples.save(tmp_path / "samples")
    loaded = ee.SampleProjection.load(tmp_path / "samples")
    assert "kappa=ExactKappa(dim=3, " in repr(loaded) and "function" not in repr(loaded)
    images = ee.data.ArraySamples(torch.rand(2, 3, 4, 4), [0, 1], ["cat", "dog"])
    assert repr(images) == "ArraySamples of 2 images in 2 categories: cat, dog"
    assert "temperature=2" in repr(ee.SampleProjection(temperature=2.0))
    fitted = repr(samples)
    assert "max_rounds=4" in fitted and "fitted: loss" in fitted
    h = torch.zeros(60, 4, 3)
    points = ee.knowledge_points(h, samples.frame_, FEATURES.y)
    for thing in (FEATURES, samples, samples.frame_, points):
        assert len(repr(thing)) < 600 and "\n" not in repr(thing)
    N, E = FEATURES.f.shape
    assert f"f=[{N}, {E}] float32" in repr(FEATURES) and f"... {N} in all" in repr(FEATURES)


def test_arrays_of_numpy_in_arrays_out(samples: ee.SampleProjection) -> None:
    f, z = FEATURES.f.numpy(), FEATURES.z.numpy()
    mine = ee.SampleProjection(max_rounds=4).fit(f, z)  # type: ignore[arg-type]
    assert torch.equal(mine.M_, samples.M_)
    g = mine.transform(f)  # type: ignore[arg-type]
    assert isinstance(g, np.ndarray)
    assert np.array_equal(g, samples.transform(FEATURES.f).numpy())
    assert isinstance(samples.transform(FEATURES.f), torch.Tensor)
    kappa_p = ee.solve_kappa_p(z)  # type: ignore[arg-type]
    P = ee.image_similarity(z, kappa_p)  # type: ignore[arg-type]
    assert isinstance(P, np.ndarray)
    F = FEATURES.layers[LAYER].numpy()
    importance = ee.RegionImportance(max_evals=2).fit(F, P)  # type: ignore[arg-type]
    regions = ee.RegionalProjection(samples.frame_, max_evals=2)
    h = regions.fit(F, importance.w_, P, g).transform(F)  # type: ignore[arg-type]
    assert isinstance(h, np.ndarray)
    points = ee.knowledge_points(h, samples.frame_, FEATURES.y.numpy())  # type: ignore[arg-type]
    assert points.count().images == len(f)


@pytest.mark.parametrize("kind", ["big-endian", "read-only", "strided", "float64"])
def test_any_array_of_numpy_will_do(kind: str, samples: ee.SampleProjection) -> None:
    f = FEATURES.f.numpy()
    if kind == "big-endian":
        f = f.astype(">f4")
    elif kind == "read-only":
        f = f.copy()
        f.flags.writeable = False
    elif kind == "strided":
        f = np.repeat(f, 2, axis=1)[:, ::2]
    else:
        f = f.astype(np.float64)
    g = samples.transform(f)  # type: ignore[arg-type]
    np.testing.assert_allclose(g, samples.transform(FEATURES.f).numpy(), rtol=1e-5, atol=1e-5)


def test_fit_transform_is_both(samples: ee.SampleProjection) -> None:
    g = ee.SampleProjection(max_rounds=4).fit_transform(FEATURES.f, FEATURES.z)
    assert torch.equal(g, samples.transform(FEATURES.f))


def test_features_in_place_of_logits_are_noticed(
    samples: ee.SampleProjection, caplog: pytest.LogCaptureFixture
) -> None:
    wide = FEATURES.f.repeat(1, 3).relu()  # as behind a ReLU, and wider than the logits
    samples.refit(FEATURES.f, FEATURES.z)
    assert "wrong way round" not in caplog.text
    with suppress(ValueError):  # such a fit may collapse; what matters is that it was told why
        ee.SampleProjection(max_rounds=1).fit(FEATURES.z, wide)
    assert "It is fit(f, z)" in caplog.text


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (None, "f: expected a tensor or an array of numbers, got NoneType"),
        ("photos", "f: expected a tensor or an array"),
        ([[1.0], [1.0, 2.0]], "f: expected an array of numbers in rows of one length"),
        (np.array([["a"]]), "f: expected .* got ndarray of <U1"),
        (FEATURES.f.to("meta"), "f: it is on the meta device"),
        (FEATURES.f.to_sparse(), "f: it is sparse"),
        (FEATURES.f.to(torch.complex64), "f: expected real numbers, got torch.complex64"),
    ],
)
def test_what_holds_no_numbers_is_named(f: Any, message: str, samples: ee.SampleProjection) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        samples.transform(f)
    with pytest.raises((ValueError, TypeError), match=message):
        ee.SampleProjection().fit(f, FEATURES.z)


def test_lists_are_arrays(samples: ee.SampleProjection) -> None:
    g = samples.transform(FEATURES.f[:2].tolist())
    assert isinstance(g, np.ndarray)
    np.testing.assert_allclose(g, samples.transform(FEATURES.f[:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ee.SampleProjection(dim="3"), "dim: expected a whole number, got '3'"),
        (lambda: ee.RegionImportance(max_evals=0), "max_evals: expected at least 1, got 0"),
        (lambda: ee.RegionalProjection(None), "frame: expected a Frame, .* got NoneType"),
        (lambda: ee.Frame(torch.ones(2), torch.eye(3), ee.ExactKappa(3)), "frame: expected priors"),
        (lambda: ee.Frame(torch.ones(3), torch.eye(3), ee.ExactKappa(2)), "frame: .* a kappa of"),
        (
            lambda: ee.image_similarity(FEATURES.z, -1.0),
            "kappa_p must be a finite number",
        ),
        (lambda: ee.method.PCA(dim=99).fit(FEATURES.f), "f must be .*, E at least dim = 99"),
        (lambda: ee.method.PCA(2).transform(FEATURES.f), "PCA has no components_ yet: call fit"),
        (lambda: PCA.transform(FEATURES.z), r"f must be \[N, E = 12\], got \(60, 4\)"),
        (lambda: ee.method.Manifold("LLE", neighbours="9"), "neighbours: expected a whole number"),
        (lambda: ee.SampleProjection(temperature="1"), "temperature: expected a number, got '1'"),
        (lambda: ee.SampleProjection(temperature=math.nan), "temperature: expected above 0"),
        (lambda: ee.SampleProjection(strength_prior=-1.0), "strength_prior: expected at least 0"),
        (lambda: ee.SampleProjection(max_rounds=0), "max_rounds: expected at least 1, got 0"),
        (lambda: ee.SampleProjection(random_state="1"), "random_state: expected a whole number"),
        (lambda: ee.SampleProjection(kappa=3), "kappa: expected what makes one of dim"),
        (lambda: ee.RegionImportance(kappa_tilde=-3.0), "kappa_tilde: expected above 0, got -3.0"),
        (lambda: ee.RegionImportance(pairs=0), "pairs: expected at least 1, got 0"),
        (lambda: ee.RegionImportance(pairs="3"), "pairs: expected a whole number, got '3'"),
        (lambda: ee.RegionImportance(rate="a"), "rate: expected a number, got 'a'"),
        (lambda: ee.RegionImportance().fit(torch.ones(4, 2, 3), None), "P: expected a tensor"),
        (lambda: ee.image_similarity(FEATURES.z, math.inf), "kappa_p must be a finite number"),
        (lambda: ee.ExactKappa(3, sigma="1"), "sigma: expected a positive finite number, got '1'"),
        (lambda: ee.ExactKappa(3, base="1"), "base: expected a positive concentration .* got '1'"),
        (lambda: ee.MonteCarloKappa(3, samples="5"), "samples: expected a whole number, got '5'"),
        (lambda: ee.method.usual_tau(0), "C: expected at least 1, got 0"),
        (lambda: ee.method.check_tau("0.4", 10), "tau: expected a number, got '0.4'"),
        (lambda: ee.method.proportion(5, 3), "part: expected at most the whole, 3, got 5"),
        (lambda: ee.method.proportion(0, 0), "whole: expected at least 1, got 0"),
        (lambda: ee.method.entropy(FEATURES.z[0]), r"z must be \[N, C\], got \(4,\)"),
        (lambda: ee.method.entropy(FEATURES.z, 0), "temperature: expected above 0, got 0"),
        (lambda: ee.method.stratified_folds(FEATURES.y, "3"), "folds: expected a whole number"),
        (
            lambda: ee.method.similarity_with(FEATURES.z, FEATURES.z[:, :2], 4.0),
            r"z and others must be .* got \(60, 4\) and \(60, 2\)",
        ),
        (lambda: ee.method.similarity_with(FEATURES.z, FEATURES.z, "4"), "kappa_p must be"),
        (
            lambda: ee.method.bootstrap_ratio(torch.ones(4), torch.ones(5)),
            r"part and whole must be \[N\], got \(4,\) and \(5,\)",
        ),
        (lambda: ee.method.point_count(torch.ones(2, 4)), r"per_image must be \[3, N\]"),
        (
            lambda: ee.method.distance_from_mean(FEATURES.f, FEATURES.z),
            r"x and fitted must be .* got \(60, 12\) and \(60, 4\)",
        ),
        (
            lambda: ee.method.learning([torch.ones(3, dtype=torch.bool)], [1]),
            r"reliable: expected bool \[N, R\] .* got torch.bool \[3\]",
        ),
    ],
)
def test_parameters_of_another_kind_are_named(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


THIRDS, AXES = torch.ones(3) / 3, torch.eye(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"priors": torch.ones(3)}, "priors: .* sum to 1, got a sum of 3"),
        ({"priors": torch.tensor([1.5, -0.5, 0.0])}, "priors: .* a least of -0.5"),
        ({"priors": torch.full((3,), torch.nan)}, "priors: .* a sum of nan"),
        ({"priors": None}, "priors: expected a tensor or an array of numbers, got NoneType"),
        ({"directions": 2 * AXES}, "directions: .* row 0 has 2"),
        ({"directions": torch.diag(torch.tensor([1.0, 0.0, 1.0]))}, "directions: .* row 1 has 0"),
        ({"directions": torch.ones(3)}, "frame: expected priors"),
        ({"priors": torch.tensor(1.0), "directions": torch.tensor(1.0)}, "frame: expected priors"),
        ({"kappa": 5.0}, "frame: .* and 5.0"),
        ({"kappa_p": -1.0}, "kappa_p: expected at least 0, got -1.0"),
        ({"kappa_p": "4"}, "kappa_p: expected a number, got '4'"),
    ],
)
def test_a_frame_of_what_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    given = {"priors": THIRDS, "directions": AXES, "kappa": ee.ExactKappa(3), **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        ee.Frame(**given)


def test_a_frame_takes_arrays_and_lists_and_reads_them() -> None:
    frame, g = ee.Frame(THIRDS, AXES, ee.ExactKappa(3)), torch.tensor([[4, 0, 0], [0, 2, 1]])
    like = ee.Frame(THIRDS.tolist(), AXES.numpy(), ee.ExactKappa(3))  # type: ignore[arg-type]
    torch.testing.assert_close(like.posterior(g.float()), frame.posterior(g.float()))
    for given in (g.numpy(), g.float().numpy(), g.tolist()):
        p = frame.posterior(given)  # type: ignore[arg-type]
        assert isinstance(p, np.ndarray) and np.allclose(p, frame.posterior(g.float()), atol=1e-6)
    with pytest.raises(ValueError, match="g must end in dim = 3"):
        frame.posterior(torch.tensor(1.0))


def test_a_start_of_another_fit_is_refused(samples: ee.SampleProjection) -> None:
    f, z, F = FEATURES.f, FEATURES.z, FEATURES.layers[LAYER]
    w, g, P = (
        F.new_ones(F.shape[:2]) / F.shape[1],
        samples.transform(f),
        ee.image_similarity(z, 4.0),
    )
    regions = ee.RegionalProjection(samples.frame_, max_evals=1).fit(F, w, P, g)
    for start, told in ((regions, "RegionalProjection"), (samples.M_, "Tensor")):
        with pytest.raises(TypeError, match=f"init: expected SampleProjection, got {told}"):
            ee.SampleProjection().fit(f, z, init=start)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="init: expected RegionalProjection, got SampleProj"):
        regions.fit(F, w, P, g, init=samples)  # type: ignore[arg-type]
    for dim, width, C in ((2, None, None), (3, 4, None), (3, None, 3)):
        with pytest.raises(ValueError, match=f"init: expected one of dim = {dim}, E = .* leave it"):
            ee.SampleProjection(dim=dim).fit(f[:, :width], z[:, :C], init=samples)
    with pytest.raises(ValueError, match=r"init: expected one from K = \d+ channels to dim = 3"):
        regions.fit(F[..., 1:], w, P, g, init=regions)


def test_whole_numbers_have_no_whole_numbers_for_results() -> None:
    x, y = [1, 2, 3, 4], [1, 3, 2, 5]
    for r in (ee.method.pearson(torch.tensor(x), torch.tensor(y)), ee.method.pearson(x, y)):  # type: ignore[arg-type]
        assert float(r) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert float(ee.method.spearman(x, y)) == pytest.approx(0.8)  # type: ignore[arg-type]
    logits = torch.tensor([[0, 0], [9, 0]])
    torch.testing.assert_close(ee.method.entropy(logits), ee.method.entropy(logits.float()))


def test_pairs_of_results_are_arrays_where_arrays_come_in() -> None:
    for given in (np.array([[3.0, 4.0]]), [[3, 4]]):
        strength, orientation = ee.method.polar(given)  # type: ignore[arg-type]
        assert isinstance(strength, np.ndarray) and strength.tolist() == [5.0]
        assert np.allclose(orientation, [[0.6, 0.8]])
    fold = ee.method.stratified_folds(FEATURES.y.numpy(), 3)  # type: ignore[arg-type]
    assert isinstance(fold, np.ndarray) and sorted(set(fold)) == [0, 1, 2]
    reliable = np.ones((2, 3), dtype=bool)
    assert ee.method.learning([reliable, reliable], [1, 2]).epoch.tolist() == [1, 1]  # type: ignore[list-item]


def test_what_cannot_be_fitted_is_named_by_the_argument(samples: ee.SampleProjection) -> None:
    F, P = FEATURES.layers[LAYER], ee.image_similarity(FEATURES.z, 4.0)
    w, g = F.new_ones(F.shape[:2]) / F.shape[1], samples.transform(FEATURES.f)
    regions = ee.RegionalProjection(samples.frame_, max_evals=1)
    with pytest.raises(ValueError, match="w: image 0 is not finite"):
        regions.fit(F, w * torch.nan, P, g)
    with pytest.raises(ValueError, match="g: image 0 is not finite"):
        regions.fit(F, w, P, g * torch.nan)
    for left_out, told in (
        (torch.tensor([99]), r"left_out: expected indices of 60 images, .* with 99"),
        (torch.tensor([1.0]), "left_out: expected indices of images, got torch.float32"),
        (torch.arange(60), "left_out: 60 of 60 images leave none to learn from"),
    ):
        with pytest.raises((ValueError, TypeError), match=told):
            regions.fit(F, w, P, g, left_out=left_out)


def test_layers_without_features_are_named(samples: ee.SampleProjection) -> None:
    F, P = FEATURES.layers[LAYER], ee.image_similarity(FEATURES.z, 4.0)
    w, g = F.new_ones(F.shape[:2]) / F.shape[1], samples.transform(FEATURES.f)
    regions = ee.RegionalProjection(samples.frame_, max_evals=1).fit(F, w, P, g)
    normalise = ee.method.normalise_strengths
    with pytest.raises(TypeError, match="projections: expected Mapping, got list"):
        normalise([regions], [F])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"both of the same layers, got \['a'\] and \['b'\]"):
        normalise({"a": regions}, {"b": F})
    with pytest.raises(ValueError, match="both of the same layers"):
        normalise({}, {})
    with pytest.raises(ValueError, match="to must be one of last layer, own mean, got 'last'"):
        normalise({"a": regions}, {"a": F}, "last")  # type: ignore[arg-type]
    normalise({"a": regions}, {"a": F.numpy()}, "own mean")  # type: ignore[dict-item]
    assert float(regions.transform(F).norm(dim=-1).mean()) == pytest.approx(1, abs=1e-5)


def test_points_are_read_in_a_frame_of_finite_features(samples: ee.SampleProjection) -> None:
    h, y = torch.ones(2, 3, 3), torch.tensor([0, 1])
    for call in (ee.knowledge_points, lambda h, frame, _: ee.method.shared_categories(h, frame)):
        with pytest.raises(TypeError, match="frame: expected Frame, got SampleProjection"):
            call(h, samples, y)
    with pytest.raises(ValueError, match="h: image 1 is not finite"):
        ee.knowledge_points(h * torch.tensor([1, torch.inf])[:, None, None], samples.frame_, y)
    with pytest.raises(TypeError, match="labels: expected whole numbers, got"):
        ee.knowledge_points(h, samples.frame_, y + 0.5)
    with pytest.raises(ValueError, match=r"h must be \[N, R, dim\], got \(3,\)"):
        ee.method.shared_categories(h[0, 0], samples.frame_)
    with pytest.raises(TypeError, match="taus: expected Iterable, got float"):
        ee.knowledge_points(h, samples.frame_, y).curve(0.4)  # type: ignore[arg-type]
