"""The Mind's Eye: groups of images and what stands for each."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from emergence_ext.mindseye import find_facets, minds_eye
from emergence_ext.mindseye.facets import facet_weights, pooled
from tests.render.test_render import Net


def test_planted_facets_are_found_and_their_members_are_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(70, 30, generator=generator)
    rows[:40] += 12 * torch.eye(30)[0]
    rows[40:] += 12 * torch.eye(30)[1]
    before = torch.get_rng_state()
    found = find_facets(rows, 2, random_state=1)
    assert torch.equal(found.labels, torch.arange(70).ge(40).long())  # the larger one first
    for c, facet in enumerate(found.facets):
        assert len(facet.members) == 10 and (found.labels[facet.members] == c).all()
        away = (found.points[facet.members] - found.centres[c]).norm(dim=1)
        torch.testing.assert_close(facet.distances, away)
        assert (facet.distances.diff() >= 0).all() and (facet.weights.diff() <= 0).all()
        assert abs(float(facet.weights.sum()) - 1) < 1e-6
        others = (found.points[found.labels == c] - found.centres[c]).norm(dim=1)
        torch.testing.assert_close(facet.distances, others.sort().values[:10])
    again = find_facets(rows, 2, random_state=1)
    assert torch.equal(found.points, again.points)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_nearly_even_and_never_one_hot() -> None:
    even = facet_weights(torch.linspace(3, 9, 10))
    assert even.max() / even.min() < 1.3
    one = facet_weights(torch.tensor([1e-12, 4.0, 4.0, 5.0], dtype=torch.float64))
    expected = torch.tensor([2, 0.25, 0.25, 0.2], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_few_images_make_facets_of_what_there_is(count: int) -> None:
    rows = torch.randn(count, 7, generator=torch.Generator().manual_seed(count))
    found = find_facets(rows, 1)
    assert len(found.facets[0].members) == min(count, 10) and found.points.isfinite().all()
    each = find_facets(rows, count)
    assert sorted(int(f.members[0]) for f in each.facets) == list(range(count))
    with pytest.raises(ValueError, match=rf"at most {count}, .* got {count + 1}"):
        find_facets(rows, count + 1)


def test_constant_activations_are_one_facet_and_no_more() -> None:
    rows = torch.ones(12, 5)
    found = find_facets(rows, 1)
    assert (found.points == 0).all()
    torch.testing.assert_close(found.facets[0].weights, torch.full((10,), 0.1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"at most 1, .* \(12 are given\), got 2"):
        find_facets(rows, 2)
    with pytest.raises(ValueError, match="at most 1"):
        find_facets(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]), 2)
    for wrong in (torch.full((3, 2), torch.nan), torch.ones(3)):
        with pytest.raises(ValueError, match="activations"):
            find_facets(wrong, 1)


def test_activations_may_be_arrays_of_numpy_or_lists() -> None:
    rows = torch.tensor([[10.0, 0, 0], [-10, 0, 0], [0, 5, 1], [0, 5, -1]])
    for given in (rows.numpy(), rows.double().numpy(), rows.tolist()):
        assert torch.equal(find_facets(given, 2).labels, find_facets(rows, 2).labels)
    with pytest.raises(TypeError, match="activations: expected a tensor or an array of numbers"):
        find_facets("rows")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="count: expected a whole number, got '2'"):
        find_facets(rows, "2")  # type: ignore[arg-type]


def test_as_many_images_as_facets_are_each_their_own() -> None:
    # In the plane, all that is left of two components, the last two are in one place.
    rows = torch.tensor([[10.0, 0, 0], [-10, 0, 0], [0, 5, 1], [0, 5, -1]])
    found = find_facets(rows, 4)
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert [facet.members.tolist() for facet in found.facets] == [[0], [1], [2], [3]]
    assert torch.equal(found.points, found.centres)


def test_a_facet_without_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.tensor([[0.0, 0], [0, 0], [1, 0], [1, 0], [1, 0]]).double().numpy()
    monkeypatch.setattr("emergence_ext.mindseye.facets._embedded", lambda *_: places)
    assert [len(f.members) for f in find_facets(torch.eye(5), 2).facets] == [3, 2]
    with pytest.raises(ValueError, match=r"at most 2, the number of groups .* 5 images .* got 3"):
        find_facets(torch.eye(5), 3)


def test_images_are_grouped_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(4, 500_000, generator=torch.Generator().manual_seed(0))
    find_facets(rows[:, :9], 2)  # what is imported at the first call does not count
    tracemalloc.start()
    find_facets(rows, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * rows.nbytes  # in float64 it would be twice that
    monkeypatch.setattr("emergence_ext.mindseye.facets.MOST", 13)
    for call in (
        lambda: find_facets(torch.rand(14, 2)),
        lambda: minds_eye(Net(), torch.rand(14, 3, 8, 8), "relu2", top_k=1),
    ):
        with pytest.raises(ValueError, match=r"images: expected at most 13, .* got 14"):
            call()


def test_large_maps_are_pooled_before_they_are_grouped() -> None:
    maps = torch.arange(2 * 28 * 28.0).view(1, 2, 28, 28)
    assert pooled(maps).shape == (1, 2 * 14 * 14)
    assert pooled(maps)[0, 0] == maps[0, 0, :2, :2].mean()
    assert torch.equal(pooled(maps[..., :3, :5]), maps[..., :3, :5].flatten(1))
