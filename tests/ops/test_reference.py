"""The reference in plain torch against the loop-level oracle and finite differences of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from emergence_ext.ops import reference
from tests import oracle
from tests.cases import CASES, DIFFERENTIABLE, DTYPES, Case, build, build_loss

SMALL = Case(N=4, R=5, B=3, S=7, D=4, dtype=torch.float64)
TIES = [case for case in CASES if case.values == "ties"]
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
either = pytest.mark.parametrize("over", ["q", "d"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_and_matches_are_the_oracles(case: Case) -> None:
    x = build(case)
    T, argmax = reference.maxsim_indices(x.q, x.d, x.a)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)
    assert torch.equal(reference.maxsim(x.q, x.d, x.a), T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TIES, ids=str)
def test_a_tie_goes_to_the_lowest_index(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype))
    T, argmax = reference.maxsim_indices(x.q, x.d, x.a)
    assert T.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert argmax.tolist() == oracle.maxsim(x.q, x.d, x.a)[1]


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("strides", ["contiguous", "transposed", "sliced"])
def test_loss_is_the_oracles(strides: str, exclude: bool, op: str, over: str) -> None:
    x = build_loss(replace(SMALL, strides=strides), exclude=exclude, over=over).of(op)
    found = getattr(reference, op)(**x)
    assert found.item() == pytest.approx(getattr(oracle, op)(**x), rel=1e-12)


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("case", [SMALL, replace(SMALL, strides="transposed", D=40)], ids=str)
def test_gradients_are_finite_differences_of_the_oracle(
    case: Case, exclude: bool, op: str, over: str
) -> None:
    x = build_loss(case, exclude=exclude, over=over).of(op)
    inputs = {name: x.pop(name).requires_grad_() for name in DIFFERENTIABLE[op]}
    truth: Callable[..., float] = getattr(oracle, op)
    grads = torch.autograd.grad(getattr(reference, op)(**inputs, **x), list(inputs.values()))
    step = 1e-6
    for name, grad in zip(inputs, grads, strict=True):
        for place in [(0,) * grad.ndim, tuple(n - 1 for n in grad.shape), (1,) * grad.ndim]:
            losses = []
            for sign in (1, -1):
                moved = {key: value.detach().clone() for key, value in inputs.items()}
                moved[name][place] += sign * step
                losses.append(truth(**moved, **x))
            slope = (losses[0] - losses[1]) / (2 * step)
            # Central differences: curvature of order step^2 and rounding of 1e-16 / step are left.
            assert grad[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_gradients_of_scores_pass_gradcheck() -> None:
    x = build(SMALL)
    assert torch.autograd.gradcheck(reference.maxsim, [t.requires_grad_() for t in (x.q, x.d, x.a)])


@pytest.mark.parametrize("which", DIFFERENTIABLE["match_kl"])
def test_only_the_gradients_asked_for_are_formed(which: str) -> None:
    x = build_loss(SMALL)
    inputs = {name: getattr(x, name) for name in DIFFERENTIABLE["match_kl"]}
    everything = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    reference.match_kl(**everything, P=x.P).backward()
    inputs[which].requires_grad_()
    reference.match_kl(**inputs, P=x.P).backward()
    assert [value.grad is not None for value in inputs.values()] == [n == which for n in inputs]
    torch.testing.assert_close(inputs[which].grad, everything[which].grad, rtol=1e-12, atol=1e-14)


@either
@pytest.mark.parametrize("max_memory", [1, 5000, 1 << 30])
def test_the_block_does_not_change_the_answer(max_memory: int, over: str) -> None:
    x = build_loss(SMALL, over=over)
    plain = [t.clone().requires_grad_() for t in (x.q, x.d, x.a, x.b)]
    blocked = [t.clone().requires_grad_() for t in (x.q, x.d, x.a, x.b)]
    loss = reference.match_kl(*plain, x.P, over=over)
    other = reference.match_kl(*blocked, x.P, over=over, max_memory=max_memory)
    torch.testing.assert_close(other, loss, rtol=1e-14, atol=0)
    grads = torch.autograd.grad(loss, plain)
    for mine, expected in zip(torch.autograd.grad(other, blocked), grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(
        reference.maxsim_indices(x.q, x.d, x.a, max_memory=max_memory)[1],
        reference.maxsim_indices(x.q, x.d, x.a)[1],
    )


def test_loss_is_zero_where_the_scores_give_the_target() -> None:
    x = build_loss(SMALL)
    P = torch.softmax(reference.maxsim(x.q, x.d, x.a) + x.b, dim=1)
    assert reference.match_kl(x.q, x.d, x.a, x.b, P).item() == pytest.approx(0, abs=1e-14)


def test_an_excluded_column_has_no_influence() -> None:
    x = build_loss(SMALL)
    loss = reference.match_kl(x.q, x.d, x.a, x.b, x.P, torch.tensor([2, 2, 2]))
    kept = [0, 1, 3]
    without = reference.match_kl(x.q[kept], x.d, x.a[kept], x.b[kept], x.P[:, kept])
    assert loss.item() == pytest.approx(without.item(), rel=1e-12)


def test_a_second_derivative_of_the_loss_is_an_error() -> None:
    x = build_loss(SMALL)
    q = x.q.requires_grad_()
    loss = reference.match_kl(q, x.d, x.a, x.b, x.P).square()
    (grad,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(("N", "B"), [(0, 2), (3, 0), (0, 0)])
def test_empty_inputs_give_empty_scores(N: int, B: int) -> None:
    x = build(replace(SMALL, N=N, B=B))
    T, argmax = reference.maxsim_indices(x.q, x.d, x.a)
    assert T.shape == (B, N)
    assert argmax.shape == (B, N, SMALL.R)


@pytest.mark.parametrize("name", ["q", "d", "a"])
def test_a_non_finite_value_is_named_with_its_place(name: str) -> None:
    x = build(SMALL)
    getattr(x, name)[1, 3] = torch.nan
    with pytest.raises(ValueError, match=f"{name} is not finite at sample 1, region 3"):
        reference.maxsim(x.q, x.d, x.a)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"d": torch.zeros(2, 7, 3)}, ValueError, "with one D"),
        ({"d": torch.zeros(2, 0, 4)}, ValueError, "at least one region"),
        ({"a": torch.ones(4, 4)}, ValueError, r"a must be \[N, R\]"),
        ({"d": torch.zeros(2, 7, 4).half()}, TypeError, "d is torch.float16"),
        ({"precision": "low"}, ValueError, "got 'low'"),
        ({"max_memory": 0}, ValueError, "max_memory must be a positive"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_input_is_named(change: dict, kind: type[Exception], says: str) -> None:
    x = build(replace(SMALL, dtype=torch.float32))
    with pytest.raises(kind, match=says):
        reference.maxsim(**{"q": x.q, "d": x.d, "a": x.a} | change)


def test_what_is_no_tensor_is_named() -> None:
    x, a = torch.rand(2, 3, 4), torch.ones(2, 3)
    for given, told in (
        ((x.tolist(), x), "q must be a tensor, got list"),
        ((x, x.numpy()), "d must be a tensor, got ndarray"),
        ((x, x, a.tolist()), "a must be a tensor, got list"),
    ):
        with pytest.raises(TypeError, match=f"maxsim: {told}"):
            reference.maxsim(*given)
