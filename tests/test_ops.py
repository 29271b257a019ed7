"""The compiled ops against the loop-level oracle, the reference and their contract."""

from __future__ import annotations

import doctest
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from emergence_ext import _library, ops, reference
from tests import oracle
from tests.cases import CASES, DTYPES, Case, build

pytestmark = pytest.mark.usefixtures("library")

SMALL = Case(N=3, R=5, B=2, S=7, D=4)
TIES = [case for case in CASES if case.values == "ties"]
GRADIENT_CASES = [
    SMALL,
    replace(SMALL, strides="transposed"),
    replace(SMALL, strides="sliced"),
    replace(SMALL, weights=False),
    replace(SMALL, S=300),
]


def leaves(case: Case) -> list[Tensor]:
    """q, d and a (if any) of a case in float64, asking for gradients."""
    inputs = build(replace(case, dtype=torch.float64))
    return [x.requires_grad_() for x in (inputs.q, inputs.d, inputs.a) if x is not None]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_and_matches_are_the_oracles(case: Case) -> None:
    x = build(case)
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[4], CASES[9], TIES[0]], ids=str)
def test_every_dtype_is_the_oracles_of_its_rounded_inputs(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype))
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert T.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert argmax.dtype == torch.int64
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_agree_with_the_reference(case: Case) -> None:
    x = build(replace(case, dtype=torch.float64))
    expected = reference.maxsim(x.q, x.d, x.a)
    torch.testing.assert_close(ops.maxsim(x.q, x.d, x.a), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TIES, ids=str)
def test_a_tie_goes_to_the_lowest_index(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype))
    _, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert argmax.tolist() == oracle.maxsim(x.q, x.d, x.a)[1]


def test_equal_regions_tie_at_every_place(generator: torch.Generator) -> None:
    # Block of candidates or remainder: the same region must give the same bits wherever it stands.
    q = torch.randn(2, 9, 37, generator=generator)
    d = torch.randn(1, 1, 37, generator=generator).expand(3, 23, 37)
    assert not ops.maxsim_indices(q, d)[1].any()


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("S", [1, 2, 7, 8, 9, 256, 257])
def test_a_planted_maximum_is_found(place: str, S: int) -> None:
    x = build(replace(SMALL, values=place, S=S))
    assert (ops.maxsim_indices(x.q, x.d, x.a)[1] == (0 if place == "first" else S - 1)).all()


def test_negative_maxima_are_not_cut_at_zero() -> None:
    x = build(replace(SMALL, values="negative"))
    assert (ops.maxsim(x.q, x.d) < 0).all()


@pytest.mark.parametrize("strides", ["transposed", "sliced", "expanded"])
def test_strides_do_not_change_a_bit(strides: str) -> None:
    x = build(replace(SMALL, strides=strides))
    plain = [t.clone(memory_format=torch.contiguous_format) for t in (x.q, x.d, x.a)]
    assert not all(t.is_contiguous() for t in (x.q, x.d, x.a))
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), ops.maxsim(*plain))


def test_match_is_the_same_for_any_number_of_threads(threads: None) -> None:
    x = build(Case(N=23, R=31, B=19, S=29, D=17))
    results = []
    for number in (1, 2, 8):
        torch.set_num_threads(number)
        inputs = [t.clone().requires_grad_() for t in (x.q, x.d, x.a)]
        T, argmax = ops.maxsim_indices(*inputs)
        grads = torch.autograd.grad(T.square().sum(), inputs)
        results.append([T.detach(), argmax, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("op", ["maxsim", "maxsim_indices"])
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_gradients_pass_gradcheck(case: Case, op: str) -> None:
    direct = getattr(torch.ops.emergence_ext, op)

    def scores(q: Tensor, d: Tensor, a: Tensor | None = None) -> Tensor:
        result = direct(q, d, a)
        return result if op == "maxsim" else result[0]

    assert torch.autograd.gradcheck(scores, leaves(case))


@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_gradients_are_the_references(case: Case, generator: torch.Generator) -> None:
    inputs = leaves(case)
    G = torch.randn(case.B, case.N, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(ops.maxsim(*inputs), inputs, G)
    theirs = torch.autograd.grad(reference.maxsim(*inputs), inputs, G)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtype_of_their_inputs(dtype: torch.dtype) -> None:
    x = build(replace(SMALL, dtype=dtype))
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    grads = torch.autograd.grad(ops.maxsim(*inputs).sum(), inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(ops.maxsim(*exact).sum(), exact)
    for grad, truth in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, truth.to(dtype))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_the_gradients_asked_for_are_formed(which: int) -> None:
    x = build(SMALL)
    inputs = [x.q, x.d, x.a]
    inputs[which].requires_grad_()
    T, argmax = torch.ops.emergence_ext.maxsim_indices(*inputs)
    needs = [index == which for index in range(3)]
    found = torch.ops.emergence_ext.maxsim_backward(torch.ones_like(T), *inputs, argmax, needs)
    assert [grad.numel() > 0 for grad in found] == needs
    T.sum().backward()
    assert torch.equal(inputs[which].grad, found[which])
    assert [x.grad is not None for x in inputs] == needs


def test_the_example_of_the_docstring_runs() -> None:
    results = doctest.testmod(ops, extraglobs={"torch": torch})
    assert results.attempted > 0
    assert results.failed == 0


def test_matches_are_not_differentiable() -> None:
    T, argmax = ops.maxsim_indices(*leaves(SMALL))
    assert T.requires_grad
    assert not argmax.requires_grad


def test_a_second_derivative_is_a_named_error() -> None:
    inputs = leaves(SMALL)
    (grad,) = torch.autograd.grad(ops.maxsim(*inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="maxsim: there is no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("op", ["maxsim", "maxsim_indices"])
@pytest.mark.parametrize("case", [*GRADIENT_CASES, replace(SMALL, N=0)], ids=str)
def test_opcheck(case: Case, op: str) -> None:
    arguments = leaves(case) if case.weights else [*leaves(case), None]
    torch.library.opcheck(getattr(torch.ops.emergence_ext, op), tuple(arguments))


def test_opcheck_of_the_gradient() -> None:
    x = build(SMALL)
    T, argmax = torch.ops.emergence_ext.maxsim_indices(x.q, x.d, x.a)
    arguments = (torch.ones_like(T), x.q, x.d, x.a, argmax, [True, False, True])
    torch.library.opcheck(torch.ops.emergence_ext.maxsim_backward, arguments)


@pytest.mark.parametrize("S", [256, 257])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(S: int, dtype: torch.dtype) -> None:
    x = build(replace(SMALL, S=S, dtype=dtype))
    real = torch.ops.emergence_ext.maxsim_indices(x.q, x.d, x.a)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = torch.ops.emergence_ext.maxsim_indices(
            *(mode.from_tensor(t) for t in (x.q, x.d, x.a))
        )
    for mine, other in zip(fake, real, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_graph_gives_what_eager_gives(backend: str) -> None:
    def loss(q: Tensor, d: Tensor, a: Tensor) -> Tensor:
        return ops.maxsim(torch.nn.functional.normalize(q, dim=-1), d, a).square().sum()

    x = build(SMALL)
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    eager = loss(*inputs)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager, inputs)
    for mine, other in zip(torch.autograd.grad(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(lower: torch.dtype) -> None:
    x = build(SMALL)
    with torch.autocast("cpu", lower):
        mixed = ops.maxsim(x.q.to(lower), x.d, x.a)
        double = ops.maxsim(x.q.double(), x.d.double())
    assert torch.equal(mixed, ops.maxsim(x.q.to(lower).float(), x.d, x.a))
    assert double.dtype == torch.float64


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_every_precision_is_float32_on_the_cpu(precision: str) -> None:
    x = build(CASES[11])
    found = ops.maxsim(x.q, x.d, x.a, precision=precision, max_memory=1)
    assert torch.equal(found, ops.maxsim(x.q, x.d, x.a))


@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (0, 0, 5), (3, 2, 0)])
def test_empty_inputs_give_empty_results_and_zero_gradients(N: int, B: int, R: int) -> None:
    inputs = leaves(replace(SMALL, N=N, B=B, R=R))
    T, argmax = ops.maxsim_indices(*inputs)
    assert T.shape == (B, N)
    assert argmax.shape == (B, N, R)
    assert not T.any()
    assert not any(grad.any() for grad in torch.autograd.grad(T.sum(), inputs))


WRONG: list[tuple[str, Callable[[Tensor, Tensor, Tensor], Any], type[Exception], str]] = [
    (
        "q of two dimensions",
        lambda q, d, a: ops.maxsim(q[0], d),
        ValueError,
        r"q must be \[N, R, D\]",
    ),
    (
        "d of two dimensions",
        lambda q, d, a: ops.maxsim(q, d[0]),
        ValueError,
        r"d must be \[B, S, 4\]",
    ),
    ("another width", lambda q, d, a: ops.maxsim(q, d[..., 1:]), ValueError, r"got \[2, 7, 3\]"),
    ("no regions", lambda q, d, a: ops.maxsim(q, d[:, :0]), ValueError, "at least one region"),
    ("no channels", lambda q, d, a: ops.maxsim(q[..., :0], d[..., :0]), ValueError, "one channel"),
    (
        "wrong weights",
        lambda q, d, a: ops.maxsim(q, d, a[:, 1:]),
        ValueError,
        r"a must be .*3, 5\]",
    ),
    (
        "other dtype of d",
        lambda q, d, a: ops.maxsim(q, d.double()),
        TypeError,
        "d is Double on cpu",
    ),
    ("other dtype of a", lambda q, d, a: ops.maxsim(q, d, a.half()), TypeError, "a is Half on cpu"),
    ("integers", lambda q, d, a: ops.maxsim(q.int(), d.int()), TypeError, "q must be float32"),
    (
        "no tensor",
        lambda q, d, a: ops.maxsim(q.tolist(), d),
        TypeError,
        "q must be a tensor, got list",
    ),
    ("precision", lambda q, d, a: ops.maxsim(q, d, precision="low"), ValueError, "got 'low'"),
    ("memory", lambda q, d, a: ops.maxsim(q, d, max_memory=0), ValueError, "must be a positive"),
    ("device", lambda q, d, a: ops.maxsim(q.to("meta"), d), RuntimeError, "no backend for 'meta'"),
]


@pytest.mark.parametrize(
    ("call", "kind", "says"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_wrong_input_is_named(call: Any, kind: type[Exception], says: str) -> None:
    x = build(SMALL)
    with pytest.raises(kind, match=f"^maxsim: .*{says}"):
        call(x.q, x.d, x.a)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["q", "d", "a"])
def test_a_non_finite_value_is_named_with_its_place(name: str, value: float) -> None:
    x = build(SMALL)
    getattr(x, name)[1, 3] = value
    getattr(x, name)[1, 4] = value
    with pytest.raises(ValueError, match=f"{name} is not finite at sample 1, region 3"):
        ops.maxsim(x.q, x.d, x.a)


def test_a_product_that_overflows_to_nan_is_never_hidden() -> None:
    # 1e30 * 1e30 - 1e30 * 1e30 is inf - inf in float32; the regions beside it are plausible.
    q = torch.tensor([[[1e30, 1e30]]])
    d = torch.tensor([[[0.0, 0.0], [1e30, -1e30], [1.0, 1.0]]])
    T, argmax = ops.maxsim_indices(q, d)
    assert T.isnan().all()
    assert argmax.item() == 1


def test_matches_of_other_inputs_are_refused_by_the_gradient() -> None:
    x = build(SMALL)
    T, argmax = torch.ops.emergence_ext.maxsim_indices(x.q, x.d, x.a)
    with pytest.raises(ValueError, match=r"argmax must lie in \[0, S\) = \[0, 2\)"):
        torch.ops.emergence_ext.maxsim_backward(T, x.q, x.d[:, :2], x.a, argmax + 2, [True] * 3)


def test_without_the_library_the_reference_answers_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = build(SMALL)
    expected = ops.maxsim_indices(x.q, x.d, x.a)
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": "it was never built here")
    monkeypatch.setattr(ops, "_warned", False)
    with pytest.warns(RuntimeWarning, match="without its compiled library.*never built") as seen:
        found = ops.maxsim_indices(x.q, x.d, x.a)
    assert seen[0].filename == __file__
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.maxsim(x.q, x.d)
        with torch.autocast("cpu", torch.bfloat16):
            assert ops.maxsim(x.q.bfloat16(), x.d, x.a).dtype == torch.float32


def test_without_a_cuda_backend_a_cuda_tensor_is_an_error_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": f"no, run {_library.REBUILD}")
    with FakeTensorMode():
        q = torch.empty(1, 2, 3, device="cuda")
        with pytest.raises(
            RuntimeError, match=r"no CUDA backend.*pip install --no-build-isolation"
        ):
            ops.maxsim(q, q)


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 9)] * 5), seed=st.integers(0, 2**31), order=st.randoms())
def test_order_of_images_and_candidates_does_not_change_scores(
    sizes: tuple[int, ...], seed: int, order: Any
) -> None:
    x = build(Case(*sizes, seed=seed))
    T = ops.maxsim(x.q, x.d, x.a)
    images, others, regions = (
        torch.tensor(order.sample(range(n), n)) for n in (sizes[0], sizes[2], sizes[3])
    )
    shuffled = ops.maxsim(x.q[images], x.d[others][:, regions], x.a[images])
    assert torch.equal(shuffled, T[others][:, images])


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 9)] * 5), seed=st.integers(0, 2**31))
def test_one_more_candidate_never_lowers_a_score(sizes: tuple[int, ...], seed: int) -> None:
    x = build(Case(*sizes, seed=seed))
    fewer = ops.maxsim(x.q, x.d[:, : max(1, sizes[3] - 1)], x.a)
    assert (ops.maxsim(x.q, x.d, x.a) >= fewer).all()
