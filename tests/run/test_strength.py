"""Strength against uncertainty and importance, on images that no projection was fitted to."""

from pathlib import Path

import pytest
import torch

from emergence_ext.method.baselines import PCA
from emergence_ext.method.correlation import entropy, pearson, stratified_folds
from emergence_ext.method.regional import RegionalProjection
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import image_similarity
from emergence_ext.run.strength import StrengthEntropy, importance_strength, strength_entropy
from emergence_ext.settings import Settings
from tests.planted import planted

DATA = planted(90, 3)
# What varies most in these features is nothing to the network.
BESIDE = 2 * torch.rand(90, 2, generator=torch.Generator().manual_seed(1))
F_SAMPLES = torch.cat([DATA.f, BESIDE], dim=1)


@pytest.fixture(scope="module")
def result() -> StrengthEntropy:
    found = strength_entropy(F_SAMPLES, DATA.z, DATA.y, [2.0], folds=3)[2.0]
    assert isinstance(found, StrengthEntropy)
    return found


def test_longer_features_are_surer_and_the_projection_is_ahead_of_pca(
    result: StrengthEntropy,
) -> None:
    assert result.r < -0.6 and result.fitted_r < -0.6
    assert result.r < result.pca_r - 0.2 and result.fitted_r < result.pca_fitted_r - 0.2
    assert result.mean_cosine < 0.5


def test_every_strength_is_that_of_an_image_that_was_left_out(result: StrengthEntropy) -> None:
    fold, fitted = stratified_folds(DATA.y, 3, 0), []
    for k in range(3):
        out, kept = fold == k, fold != k
        fit = SampleProjection(temperature=2.0).fit(F_SAMPLES[kept], DATA.z[kept])
        expected = fit.transform(F_SAMPLES[out]).norm(dim=1)
        torch.testing.assert_close(result.strength[out], expected)
        pca = PCA(3).fit(F_SAMPLES[kept]).transform(F_SAMPLES[out]).norm(dim=1)
        torch.testing.assert_close(result.pca_strength[out], pca)
        fitted.append(pearson(fit.transform(F_SAMPLES[kept]).norm(dim=1), result.entropy[kept]))
    assert result.fitted_r == pytest.approx(float(torch.stack(fitted).mean()), abs=1e-5)


def test_what_is_told_is_what_is_kept(result: StrengthEntropy) -> None:
    assert torch.equal(result.entropy, entropy(DATA.z, 2.0))
    assert result.mean_entropy == pytest.approx(float(entropy(DATA.z, 2.0).mean()))
    assert result.r == pytest.approx(float(pearson(result.strength, result.entropy)))
    assert result.temperature == 2.0


def test_the_projection_can_be_chosen() -> None:
    widths = []

    def make(temperature: float) -> SampleProjection:
        widths.append(temperature)
        return SampleProjection(dim=2, temperature=temperature, max_rounds=2)

    found = strength_entropy(DATA.f, DATA.z, DATA.y, [3.0, 1.0], make=make, folds=2)
    assert widths == [3.0, 3.0, 1.0, 1.0] and list(found) == [3.0, 1.0]


def test_what_cannot_be_fitted_says_why_beside_what_can() -> None:
    def make(temperature: float) -> SampleProjection:
        if temperature == 3:
            raise ValueError("no such fit")
        return SampleProjection(dim=2, temperature=temperature, max_rounds=2)

    found = strength_entropy(DATA.f, DATA.z, DATA.y, [1.0, 3.0], make=make, folds=2)
    assert isinstance(found[1.0], StrengthEntropy) and found[3.0] == "no such fit"


def test_too_few_images_for_the_folds_are_an_error() -> None:
    with pytest.raises(ValueError, match="folds must be between 2 and the number of samples 4"):
        strength_entropy(DATA.f[:4], DATA.z[:4], DATA.y[:4], [1.0])


def test_strength_of_regions_is_compared_for_every_alpha_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = planted(24, 3)
    samples = SampleProjection().fit(data.f, data.z)
    g, P = samples.transform(data.f), image_similarity(data.z, 8.0)
    w = torch.softmax(4 * data.F.norm(dim=-1), dim=1)

    def study() -> list[tuple[float, list[float]]]:
        found = importance_strength(
            data.F,
            w,
            P,
            g,
            samples.frame_,
            (0.1, 10.0),
            settings=Settings(regional_evals=10),
            folder=tmp_path,
        )
        for x in found:
            torch.testing.assert_close(x.raw_r, pearson(data.F.norm(dim=-1), w))
            h = x.projection.transform(data.F)
            torch.testing.assert_close(x.r, pearson(h.norm(dim=-1), w))
            assert x.projection.alpha == x.alpha
        return [(x.alpha, x.r.tolist()) for x in found]

    first = study()
    assert [alpha for alpha, _ in first] == [0.1, 10.0]
    assert first[0][1] != first[1][1]

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a fit that was kept is made again")

    monkeypatch.setattr(RegionalProjection, "fit", refuse)
    assert study() == first
