"""What people know from scikit-learn and NumPy holds for everything that is fitted."""

from __future__ import annotations

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
    with pytest.raises(ValueError, match="temperature must be positive"):
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
        (lambda: ee.image_similarity(FEATURES.z, -1.0), "kappa_p must be a number, at least 0"),
        (lambda: ee.method.PCA(dim=99).fit(FEATURES.f), "f must be .*, E at least dim = 99"),
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
        ({"kappa_p": -1.0}, "kappa_p: expected a number, at least 0, got -1.0"),
        ({"kappa_p": "4"}, "kappa_p: expected a number, at least 0, got '4'"),
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
