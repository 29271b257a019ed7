"""The solver keeps the best point it saw, tells its losses truly, and knows when to stop."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from emergence_ext.method.solver import least_squares, minimise

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(6, 6, generator=GENERATOR)
STIFF = A @ torch.diag(torch.logspace(-2, 3, 6)) @ A.t()
TARGET = torch.randn(6, generator=GENERATOR)


def _stiff(x: Tensor) -> Tensor:
    return (x - TARGET) @ STIFF @ (x - TARGET)


def test_a_stiff_problem_is_solved_and_the_start_is_not_changed() -> None:
    start = torch.zeros(6)
    (x,), stats = minimise(_stiff, [start], max_evals=300, tol=0)
    assert stats.losses[0] == pytest.approx(float(_stiff(start)))
    assert stats.losses[-1] < 1e-3 * stats.losses[0]
    assert torch.equal(start, torch.zeros(6)) and not x.requires_grad


def test_the_losses_never_rise_and_the_last_one_is_that_of_the_result() -> None:
    def wavy(x: Tensor, y: Tensor) -> Tensor:
        return (x.square() + 3 * torch.sin(5 * x).abs()).sum() + (x.sum() - y).square()

    start = [torch.linspace(-4, 4, 7), torch.tensor(2.0)]
    (x, y), stats = minimise(wavy, start, max_evals=60, tol=0)
    assert all(b <= a for a, b in pairwise(stats.losses))
    assert stats.losses[-1] < stats.losses[0]
    assert float(wavy(x, y)) == pytest.approx(stats.losses[-1], rel=1e-6)


def test_a_loss_that_is_no_number_on_the_way_is_never_the_result() -> None:
    def walled(x: Tensor) -> Tensor:
        return (-(1 - x).log() - 10 * x).sum()  # NaN beyond 1, where the first step leads

    (x,), stats = minimise(walled, [torch.tensor([0.5, 0.25])], max_evals=40, tol=0)
    assert all(b <= a for a, b in pairwise(stats.losses)), stats.losses
    assert float(walled(x)) == pytest.approx(stats.losses[-1])
    assert stats.losses[-1] < 0.9 * float(walled(torch.tensor([0.9, 0.9])))


def test_it_stops_where_nothing_is_gained_and_says_so() -> None:
    _, stats = minimise(lambda x: x.square().sum(), [torch.ones(3)], max_evals=500, tol=1e-3)
    assert stats.evaluations < 100
    assert "0.001" in stats.stopped
    _, flat = minimise(lambda x: 0 * x.sum() + 1, [torch.ones(3)], max_evals=500, tol=1e-3)
    assert flat.losses[-1] == 1 and flat.evaluations < 5


def test_the_limit_of_evaluations_holds() -> None:
    for most in (1, 7, 25):
        calls: list[int] = []

        def counted(x: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return _stiff(x)

        _, stats = minimise(counted, [torch.zeros(6)], max_evals=most, tol=0)
        assert len(calls) == len(stats.losses)
        # One line search may end after the limit; it is never longer than this.
        assert most <= len(calls) <= most + 35
        assert str(most) in stats.stopped


def test_the_caller_hears_of_every_evaluation() -> None:
    heard: list[tuple[int, float]] = []
    _, stats = minimise(
        _stiff, [torch.zeros(6)], max_evals=20, tol=0, step=lambda n, loss: heard.append((n, loss))
    )
    assert [n for n, _ in heard] == list(range(1, len(stats.losses) + 1))
    assert [loss for _, loss in heard] == list(stats.losses)


def test_the_scale_changes_the_steps_and_not_what_is_reported() -> None:
    for scale in (1e-3, 1e3):
        _, stats = minimise(_stiff, [torch.zeros(6)], max_evals=200, tol=0, scale=scale)
        assert stats.losses[0] == pytest.approx(float(_stiff(torch.zeros(6))))
        assert stats.losses[-1] < 0.05 * stats.losses[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_start_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="at the start"):
        minimise(lambda x: x.sum() * value, [torch.ones(2)], max_evals=10, tol=0)


def test_the_same_problem_gives_the_same_bits() -> None:
    first = minimise(_stiff, [torch.zeros(6)], max_evals=50, tol=0)
    second = minimise(_stiff, [torch.zeros(6)], max_evals=50, tol=0)
    assert torch.equal(first[0][0], second[0][0]) and first[1].losses == second[1].losses


def test_least_squares_is_the_ridge_solution() -> None:
    x = torch.randn(40, 7, generator=GENERATOR)
    target = torch.randn(40, 3, generator=GENERATOR)
    wide = x.double()
    ridge = 1e-3 * wide.square().sum(0).mean()
    stacked = torch.cat([wide, ridge.sqrt() * torch.eye(7)])
    padded = torch.cat([target.double(), torch.zeros(7, 3)])
    expected = torch.linalg.lstsq(stacked, padded).solution.t()
    torch.testing.assert_close(least_squares(x, target).double(), expected, rtol=1e-4, atol=1e-5)


def test_least_squares_of_dependent_features_is_finite() -> None:
    x = torch.randn(5, 1, generator=GENERATOR).expand(5, 9)
    found = least_squares(x, x[:, :2])
    assert torch.isfinite(found).all()
    torch.testing.assert_close(x @ found.t(), x[:, :2], rtol=0.01, atol=0)
