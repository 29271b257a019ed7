"""Gradients of the scores against the reference and finite differences of the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference
from tests import oracle
from tests.cases import CASES, DTYPES, LARGE, Case, build

pytestmark = pytest.mark.usefixtures("each_backend")

SMALL = Case(N=3, R=5, B=2, S=7, D=4)
CHECKED = [
    SMALL,
    replace(SMALL, strides="transposed"),
    replace(SMALL, strides="sliced"),
    replace(SMALL, weights=False),
    replace(SMALL, S=300),
    replace(SMALL, D=19),
]


def leaves(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, d and a (if any) of a case, asking for gradients."""
    inputs = build(replace(case, dtype=dtype))
    return [x.requires_grad_() for x in (inputs.q, inputs.d, inputs.a) if x is not None]


@pytest.mark.parametrize("op", ["maxsim", "maxsim_indices"])
@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradients_pass_gradcheck(case: Case, op: str) -> None:
    direct = getattr(ops._compiled, op)

    def scores(q: Tensor, d: Tensor, a: Tensor | None = None) -> Tensor:
        result = direct(q, d, a)
        return result if op == "maxsim" else result[0]

    assert torch.autograd.gradcheck(scores, leaves(case), fast_mode=case.S > 100)


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_the_references(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> None:
    inputs = leaves(case, dtype)
    G = torch.randn(case.B, case.N, generator=generator, dtype=torch.float64).to(dtype)
    ours = torch.autograd.grad(ops.maxsim(*inputs), inputs, G)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    theirs = torch.autograd.grad(reference.maxsim(*exact), exact, G.double())
    weights = inputs[2] if case.weights else torch.ones(case.N, case.R)
    slack = oracle.rounding_of_gradients(*(x.detach() for x in (*inputs[:2], weights)), G)
    scale = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    for name, mine, other in zip("qda", ours, theirs, strict=case.weights):
        assert mine.dtype == dtype
        assert ((mine - other).abs() <= scale * slack[name]).all(), name


def test_gradients_are_finite_differences_of_the_oracle(generator: torch.Generator) -> None:
    inputs = leaves(SMALL)
    G = torch.randn(SMALL.B, SMALL.N, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(ops.maxsim(*inputs), inputs, G)

    def weighted(values: list[Tensor]) -> float:
        return float((torch.tensor(oracle.maxsim(*values)[0], dtype=torch.float64) * G).sum())

    step = 1e-6
    for which, grad in enumerate(grads):
        for place in [(0,) * grad.ndim, tuple(n - 1 for n in grad.shape), (1,) * grad.ndim]:
            moved = [[x.detach().clone() for x in inputs] for _ in range(2)]
            moved[0][which][place] += step
            moved[1][which][place] -= step
            slope = (weighted(moved[0]) - weighted(moved[1])) / (2 * step)
            # T is linear between switches of the match: what is left is rounding over the step.
            assert grad[place].item() == pytest.approx(slope, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, D=33)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtype_of_their_inputs(dtype: torch.dtype, case: Case) -> None:
    inputs = leaves(case, dtype)
    grads = torch.autograd.grad(ops.maxsim(*inputs).sum(), inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(ops.maxsim(*exact).sum(), exact)
    for grad, truth in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, truth.to(dtype))


@pytest.mark.parametrize("D", [4, 33])
@pytest.mark.parametrize("which", range(1, 8))
def test_only_the_gradients_asked_for_are_formed(which: int, D: int) -> None:
    x = build(replace(SMALL, D=D))
    inputs = [x.q, x.d, x.a]
    needs = [bool(which & 1 << index) for index in range(3)]
    T, argmax = ops._compiled.maxsim_indices(*inputs)
    backward = ops._compiled.maxsim_backward
    found = backward(torch.ones_like(T), *inputs, argmax, needs)
    everything = backward(torch.ones_like(T), *inputs, argmax, [True] * 3)
    assert [grad.numel() > 0 for grad in found] == needs
    for t, need in zip(inputs, needs, strict=True):
        t.requires_grad_(need)
    ops.maxsim(*inputs).sum().backward()
    assert [t.grad is not None for t in inputs] == needs
    for t, one, all_three in zip(inputs, found, everything, strict=True):
        if t.requires_grad:
            assert torch.equal(t.grad, one)
            assert torch.equal(one, all_three)


@pytest.mark.parametrize("D", [4, 33])
@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (0, 0, 5), (3, 2, 0)])
def test_empty_inputs_give_empty_results_and_zero_gradients(N: int, B: int, R: int, D: int) -> None:
    inputs = leaves(replace(SMALL, N=N, B=B, R=R, D=D))
    T, argmax = ops.maxsim_indices(*inputs)
    assert T.shape == (B, N)
    assert argmax.shape == (B, N, R)
    assert not T.any()
    assert not any(grad.any() for grad in torch.autograd.grad(T.sum(), inputs))


def test_matches_are_not_differentiable() -> None:
    T, argmax = ops.maxsim_indices(*leaves(SMALL))
    assert T.requires_grad
    assert not argmax.requires_grad


def test_a_second_derivative_is_a_named_error() -> None:
    inputs = leaves(SMALL)
    (grad,) = torch.autograd.grad(ops.maxsim(*inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="maxsim: there is no second derivative"):
        grad.sum().backward()


def test_matches_of_other_inputs_are_refused_by_the_gradient() -> None:
    x = build(SMALL)
    T, argmax = ops._compiled.maxsim_indices(x.q, x.d, x.a)
    with pytest.raises(ValueError, match=r"argmax must lie in \[0, S\) = \[0, 2\)"):
        ops._compiled.maxsim_backward(T, x.q, x.d[:, :2], x.a, argmax + 2, [True] * 3)
