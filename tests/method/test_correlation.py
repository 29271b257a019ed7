"""Correlation, entropy and folds against their definitions."""

import math

import numpy
import pytest
import torch
from scipy import stats

from emergence_ext.method.baselines import PCA
from emergence_ext.method.correlation import entropy, pearson, spearman, stratified_folds

GENERATOR = torch.Generator().manual_seed(0)


def test_pearson_is_the_textbook_value_along_the_last_dimension() -> None:
    x, y = (torch.randn(3, 4, 50, generator=GENERATOR) for _ in range(2))
    y = y + 0.5 * x
    got = pearson(x, y)
    assert got.shape == (3, 4) and got.dtype == torch.float32
    for i in range(3):
        for j in range(4):
            assert float(got[i, j]) == pytest.approx(stats.pearsonr(x[i, j], y[i, j])[0], abs=1e-6)


def test_pearson_does_not_see_units() -> None:
    x, y = (torch.randn(30, generator=GENERATOR) for _ in range(2))
    torch.testing.assert_close(pearson(1e3 * x + 7, -0.1 * y), -pearson(x, y), rtol=1e-4, atol=0)
    assert float(pearson(x, x)) == pytest.approx(1) and float(pearson(x, -x)) == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e8])
@pytest.mark.parametrize("n", [1, 3, 7, 49])
def test_pearson_with_a_constant_is_no_number(value: float, n: int) -> None:
    x = torch.randn(n, generator=GENERATOR)
    constant = torch.full((n,), value)
    assert pearson(x, constant).isnan() and pearson(constant, x).isnan()


def test_spearman_is_the_textbook_value_with_ties_too() -> None:
    x = torch.randn(2, 3, 40, generator=GENERATOR)
    y = (x + torch.randn(2, 3, 40, generator=GENERATOR)).round()
    got = spearman(x, y)
    assert got.shape == (2, 3) and got.dtype == torch.float32
    for i in range(2):
        for j in range(3):
            assert float(got[i, j]) == pytest.approx(stats.spearmanr(x[i, j], y[i, j])[0], abs=1e-6)
    torch.testing.assert_close(spearman(x.exp(), y), got)
    hole = torch.where(torch.arange(40) == 7, torch.nan, x)
    assert spearman(x[0, 0], torch.ones(40)).isnan() and spearman(hole, y).isnan().all()


def test_pearson_of_other_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        pearson(torch.ones(3), torch.ones(4))


def test_entropy_is_in_nats_and_finite_for_any_logits() -> None:
    z = torch.tensor([[0.0, 0, 0, 0], [1e4, 0, 0, 0], [math.log(3), 0, -1e30, -1e30]])
    expected = [math.log(4), 0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert entropy(z).tolist() == pytest.approx(expected, abs=1e-6)
    assert (entropy(z, temperature=4.0) >= entropy(z) - 1e-6).all()


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_hold_as_many_of_every_category(folds: int) -> None:
    y = torch.tensor([0] * 23 + [1] * 40 + [2] * 11)[torch.randperm(74, generator=GENERATOR)]
    fold = stratified_folds(y, folds, 3)
    assert fold.unique().tolist() == list(range(folds))
    for category in range(3):
        counts = torch.bincount(fold[y == category], minlength=folds)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(fold, stratified_folds(y, folds, 3))
    assert not torch.equal(fold, stratified_folds(y, folds, 4))


@pytest.mark.parametrize("folds", [0, 1, 6])
def test_folds_that_cannot_be_made_are_refused(folds: int) -> None:
    with pytest.raises(ValueError, match="between 2 and the number of samples 5"):
        stratified_folds(torch.zeros(5, dtype=torch.int64), folds)


def test_principal_components_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    f = torch.randn(40, 6, generator=GENERATOR) @ torch.diag(torch.arange(1.0, 7))
    ours = PCA(3).fit(f).transform(f).numpy()
    theirs = decomposition.PCA(3).fit(f.numpy()).transform(f.numpy())
    signs = numpy.sign((ours * theirs).sum(0))
    numpy.testing.assert_allclose(ours * signs, theirs, atol=1e-4)


def test_pairs_that_do_not_count_change_no_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 9, generator=generator)
    where = torch.rand(5, 9, generator=generator) < 0.6
    where[0] = False
    where[0, [2, 5]] = True
    x[0, [2, 5]] = 1.0  # constant where it counts
    found = pearson(x.masked_fill(~where, torch.nan), y.masked_fill(~where, 7.0), where)
    assert found[0].isnan()
    for row in range(1, 5):
        alone = pearson(x[row, where[row]], y[row, where[row]])
        torch.testing.assert_close(found[row], alone)
