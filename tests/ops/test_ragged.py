"""Sets of different sizes: results are those of the sets without padding, which may be anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference
from tests import oracle
from tests.cases import DIFFERENTIABLE, DTYPES, Case, LossInputs, build, build_loss, run_loss

SMALL = Case(N=5, R=6, B=4, S=7, D=4)
KINDS = [SMALL, replace(SMALL, D=19), replace(SMALL, D=70), replace(SMALL, S=300, R=70)]
Q_LENGTHS, D_LENGTHS = torch.tensor([6, 1, 0, 4, 2]), torch.tensor([3, 7, 0, 1])

both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
either = pytest.mark.parametrize("over", ["q", "d"])
everywhere = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
at_each_backend = pytest.mark.usefixtures("each_backend")


def ragged(case: Case, over: str = "q", least: int = 0) -> LossInputs:
    """The inputs of a loss with NaN wherever there is padding; lengths of at least `least`."""
    x = build_loss(case, exclude=True, over=over)
    generator = torch.Generator().manual_seed(7)
    q_lengths = torch.randint(least, case.R + 1, (case.N,), generator=generator)
    d_lengths = torch.randint(least, case.S + 1, (case.B,), generator=generator)
    q_lengths[0], d_lengths[-1] = case.R, case.S
    if least == 0:
        q_lengths[-1] = d_lengths[0] = 0
    q, d, a = x.q.clone(), x.d.clone(), x.a.clone()
    for j, length in enumerate(q_lengths):
        q[j, length:] = a[j, length:] = torch.nan
    for i, length in enumerate(d_lengths):
        d[i, length:] = torch.nan
    return replace(x, q=q, d=d, a=a, q_lengths=q_lengths, d_lengths=d_lengths)


def lengths_of(x: LossInputs) -> dict[str, Tensor | None]:
    return {"q_lengths": x.q_lengths, "d_lengths": x.d_lengths}


@everywhere
@at_each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", KINDS[:3], ids=str)
def test_scores_and_matches_are_the_oracles(case: Case, dtype: torch.dtype, module: Any) -> None:
    x = ragged(replace(case, dtype=dtype))
    T, argmax = module.maxsim_indices(x.q, x.d, x.a, **lengths_of(x), empty_score=-7.0)
    truth, matches = oracle.maxsim(x.q, x.d, x.a, **lengths_of(x), empty_score=-7.0)
    torch.testing.assert_close(T.double(), torch.tensor(truth).double(), rtol=1e-5, atol=1e-5)
    assert argmax.tolist() == matches
    assert (T[0] == -7).all() and not T[1:, -1].any()
    T = module.maxsim(x.q, x.d, x.a, **lengths_of(x))
    assert (T[0] == -1e9).all()


@at_each_backend
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_a_pair_is_that_of_its_sets_alone(case: Case, weights: bool, each_backend: str) -> None:
    x = ragged(case, least=1)
    a = x.a if weights else None
    T, argmax = ops.maxsim_indices(x.q, x.d, a, **lengths_of(x))
    for i, S in enumerate(x.d_lengths.tolist()):
        for j, R in enumerate(x.q_lengths.tolist()):
            alone = x.q[j : j + 1, :R], x.d[i : i + 1, :S], None if a is None else a[j : j + 1, :R]
            score, matches = ops.maxsim_indices(*alone)
            assert argmax[i, j, :R].tolist() == matches.flatten().tolist()
            if each_backend == "emulated CUDA":  # whose sums end elsewhere
                torch.testing.assert_close(T[i, j], score[0, 0])
            else:
                assert torch.equal(T[i, j], score[0, 0])


@both
@either
@at_each_backend
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_lengths_that_are_equal_give_the_bits_of_the_sets_without_padding(
    case: Case, over: str, op: str, each_backend: str
) -> None:
    R, S = case.R - 2, case.S - 3
    x = build_loss(case, exclude=True, over=over)
    x.q[:, R:] = x.a[:, R:] = x.d[:, S:] = torch.nan
    found = run_loss(
        ops, op, replace(x, q_lengths=torch.full((case.N,), R), d_lengths=torch.full((case.B,), S))
    )
    expected = run_loss(ops, op, replace(x, q=x.q[:, :R], d=x.d[:, :S], a=x.a[:, :R]))
    for name, mine in found.items():
        other = torch.zeros_like(mine)
        other[tuple(slice(0, n) for n in expected[name].shape)] = expected[name]
        if each_backend == "emulated CUDA":  # whose sums end elsewhere
            torch.testing.assert_close(mine, other)
        else:
            assert torch.equal(mine, other), name


@everywhere
@both
@either
@at_each_backend
@pytest.mark.parametrize("D", [4, 19])
def test_loss_is_the_oracles_and_gradients_its_differences(
    D: int, over: str, op: str, module: Any
) -> None:
    x = ragged(replace(SMALL, D=D, dtype=torch.float64), over)
    alone = {"empty_score": -20.0}  # of which b leaves more digits than of -1e9
    found = run_loss(module, op, x, **alone)
    truth = getattr(oracle, op)(**x.of(op), **alone)
    assert found["loss"].item() == pytest.approx(truth, rel=1e-9)
    padding = {"q": x.q.isnan(), "d": x.d.isnan(), "a": x.a.isnan()}
    for name in DIFFERENTIABLE[op]:
        assert found[name].isfinite().all()
        if name in padding:
            assert not found[name][padding[name]].any()
        for place in [(1,) + (0,) * (found[name].ndim - 1), (0,) * found[name].ndim]:
            losses = []
            for sign in (1, -1):
                moved = x.of(op)
                moved[name] = moved[name].clone()
                moved[name][place] += sign * 1e-6
                losses.append(getattr(oracle, op)(**moved, **alone))
            slope = (losses[0] - losses[1]) / 2e-6
            assert found[name][place].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@at_each_backend
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("case", KINDS[:2], ids=str)
def test_gradients_of_scores_are_the_references(
    case: Case, weights: bool, generator: torch.Generator
) -> None:
    x = ragged(replace(case, dtype=torch.float64))
    G = torch.randn(case.B, case.N, generator=generator, dtype=torch.float64)
    found = []
    for module in (ops, reference):
        inputs = [t.detach().requires_grad_() for t in (x.q, x.d, x.a)[: 3 if weights else 2]]
        T = module.maxsim(*inputs, **lengths_of(x))
        found.append(torch.autograd.grad(T, inputs, G))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


@at_each_backend
@pytest.mark.usefixtures("threads")
@both
@either
def test_bits_depend_neither_on_threads_nor_on_the_block(over: str, op: str) -> None:
    x = ragged(Case(N=37, R=9, B=27, S=11, D=3), over)
    results = []
    for number, max_memory in ((1, None), (2, 4 << 20), (8, None), (1, 1 << 20)):
        torch.set_num_threads(number)
        results.append(run_loss(ops, op, x, max_memory=max_memory))
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in other)


@everywhere
@at_each_backend
@both
@either
def test_full_lengths_of_either_type_are_none_at_all(over: str, op: str, module: Any) -> None:
    x = build_loss(SMALL, exclude=True, over=over)
    expected = run_loss(module, op, x)
    for dtype in (torch.int64, torch.int32):
        full = torch.full((5,), 6, dtype=dtype), torch.full((4,), 7, dtype=dtype)
        found = run_loss(module, op, replace(x, q_lengths=full[0], d_lengths=full[1]))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@everywhere
@at_each_backend
@both
def test_images_without_any_region_are_all_alike(op: str, module: Any) -> None:
    x = build_loss(replace(SMALL, dtype=torch.float64), over="d")
    x = replace(x, d_lengths=torch.zeros(4, dtype=torch.int64), d=x.d.fill_(torch.nan))
    found = run_loss(module, op, x)
    P, log_q = x.P, torch.log_softmax(x.b, 0)
    expected = (torch.xlogy(P, P) - P * log_q).sum(1).mean()
    # b - 1e9 + 1e9 in float64
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=1e-6)
    assert not any(found[name].any() for name in found if name not in ("loss", "b"))


@everywhere
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("op", ["maxsim", "maxsim_indices", *DIFFERENTIABLE])
@pytest.mark.parametrize(
    ("lengths", "kind", "says"),
    [
        (torch.tensor([1, 2, 3, 4, 7]), ValueError, r"must lie in \[0, 6\].* from 1 to 7"),
        (torch.tensor([-1, 2, 3, 4, 5]), ValueError, r"must lie in \[0, 6\].* from -1 to 5"),
        (torch.tensor([1, 2]), ValueError, r"must be \[5\], one for each image of q, got \[2\]"),
        (torch.ones(5, 1, dtype=torch.int64), ValueError, r"must be \[5\].* got \[5, 1\]"),
        (torch.ones(5), TypeError, "must be int64 or int32 on cpu, got"),
        (torch.ones(5, dtype=torch.bool), TypeError, "must be int64 or int32 on cpu, got"),
        (
            torch.ones(5, dtype=torch.int64, device="meta"),
            TypeError,
            "must be .* on cpu, got .* on meta",
        ),
    ],
    ids=["long", "negative", "few", "shape", "float", "bool", "device"],
)
def test_wrong_lengths_are_named(
    lengths: Tensor, kind: type[Exception], says: str, op: str, module: Any
) -> None:
    x = build_loss(SMALL)
    given = x.of(op) if op in DIFFERENTIABLE else {"q": x.q, "d": x.d}
    # The scores' checks are those of one op.
    with pytest.raises(kind, match=f"^{op.removesuffix('_indices')}.*: q_lengths {says}"):
        getattr(module, op)(**given, q_lengths=lengths)
    if kind is TypeError:
        with pytest.raises(kind, match=": d_lengths must be int64 or int32"):
            getattr(module, op)(**given, d_lengths=lengths[:4])


@pytest.mark.usefixtures("level")
def test_a_number_that_is_not_finite_is_named_where_it_counts() -> None:
    x = ragged(SMALL, least=2)
    x.d[2, 1, 3] = torch.inf
    for module in (ops, reference):
        with pytest.raises(ValueError, match="maxsim: d is not finite at sample 2, region 1"):
            module.maxsim(x.q, x.d, x.a, **lengths_of(x))


@pytest.mark.usefixtures("library")
@both
def test_torch_is_told_of_lengths(op: str) -> None:
    x = ragged(replace(SMALL, dtype=torch.float64), least=1)
    for name in DIFFERENTIABLE[op]:
        getattr(x, name).nan_to_num_().requires_grad_()
    given = list(x.of(op).values())
    arguments = (*given[:-2], [True for _ in DIFFERENTIABLE[op]], *given[-2:])
    torch.library.opcheck(getattr(ops._compiled, op), arguments)
    leaves = [t.detach().requires_grad_() for t in (x.q, x.d, x.a)]
    torch.library.opcheck(ops._compiled.maxsim, (*leaves, x.q_lengths, x.d_lengths))
    torch.library.opcheck(ops._compiled.maxsim_indices, (*leaves, x.q_lengths, x.d_lengths))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("op", ["maxsim", *DIFFERENTIABLE])
def test_lengths_go_through_compiled_graphs_and_torch_func(op: str) -> None:
    x = ragged(SMALL, least=1)
    given = x.of(op) if op in DIFFERENTIABLE else {"q": x.q, "d": x.d, "a": x.a} | lengths_of(x)
    name = DIFFERENTIABLE.get(op, ["q"])[0]

    def function(value: Tensor) -> Tensor:
        return getattr(ops, op)(**given | {name: value}).square().sum()

    leaf = given[name].detach().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(leaf), leaf)[0], expected)
    assert torch.equal(torch.func.grad(function)(given[name]), expected)


@pytest.mark.usefixtures("level")
def test_many_images_of_any_lengths_are_dealt_out_whole() -> None:
    # More rows and candidates than a task takes, sorted, so that tasks differ.
    case = Case(N=300, R=40, B=90, S=30, D=3)
    x = build(case)
    q_lengths, d_lengths = torch.arange(300) % 41, torch.arange(90) // 3
    given = {"q_lengths": q_lengths.sort().values, "d_lengths": d_lengths}
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a, **given)
    expected = reference.maxsim_indices(x.q.double(), x.d.double(), x.a.double(), **given)
    torch.testing.assert_close(T.double(), expected[0], rtol=1e-4, atol=1e-4)
    assert (argmax == expected[1]).float().mean() > 0.9999
