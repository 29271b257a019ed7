"""Tables of a run: every number is of the images, layer and checkpoint that its row names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats

from emergence_ext.method import ExactKappa, Frame, shared_categories
from emergence_ext.method.frame import unit_rows
from emergence_ext.report import learning
from emergence_ext.report.emergence import (
    correlations,
    images,
    importance_rows,
    knowledge_rows,
    similarity,
)
from emergence_ext.run import Checkpoint, Emergence, Settings, emergence
from emergence_ext.run.strength import StrengthEntropy, strength_entropy
from tests.planted import feature_set


@pytest.fixture(scope="module")
def results() -> Emergence:
    settings = Settings(region_images=12, importance_evals=2, regional_evals=5)
    sets = [feature_set(share, 32) for share in (0.3, 1.0)]
    return emergence(
        [Checkpoint(f"epoch {t}", t, lambda kept=kept: kept) for t, kept in enumerate(sets)],  # type: ignore[misc]
        settings,
    )


def test_the_images_that_deserve_a_look_come_first(results: Emergence) -> None:
    rows = images(results)
    assert {row["image"] for row in rows} == set(results.names)
    wrong = [row["category"] != row["network says"] for row in rows]
    unsure = [row["entropy (nats)"] for row in rows]
    count = sum(wrong)
    assert wrong == [True] * count + [False] * (len(rows) - count) and 0 < count < len(rows)
    assert unsure[:count] == sorted(unsure[:count])
    assert unsure[count:] == sorted(unsure[count:], reverse=True)


def test_points_are_counted_apart_on_held_out_and_fitted_images(results: Emergence) -> None:
    rows = knowledge_rows(results)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        t, k = results.labels.index(row["checkpoint"]), results.layers.index(row["layer"])
        mask = results.held_out if row["images"] == "held out" else ~results.held_out
        points = results.points(t, k)
        assert row["number of images"] == int(mask.sum())
        assert row["points"] == int(points.point[mask].sum())
        assert row["reliable"] == int(points.reliable[mask].sum())
        assert row["shared by categories"] == int(points.shared()[mask].sum())


def test_the_way_to_the_points_is_of_held_out_images_by_layer(results: Emergence) -> None:
    rows = learning.rows({"network": results})
    assert [row["layer"] for row in rows] == results.layers
    for k, row in enumerate(rows):
        reliable = torch.stack([results.reliable(t, k)[results.held_out] for t in range(2)])
        ever, last = reliable.any(0).sum(1), reliable[-1].sum(1)
        there = ever > 0
        assert row["images with points"] == int(there.sum()) > 0
        kept = (last[there] / ever[there]).mean()
        assert row["share kept to the end"] == pytest.approx(float(kept))
        later = reliable[1].sum(1) > reliable[0].sum(1)
        mean = row["epoch of most points, mean"]
        assert mean == pytest.approx(float(later[there].float().mean()))
    assert len(learning.figure({"network": results}).axes) == 3


def test_pairs_of_categories_are_ranked_and_share_regions_of_held_out_images(
    results: Emergence,
) -> None:
    # Regions between the directions of two categories, so that there is something to share.
    mu = unit_rows(torch.tensor([[1.0, 1, 1], [1, -1, -1.5], [-1, 1, -1], [-1, -1.2, 1]]))
    frame, h = Frame(torch.full((4,), 0.25), mu, ExactKappa(3)), results.h.clone()
    held_out = results.held_out.nonzero().flatten()
    fitted = (~results.held_out).nonzero().flatten()
    h[-1, -1, :, :] = 0
    h[-1, -1, held_out[:3], 0] = 9 * (mu[0] + mu[2])
    h[-1, -1, fitted, 1] = 9 * (mu[1] + mu[3])
    planted = replace(results, h=h, frame=frame)
    shared = shared_categories(h[-1, -1, held_out], frame, results.tau)
    assert int((shared[..., 0] >= 0).sum()) == 3
    rows = similarity(planted)
    assert len(rows) == 6
    cosines = [row["cosine"] for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    for row in rows:
        a, b = (results.categories.index(row[name]) for name in ("category", "and"))
        assert row["cosine"] == pytest.approx(float(mu[a] @ mu[b]))
        pair = (shared == torch.tensor([a, b])).all(-1)
        assert row["regions that both share"] == int(pair.sum())


def test_importance_is_that_of_the_finished_network(results: Emergence) -> None:
    for k, row in enumerate(importance_rows(results, 0.1)):
        w = results.w[-1, k].double()
        h = results.h[-1, k, results.region_images].norm(dim=-1)
        for name, strength in (("|h|", h), ("|F|", results.raw_strength[-1, k])):
            pairs = zip(strength, w, strict=True)
            r = torch.tensor([stats.pearsonr(x, y)[0] for x, y in pairs])
            mean = row[f"Pearson of {name} with w, mean"]
            assert mean == pytest.approx(float(r.nanmean()), abs=1e-5)
        assert (row["layer"], row["alpha"], row["images"]) == (results.layers[k], 0.1, 12)


def test_images_are_listed_as_the_finished_network_sees_them(results: Emergence) -> None:
    p = results.z[-1].double().softmax(1)
    points = results.points(-1, -1)
    for row in images(results):
        i = results.names.index(row["image"])
        assert row["category"] == results.categories[int(results.y[i])]
        assert row["network says"] == results.categories[int(p[i].argmax())]
        assert (row["held out"] == "yes") == bool(results.held_out[i])
        assert row["strength |g|"] == pytest.approx(float(results.g[-1, i].norm()))
        assert row["entropy (nats)"] == pytest.approx(-float((p[i] * p[i].log()).sum()), abs=1e-5)
        assert row["knowledge points"] == int(points.point[i].sum())
        assert row["reliable"] == int(points.reliable[i].sum())


def test_correlations_tell_left_out_and_fitted_images_apart() -> None:
    features = feature_set(1.0, 40)
    strength = strength_entropy(features.f, features.z, features.y, [2.0], folds=2)[2.0]
    assert isinstance(strength, StrengthEntropy)
    (row,) = correlations([strength])
    assert row["Pearson, |g| (left-out images)"] == strength.r != strength.fitted_r
    assert row["Pearson, |g| (fitted images)"] == strength.fitted_r
    assert row["Pearson, PCA (left-out images)"] == strength.pca_r
    assert row["Pearson, PCA (fitted images)"] == strength.pca_fitted_r
    assert (row["temperature"], row["images"]) == (2.0, 40)
