"""What the sample projection is compared with: definitions, and scikit-learn in one form."""

from __future__ import annotations

import sys

import pytest
import torch

from emergence_ext.method.baselines import MANIFOLDS, PCA, Manifold, distance_from_mean
from tests.planted import planted

DATA = planted(60, 3)
GENERATOR = torch.Generator().manual_seed(0)


def test_whitened_components_vary_alike_and_are_the_same_directions() -> None:
    plain, white = PCA(3).fit(DATA.f), PCA(3, whiten=True).fit(DATA.f)
    torch.testing.assert_close(white.transform(DATA.f).std(0), torch.ones(3))
    spread = plain.transform(DATA.f).std(0)
    torch.testing.assert_close(white.transform(DATA.f) * spread, plain.transform(DATA.f))


def test_standardised_components_do_not_see_the_units_of_channels() -> None:
    units = torch.logspace(-2, 2, DATA.f.shape[1])
    plain = PCA(3, standardise=True).fit(DATA.f).transform(DATA.f)
    scaled = PCA(3, standardise=True).fit(DATA.f * units).transform(DATA.f * units)
    torch.testing.assert_close(scaled.abs(), plain.abs(), rtol=1e-3, atol=1e-4)
    constant = torch.cat([DATA.f, torch.ones(60, 1)], 1)
    torch.testing.assert_close(
        PCA(3, standardise=True).fit(constant).transform(constant).abs(), plain.abs()
    )


def test_the_distance_is_from_the_mean_of_the_fitted_points() -> None:
    x, fitted = torch.tensor([[4.0, 5.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    assert distance_from_mean(x, fitted).tolist() == [5.0, 0.0]


def test_isomap_keeps_the_distances_of_a_plane_and_maps_what_it_has_not_seen() -> None:
    pytest.importorskip("sklearn")
    plane = 4 * torch.rand(80, 2, generator=GENERATOR)
    frame, _ = torch.linalg.qr(torch.randn(6, 2, generator=GENERATOR))
    f = plane @ frame.t()
    fit = Manifold("Isomap", dim=2, neighbours=12).fit(f[:60])
    distances = torch.cdist(fit.points_, fit.points_)
    torch.testing.assert_close(distances, torch.cdist(plane[:60], plane[:60]), rtol=0.2, atol=0.2)
    new = torch.cdist(fit.transform(f[60:]), fit.points_)
    torch.testing.assert_close(new, torch.cdist(plane[60:], plane[:60]), rtol=0.3, atol=0.3)
    assert fit.pieces_ == 1 and fit.maps_new


@pytest.mark.parametrize("method", ["LLE", "Isomap"])
def test_a_graph_that_falls_into_pieces_is_told(method: str) -> None:
    pytest.importorskip("sklearn")
    two = torch.randn(40, 4, generator=GENERATOR)
    two[20:] += 50
    assert Manifold(method, dim=2, neighbours=5).fit(two).pieces_ == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("method", MANIFOLDS)
def test_a_seed_gives_the_same_points_and_leaves_the_global_state_alone(method: str) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("sklearn")
    state, here = numpy.random.get_state()[1].copy(), torch.random.get_rng_state()
    first, again = (
        Manifold(method, dim=2, neighbours=8, random_state=3).fit(DATA.f).points_  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert first.shape == (60, 2) and torch.equal(first, again)
    assert (numpy.random.get_state()[1] == state).all()
    assert torch.equal(torch.random.get_rng_state(), here)


def test_tsne_says_that_it_maps_no_new_images() -> None:
    pytest.importorskip("sklearn")
    fit = Manifold("t-SNE", dim=2, neighbours=8).fit(DATA.f)
    assert not fit.maps_new
    with pytest.raises(ValueError, match="t-SNE cannot embed images that it was not fitted to"):
        fit.transform(DATA.f)
    other = Manifold("t-SNE", dim=2, neighbours=8, random_state=1).fit(DATA.f)
    assert not torch.allclose(fit.points_, other.points_)


def test_too_many_neighbours_and_other_methods_are_named() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="neighbours = 60 need more images than that, got 60"):
        Manifold("LLE", neighbours=60).fit(DATA.f)
    with pytest.raises(ValueError, match="method must be one of t-SNE, LLE, Isomap, got 'UMAP'"):
        Manifold("UMAP")  # type: ignore[arg-type]


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.manifold"):  # the second may have been imported before
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=r"LLE needs scikit-learn: pip install 'emergence_ext\[studies\]'"
    ):
        Manifold("LLE")
