"""The ops by Triton: interpreted, against float64 and the compiled ops; compiled for GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from emergence_ext import ops
from emergence_ext.ops import narrow_triton, reference
from tests import interpreted, oracle
from tests.cases import DIFFERENTIABLE, Case, LossInputs, build, build_loss, run_loss
from tests.interpreted import Run

SMALL = Case(N=4, R=5, B=3, S=7, D=4)
# Edges of a run of candidates, of a row of channels, of bytes; each of N and B at 1 and 3.
SHAPES = [
    Case(N=3, R=1, B=1, S=1, D=1),
    Case(N=1, R=1, B=3, S=7, D=3),
    Case(N=3, R=49, B=3, S=14, D=4),
    Case(N=3, R=49, B=1, S=49, D=5),
    Case(N=1, R=49, B=3, S=13, D=8),
    Case(N=3, R=1, B=3, S=196, D=2),
    Case(N=2, R=17, B=1, S=257, D=3),
    Case(N=3, R=5, B=9, S=8, D=6, strides="sliced"),
    Case(N=3, R=5, B=2, S=6, D=7, strides="transposed"),
]
# More rows, pairs, columns and images than one program takes of each.
SEVERAL = Case(N=530, R=2, B=5, S=5, D=2)
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
either = pytest.mark.parametrize("over", ["q", "d"])


@pytest.fixture(scope="module")
def child() -> Iterator[Run]:
    """Runs a function of `tests/interpreted.py` with Triton's interpreter."""
    pytest.importorskip("triton", reason="triton is not installed")
    with interpreted.process() as run:
        assert not run(interpreted.loads_triton), "the first use imports triton, nothing before"
        reason = run(interpreted.why_not)
        if reason is not None:  # triton 3.6 with numpy 2.4: a loop's length is no index
            pytest.skip(f"this triton cannot interpret a loop with this numpy: {reason}")
        yield run


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_scores_and_matches_are_those_of_float64_and_of_the_compiled_ops(
    case: Case, child: Run
) -> None:
    x = build(case)
    T, argmax = child(interpreted.call, "maxsim_indices", x.q, x.d, x.a)
    assert (T.dtype, argmax.dtype) == (torch.float32, torch.int64)
    truth = reference.maxsim_indices(x.q.double(), x.d.double(), x.a.double())
    oracle.assert_scores(x.q, x.d, x.a, T, argmax, truth)
    assert torch.equal(argmax, ops.maxsim_indices(x.q, x.d, x.a)[1])


@pytest.mark.parametrize(
    "case",
    [
        Case(N=2, R=17, B=2, S=49, D=3, values="ties"),
        Case(N=2, R=16, B=2, S=17, D=5, values="first"),
        Case(N=2, R=15, B=2, S=17, D=5, values="last"),
        Case(N=2, R=15, B=2, S=16, D=3, values="negative"),
        Case(N=2, R=17, B=2, S=15, D=3, values="zero rows"),
        Case(N=2, R=9, B=2, S=9, D=4, weights=False),
        Case(N=2, R=9, B=2, S=9, D=4, dtype=torch.bfloat16),
        Case(N=2, R=9, B=2, S=9, D=4, dtype=torch.float16),
    ],
    ids=str,
)
def test_a_tie_goes_to_the_lowest_place_and_any_values_to_the_oracles(
    case: Case, child: Run
) -> None:
    x = build(case)
    T, argmax = child(interpreted.call, "maxsim_indices", x.q, x.d, x.a)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)
    assert torch.equal(argmax, ops.maxsim_indices(x.q, x.d, x.a)[1])


@pytest.mark.one_in(3)
@either
@pytest.mark.parametrize(("op", "exclude"), [("match_kl", True), ("match_kl_scaled", False)])
@pytest.mark.parametrize("case", [c for c in SHAPES if c.S < 196], ids=str)
def test_loss_and_gradients_miss_by_no_more_than_rounding(
    case: Case, op: str, exclude: bool, over: str, child: Run
) -> None:
    assert_loss(op, build_loss(case, exclude=exclude, over=over), child)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_inputs_are_cast_up(dtype: torch.dtype, op: str, child: Run) -> None:
    x = build_loss(replace(SMALL, dtype=dtype), exclude=True)
    found = assert_loss(op, x, child)
    assert found.pop("loss").dtype == torch.float32
    assert all(grad.dtype == dtype for grad in found.values())


@pytest.mark.slow
def test_several_programs_share_the_work(child: Run) -> None:
    assert_loss("match_kl", build_loss(SEVERAL, exclude=True), child)
    assert_loss("match_kl", build_loss(replace(SEVERAL, N=5, B=530), over="d"), child)


def test_all_rows_may_match_one_candidate(child: Run) -> None:
    x = build_loss(replace(SMALL, R=30, S=20, values="last"))
    found = assert_loss("match_kl", x, child)
    assert (found["d"] != 0).any(2).sum(1).tolist() == [1] * SMALL.B


@both
def test_bits_depend_neither_on_the_block_nor_on_the_run(op: str, child: Run) -> None:
    x = build_loss(Case(N=3, R=5, B=6, S=7, D=3), exclude=True)
    one = 3 * (5 * 5 + 4)  # bytes of an image's products, matches and scores
    beside = 8 * 6 + 4 * 3 * 5 * 3  # losses and u
    several = [{}, {}, *({"max_memory": beside + images * one} for images in (1, 4))]
    first, *others = child(interpreted.losses, op, x, *several)
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first)
    with pytest.raises(ValueError, match=f"{op}: max_memory = 9 .* give at least {beside + one}"):
        child(interpreted.losses, op, x, {"max_memory": 9})


@pytest.mark.one_in(2)
@both
def test_over_d_bits_do_not_depend_on_the_block(op: str, child: Run) -> None:
    x = build_loss(Case(N=37, R=5, B=3, S=7, D=3), exclude=True, over="d")
    group = 16 * 3 * (5 * 5 + 4)  # bytes of as many images of q as are summed at once
    beside = 8 * 37 + 4 * 37 * 5 * 3  # losses and u
    several = [{}, *({"max_memory": beside + groups * group} for groups in (1, 2))]
    first, *others = child(interpreted.losses, op, x, *several)
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first)
    least = beside + group
    with pytest.raises(ValueError, match=f"{op}: max_memory = 9 .* give at least {least}"):
        child(interpreted.losses, op, x, {"max_memory": 9})


def test_scores_depend_neither_on_the_block_nor_on_the_matches(child: Run) -> None:
    x = build(Case(N=5, R=7, B=5, S=7, D=3))
    expected = child(interpreted.call, "maxsim_indices", x.q, x.d, x.a)
    for images in (1, 3):
        options = {"max_memory": images * 5 * 7 * 4}
        found = child(interpreted.call, "maxsim_indices", x.q, x.d, x.a, **options)
        assert all(map(torch.equal, found, expected))
    assert torch.equal(child(interpreted.call, "maxsim", x.q, x.d, x.a), expected[0])


@pytest.mark.parametrize(
    "case", [SMALL, replace(SMALL, weights=False), replace(SMALL, S=257, R=2)], ids=str
)
def test_gradients_of_scores_are_the_references(
    case: Case, child: Run, generator: torch.Generator
) -> None:
    x = build(case)
    inputs = [t for t in (x.q, x.d, x.a) if t is not None]
    G = torch.randn(case.B, case.N, generator=generator)
    found = child(interpreted.score_gradients, G, *inputs)
    exact = [t.double().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(reference.maxsim(*exact), exact, G.double())
    weights = torch.ones(case.N, case.R) if x.a is None else x.a
    slack = oracle.rounding_of_gradients(x.q, x.d, weights, G)
    for name, mine, other in zip("qda", found, expected, strict=case.weights):
        assert ((mine - other).abs() <= slack[name]).all(), name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_every_score_it_touches(value: float, child: Run) -> None:
    x = build(Case(N=3, R=9, B=3, S=20, D=3))
    q, d = x.q.abs(), x.d.clone()
    d[1, [12, 15], 1] = value  # the best of its image, twice
    T, argmax = child(interpreted.unchecked, "maxsim_indices", q, d, x.a)
    assert T[[0, 2]].isfinite().all()
    assert not T[1].isfinite().any()
    assert (argmax[1] == 12).all()
    q = x.q.clone()
    q[2, 4, 0] = torch.nan
    T, argmax = child(interpreted.unchecked, "maxsim_indices", q, x.d, x.a)
    assert T[:, 2].isnan().all() and T[:, :2].isfinite().all()
    assert (argmax[:, 2, 4] == 0).all()


def test_a_loss_of_what_is_not_finite_is_not_finite(child: Run) -> None:
    x = build_loss(SMALL)
    x.q[1, 2, 0] = torch.nan
    assert child(interpreted.unchecked, "match_kl", **x.of("match_kl")).isnan()


def test_minus_infinity_is_a_maximum_like_any_other(child: Run) -> None:
    q, d = torch.ones(1, 2, 1), torch.full((1, 9, 1), -torch.inf)
    T, argmax = child(interpreted.unchecked, "maxsim_indices", q, d)
    assert T.tolist() == [[-torch.inf]]
    assert not argmax.any()


@either
@both
def test_sets_of_different_sizes_are_the_references(op: str, over: str, child: Run) -> None:
    x = build_loss(replace(SMALL, S=9), exclude=True, over=over)
    lengths = {"q_lengths": torch.tensor([5, 0, 1, 3]), "d_lengths": torch.tensor([9, 0, 4])}
    x = replace(x, **lengths)
    for j, length in enumerate(lengths["q_lengths"]):
        x.q[j, length:] = x.a[j, length:] = torch.nan
    for i, length in enumerate(lengths["d_lengths"]):
        x.d[i, length:] = torch.nan
    expected = run_loss(reference, op, x, torch.float64)
    for name, mine in child(interpreted.losses, op, x, {})[0].items():
        torch.testing.assert_close(mine.double(), expected[name], rtol=1e-4, atol=1e-5)
    found = child(interpreted.call, "maxsim_indices", x.q, x.d, x.a, **lengths)
    truth = reference.maxsim_indices(x.q, x.d, x.a, **lengths)
    torch.testing.assert_close(found[0], truth[0])
    assert torch.equal(found[1], truth[1])


@both
def test_a_row_without_any_column_adds_nothing(op: str, child: Run) -> None:
    x = build_loss(replace(SMALL, N=1))
    x = replace(x, exclude=torch.zeros(SMALL.B, dtype=torch.int64))
    assert not any(t.any() for t in child(interpreted.losses, op, x, {})[0].values())


@both
@either
@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (0, 0, 5), (3, 2, 0)])
def test_empty_inputs_are_the_references(
    N: int, B: int, R: int, op: str, over: str, child: Run
) -> None:
    x = build_loss(replace(SMALL, N=N, B=B, R=R), over=over)
    expected = run_loss(reference, op, x)
    for name, mine in child(interpreted.losses, op, x, {})[0].items():
        torch.testing.assert_close(mine, expected[name])
    inputs = (x.q, x.d, x.a)
    found = child(interpreted.call, "maxsim_indices", *inputs)
    assert all(map(torch.equal, found, reference.maxsim_indices(*inputs)))
    grads = child(interpreted.score_gradients, torch.ones(B, N), *inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert not any(g.any() for g in grads)


def test_gradients_go_through_torch_func(child: Run) -> None:
    x = build(SMALL)
    assert torch.equal(*child(interpreted.transformed, x.q, x.d, x.a))


def test_torch_is_told_what_the_ops_do(child: Run) -> None:
    x = build(replace(SMALL, N=2, R=3, B=2))
    child(interpreted.check_registration, x.q, x.d, x.a)


@pytest.mark.parametrize(("op", "names"), [("maxsim", "maxsim"), ("match_kl", "match_kl")])
def test_a_second_derivative_is_the_error_of_the_compiled_ops(
    op: str, names: str, child: Run
) -> None:
    with pytest.raises(RuntimeError, match=f"{names}: there is no second derivative; call back"):
        child(interpreted.second_derivative, op, build_loss(SMALL))


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"a": torch.ones(4, 4)}, ValueError, r"match_kl: a must be \[N, R\]"),
        ({"d": torch.zeros(3, 0, 4)}, ValueError, "at least one region"),
        ({"d": torch.zeros(3, 7, 4).half()}, TypeError, "d is torch.float16"),
        ({"b": torch.zeros(5)}, ValueError, r"b must be \[4\]"),
        ({"P": -torch.ones(3, 4)}, ValueError, "P must not be negative"),
        ({"exclude": torch.full((3,), 4)}, ValueError, "exclude must lie in"),
        ({"precision": "low"}, ValueError, "got 'low'"),
        ({"max_memory": 0}, ValueError, "max_memory must be a positive"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_input_is_named(
    change: dict[str, Any], kind: type[Exception], says: str, child: Run
) -> None:
    with pytest.raises(kind, match=says):
        child(interpreted.call, "match_kl", **build_loss(SMALL).of("match_kl") | change)


def test_what_has_no_gradient_may_not_ask_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_triton, "_takes", lambda q: True)
    x = build_loss(SMALL)
    x.P.requires_grad_()
    with pytest.raises(ValueError, match="match_kl: P has no gradient here"):
        narrow_triton.match_kl(**x.of("match_kl"))
    x.q.requires_grad_()
    with pytest.raises(ValueError, match="match_kl_scaled: f has no gradient here"):
        narrow_triton.match_kl_scaled(**x.of("match_kl_scaled"))


@pytest.mark.parametrize(
    "case", [replace(SMALL, dtype=torch.float64), replace(SMALL, D=9), SMALL], ids=str
)
def test_float64_wide_rows_and_the_cpu_are_the_references(case: Case) -> None:
    # Not in the child: here nothing is interpreted.
    x = build_loss(case, exclude=True)
    found = narrow_triton.maxsim_indices(x.q, x.d, x.a)
    assert all(map(torch.equal, found, reference.maxsim_indices(x.q, x.d, x.a)))
    for op in DIFFERENTIABLE:
        expected = run_loss(reference, op, x)
        for name, mine in run_loss(narrow_triton, op, x).items():
            assert torch.equal(mine, expected[name])


def test_why_not_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setenv("CC", "cc")
    assert "not for cpu" in (narrow_triton.why_not("cpu") or "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert narrow_triton.why_not("cuda") == "torch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "capability 8.0, the device has 7.5" in (narrow_triton.why_not("cuda") or "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert narrow_triton.why_not("cuda") is None
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "install gcc or clang, or set CC" in (narrow_triton.why_not("cuda") or "")
    monkeypatch.delitem(sys.modules, "emergence_ext.ops.narrow_kernels", raising=False)
    monkeypatch.delattr(ops, "narrow_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton cannot be imported" in (narrow_triton.why_not("cuda:0") or "")


def assert_loss(op: str, x: LossInputs, child: Run) -> dict[str, torch.Tensor]:
    """Hold what the kernels give against the reference in float64, and return it."""
    (found,) = child(interpreted.losses, op, x, {})
    oracle.assert_loss(x, op, found, run_loss(reference, op, x, torch.float64))
    return found
