"""Knowledge points: which regions count, for whom, how often, and how sure the count is."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method.frame import Frame, unit_rows
from emergence_ext.method.intervals import CONFIDENCE, mean_interval, proportion
from emergence_ext.method.knowledge import KnowledgePoints, knowledge_points, shared_categories
from emergence_ext.method.vmf import ExactKappa

# Four categories in the directions of a tetrahedron: all pairs have the same cosine.
DIRECTIONS = unit_rows(torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
FRAME = Frame(torch.ones(4) / 4, DIRECTIONS, ExactKappa(3))


def _points(rows: list[list[tuple[float, int, float]]], y: list[int]) -> KnowledgePoints:
    """From (confidence, category, runner-up) by image and region."""
    x = torch.tensor(rows, dtype=torch.float64)
    return KnowledgePoints(x[..., 0], x[..., 1].long(), x[..., 2], torch.tensor(y))


def _random(N: int = 30, R: int = 8, seed: int = 0) -> KnowledgePoints:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (N,), generator=generator)
    h = torch.randn(N, R, 3, generator=generator) + 1.5 * DIRECTIONS[y][:, None]
    return knowledge_points(h, FRAME, y, tau=0.5)


def test_a_region_is_a_point_where_it_is_surer_than_tau() -> None:
    h = torch.stack(
        [
            torch.stack([5 * DIRECTIONS[2], 0.01 * DIRECTIONS[2], -5 * DIRECTIONS[2]]),
            torch.stack([3 * DIRECTIONS[0], 4 * DIRECTIONS[1], DIRECTIONS[1] + DIRECTIONS[0]]),
        ]
    )
    points = knowledge_points(h, FRAME, torch.tensor([2, 1]), tau=0.5)
    assert points.point.tolist() == [[True, False, False], [True, True, False]]
    assert points.reliable.tolist() == [[True, False, False], [False, True, False]]
    assert points.category[0, 0] == 2 and points.category[1, :2].tolist() == [0, 1]
    p = FRAME.posterior(h).sort(-1, descending=True).values
    torch.testing.assert_close(points.confidence, p[..., 0])
    torch.testing.assert_close(points.runner_up, p[..., 1])


@pytest.mark.parametrize("priors", [[0.25] * 4, [0.97, 0.01, 0.01, 0.01]])
def test_a_region_of_zero_strength_is_never_a_knowledge_point(priors: list[float]) -> None:
    frame = Frame(torch.tensor(priors), DIRECTIONS, ExactKappa(3))
    h = torch.zeros(3, 5, 3)
    h[:, 0] = 1e-30  # squares to 0
    points = knowledge_points(h, frame, torch.tensor([0, 1, 2]), tau=0.25)
    assert not points.point.any() and not points.reliable.any() and not points.shared(1.0).any()


def test_a_region_halfway_between_two_categories_is_shared_by_these_two() -> None:
    halfway = [DIRECTIONS[3] + DIRECTIONS[1], DIRECTIONS[0] + 0.9 * DIRECTIONS[2]]
    h = torch.stack([*(4 * x for x in halfway), 4 * DIRECTIONS[2], 0 * DIRECTIONS[0]])[None]
    shared = shared_categories(h, FRAME, tau=0.4)
    assert shared[0].tolist() == [[1, 3], [-1, -1], [-1, -1], [-1, -1]]
    near = DIRECTIONS[0] + 0.999 * DIRECTIONS[2]
    assert shared_categories(4 * near[None, None], FRAME).tolist() == [[[0, 2]]]
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(30, 8, 3, generator=generator)
    points = knowledge_points(h, FRAME, torch.zeros(30, dtype=torch.int64))
    shared = shared_categories(h, FRAME)
    assert torch.equal(shared[..., 0] >= 0, points.shared()) and points.shared().any()
    own = points.category[points.shared()][:, None]
    assert (shared[points.shared()] == own).sum(1).eq(1).all()


def test_shared_regions_are_points_with_a_second_category_close_behind() -> None:
    points = _points([[(0.48, 0, 0.45), (0.48, 0, 0.30), (0.30, 1, 0.29), (0.5, 2, 0.4)]], [0])
    assert points.shared().tolist() == [[True, False, False, True]]
    assert points.shared(distance=0.05).tolist() == [[True, False, False, False]]
    assert points.shared(distance=0.2).tolist() == [[True, True, False, True]]


def test_a_distance_counts_itself_as_near() -> None:
    points = _points([[(0.75, 0, 0.5), (0.5, 1, 0.25)]], [0])
    assert points.shared(0.25).all() and not points.shared(0.2499).any()


def test_points_and_counts_cannot_be_changed_and_are_counted_from_seed_0() -> None:
    points = _random()
    assert points.count() == points.count(random_state=0)
    for frozen, name in ((points, "tau"), (points.count(), "images")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, 0)


def test_no_images_are_no_points_and_the_last_category_is_one() -> None:
    none = knowledge_points(torch.ones(0, 2, 3), FRAME, torch.zeros(0, dtype=torch.int64))
    assert none.point.shape == (0, 2)
    last = knowledge_points(5 * DIRECTIONS[3].expand(1, 1, 3), FRAME, torch.tensor([3]))
    assert last.reliable.all()


def test_a_region_is_shared_by_two_only_above_tau_with_strength_and_within_a_tenth() -> None:
    h = torch.randn(40, 8, 3, generator=torch.Generator().manual_seed(2))
    h[0] = 0
    p = FRAME.posterior(h).sort(-1, descending=True)
    for tau in (0.3, 0.42):
        first, second = p.values[..., 0], p.values[..., 1]
        expected = (first > tau) & (first - second <= 0.1) & (h != 0).any(-1)
        assert 0 < expected.sum() < expected.numel()
        shared = shared_categories(h, FRAME, tau)
        assert torch.equal(shared[..., 0] >= 0, expected)
        assert torch.equal(shared[expected], p.indices[..., :2][expected].sort(-1).values)
    assert (shared_categories(torch.zeros(1, 1, 3), FRAME, tau=0.1) == -1).all()


def test_counts_are_those_of_a_case_made_by_hand() -> None:
    points = _points(
        [
            [(0.9, 0, 0.1), (0.8, 1, 0.2), (0.4, 0, 0.3)],  # tau itself is no point
            [(0.5, 1, 0.45), (0.39, 1, 0.3), (0.7, 1, 0.1)],
            [(0.1, 2, 0.1), (0.2, 2, 0.1), (0.3, 2, 0.2)],
        ],
        [0, 1, 2],
    )
    count = points.count()
    assert (count.images, count.total.value, count.reliable.value) == (3, 4, 3)
    assert count.shared.value == 1
    assert count.ratio is not None and count.ratio.value == pytest.approx(3 / 4)


def test_without_points_there_is_no_ratio() -> None:
    count = _points([[(0.1, 0, 0.1)], [(0.2, 0, 0.1)]], [0, 0]).count()
    assert count.ratio is None and count.total.value == 0
    assert (count.total.low, count.total.high) == (0, 0)


def test_a_ratio_that_rests_on_one_image_still_has_an_interval() -> None:
    rows = [[(0.9, 0, 0.1), (0.9, 1, 0.1)], *[[(0.1, 0, 0.1)] * 2] * 9]
    ratio = _points(rows, [0] * 10).count().ratio
    assert ratio is not None and (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


@given(seed=st.integers(0, 500))
@settings(max_examples=25, deadline=None)
def test_intervals_contain_the_value(seed: int) -> None:
    count = _random(seed=seed).count()
    assert count.ratio is not None
    for interval in (count.total, count.reliable, count.shared, count.ratio):
        assert interval.low <= interval.value <= interval.high
    assert count.total.low < count.total.high


def test_intervals_are_seeded_and_leave_the_global_random_state_alone() -> None:
    points, state = _random(), torch.get_rng_state()
    assert points.count(3) == points.count(3)
    assert points.count(3) != points.count(4)
    assert torch.equal(torch.get_rng_state(), state)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of the mean number of points an image has, by resampling images that are drawn anew."""
    generator = torch.Generator().manual_seed(1)
    share, N, R = 0.3, 60, 10
    inside = 0
    for _ in range(100):
        confidence = (torch.rand(N, R, generator=generator) < share).double()
        y = torch.zeros(N, dtype=torch.int64)
        category = torch.zeros(N, R, dtype=torch.int64)
        total = KnowledgePoints(confidence, category, 0 * confidence, y).count().total
        inside += total.low <= share * N * R <= total.high
    assert 85 <= inside <= 100 and CONFIDENCE == 0.95


def test_more_images_narrow_the_interval() -> None:
    few, many = (_random(N=N).count().ratio for N in (20, 320))
    assert few is not None and many is not None
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_the_curve_is_the_count_at_every_threshold() -> None:
    points = _random()
    taus = [0.25, 0.4, 0.5, 0.9]
    curve = points.curve(taus)
    for tau, (total, reliable) in zip(taus, curve.tolist(), strict=True):
        again = KnowledgePoints(
            points.confidence, points.category, points.runner_up, points.y, tau
        ).count()
        assert (total, reliable) == (again.total.value, again.reliable.value)
    assert (curve[1:] <= curve[:-1]).all()
    edge = _points([[(0.5, 0, 0.1), (0.5, 1, 0.1), (0.75, 0, 0.1)]], [0])
    assert edge.curve([0.25, 0.5, 0.75]).tolist() == [[3, 2], [1, 1], [0, 0]]


def test_a_subset_keeps_what_belongs_to_its_images() -> None:
    points = _random()
    mask = torch.arange(30) % 3 == 0
    for index in (mask, mask.nonzero().flatten()):
        part = points.subset(index)
        assert torch.equal(part.reliable, points.reliable[mask]) and part.tau == points.tau
    assert points.subset(mask).count().images == 10


def test_points_come_back_from_disk(tmp_path: Path) -> None:
    points = _random()
    points.save(tmp_path / "points")
    again = KnowledgePoints.load(tmp_path / "points")
    for name in ("confidence", "category", "runner_up", "y"):
        assert torch.equal(getattr(again, name), getattr(points, name)), name
    assert again.tau == points.tau and again.count() == points.count()


@pytest.mark.parametrize("tau", [0.2, 1.0, -0.5, float("nan")])
def test_a_threshold_that_all_or_none_pass_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=r"tau must be in \[1/C, 1\) = \[0.25, 1\)"):
        knowledge_points(torch.ones(2, 3, 3), FRAME, torch.tensor([0, 1]), tau)


@pytest.mark.parametrize(
    ("h", "labels", "message"),
    [
        (torch.ones(2, 3, 3), torch.tensor([0, 4]), r"labels must lie in \[0, 4\)"),
        (torch.ones(2, 3, 3), torch.tensor([-1, 0]), r"labels must lie in \[0, 4\)"),
        (torch.ones(2, 3, 3), torch.tensor([0]), r"labels \[N\]"),
        (torch.ones(2, 3), torch.tensor([0, 1]), r"h must be \[N, R, dim\]"),
        (torch.ones(2, 3, 2), torch.tensor([0, 1]), "dim = 3"),
    ],
)
def test_inputs_that_do_not_fit_are_named(h: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knowledge_points(h, FRAME, labels)


def test_means_of_images_leave_out_those_without_a_value() -> None:
    r = torch.tensor([0.2, torch.nan, 0.4, 0.9])
    found = mean_interval(r)
    assert found is not None and found.value == pytest.approx(0.5)
    assert 0.2 <= found.low < 0.5 < found.high <= 0.9
    lone = mean_interval(r[:2])
    assert lone is not None and lone.value == pytest.approx(0.2) and lone.low != lone.low
    assert mean_interval(r[1:2]) is None


def test_proportions_have_the_interval_of_wilson() -> None:
    # Agresti and Coull (The American Statistician 52, 1998): none of 10 is 0 to 0.278.
    found = proportion(0, 10)
    assert (found.value, found.low) == (0, 0) and found.high == pytest.approx(0.278, abs=5e-4)
