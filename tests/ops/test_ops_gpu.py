"""What the ops compute on a GPU. Only torch and pytest are needed, so that this runs anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.ops import reference
from tests import oracle
from tests.cases import (
    CASES,
    DIFFERENTIABLE,
    DTYPES,
    KINDS,
    LARGE,
    Case,
    build,
    build_loss,
    run_loss,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

DEVICE = "cuda"
TIES = [case for case in CASES if case.values == "ties"]
SMALL = Case(N=4, R=5, B=3, S=7, D=4)
EPS = torch.finfo(torch.float32).eps
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
kinds = pytest.mark.parametrize("case", KINDS, ids=str)
at_every_precision = pytest.mark.parametrize("precision", ["highest", "high", "medium"])


# Values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_scores_and_matches_are_the_references(
    case: Case, dtype: torch.dtype, cuda_path: str
) -> None:
    here, there = (build(replace(case, dtype=dtype), device) for device in ("cpu", DEVICE))
    T, argmax = ops.maxsim_indices(there.q, there.d, there.a)
    assert T.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert argmax.dtype == torch.int64
    exact = [None if t is None else t.double() for t in (here.q, here.d, here.a)]
    truth = reference.maxsim_indices(*exact)
    oracle.assert_scores(here.q, here.d, here.a, T.cpu(), argmax.cpu(), truth)
    assert torch.equal(ops.maxsim(there.q, there.d, there.a), T)


# Of sum_k |q_k d_k|, by how much a match may lie below the best one beside the rounding of sums:
# twice what rounding the factors does to a product. bfloat16 misses by 2^-9, its high and low parts
# together by 2^-18, and so does a product without that of the low parts.
ROUNDED = {"highest": 0.0, "high": 2.0**-14, "medium": 2.0**-6}


@at_every_precision
@pytest.mark.parametrize("values", ["normal", "near ties"])
@pytest.mark.parametrize("S", [5, 49, 257])
@pytest.mark.parametrize("D", [3, 40, 64, 127, 512])
def test_a_match_is_as_good_as_its_precision_says_and_scored_in_float32(
    D: int, S: int, values: str, precision: str, cuda_path: str
) -> None:
    x = build(Case(N=3, R=70, B=2, S=S, D=D), DEVICE)
    d = x.d
    if values == "near ties":
        # Regions that differ by as much as rounding to bfloat16 moves them.
        generator = torch.Generator().manual_seed(3)
        d = d[:, :1] * (1 + 2**-8 * torch.randn(d.shape, generator=generator).to(DEVICE))
    T, argmax = (t.cpu() for t in ops.maxsim_indices(x.q, d, x.a, precision=precision))
    q, d, a = (t.cpu().double() for t in (x.q, d, x.a))
    products = torch.einsum("nrk,bsk->bnrs", q, d)
    magnitude = torch.einsum("nrk,bsk->bnrs", q.abs(), d.abs()).amax(-1)
    chosen = products.gather(-1, argmax.unsqueeze(-1)).squeeze(-1)
    bound = ROUNDED[precision] + 2 * D * EPS
    assert (products.amax(-1) - chosen <= bound * magnitude).all()
    slack = (a * magnitude).sum(-1) * (D + a.shape[1]) * EPS
    assert ((T - (a * chosen).sum(-1)).abs() <= slack).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TIES, ids=str)
def test_a_tie_goes_to_the_lowest_index(case: Case, dtype: torch.dtype, cuda_path: str) -> None:
    x = build(replace(case, dtype=dtype), DEVICE)
    truth = reference.maxsim_indices(*(t.cpu().double() for t in (x.q, x.d, x.a)))
    assert torch.equal(ops.maxsim_indices(x.q, x.d, x.a)[1].cpu(), truth[1])


@at_every_precision
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("D", [3, 8, 9, 37, 129, 512])
def test_equal_regions_tie_at_every_place(
    D: int, dtype: torch.dtype, precision: str, cuda_path: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 70, D, generator=generator).to(DEVICE, dtype)
    d = torch.randn(1, 1, D, generator=generator).to(DEVICE, dtype).expand(3, 197, D)
    assert not ops.maxsim_indices(q, d, precision=precision)[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [4, 72])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("S", [1, 2, 7, 8, 15, 49, 65, 196, 200, 256, 257])
def test_a_planted_maximum_is_found(
    S: int, place: str, D: int, dtype: torch.dtype, cuda_path: str
) -> None:
    x = build(Case(N=3, R=5, B=5, S=S, D=D, values=place, dtype=dtype), DEVICE)
    assert (ops.maxsim_indices(x.q, x.d, x.a)[1] == (0 if place == "first" else S - 1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_gradients_of_scores_are_the_references(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype), DEVICE)
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a) if t is not None]
    G = torch.randn(case.B, case.N, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = torch.autograd.grad(ops.maxsim(*inputs), inputs, G.to(DEVICE))
    exact = [t.detach().cpu().double().requires_grad_() for t in inputs]
    theirs = torch.autograd.grad(reference.maxsim(*exact), exact, G.double())
    weights = exact[2].detach() if case.weights else torch.ones(case.N, case.R)
    slack = oracle.rounding_of_gradients(exact[0].detach(), exact[1].detach(), weights, G)
    scale = torch.finfo(dtype).eps / EPS
    for name, mine, other in zip("qda", ours, theirs, strict=case.weights):
        assert mine.dtype == dtype
        assert ((mine.cpu() - other).abs() <= scale * slack[name]).all(), name


@both
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_loss_and_gradients_are_the_references(
    case: Case, dtype: torch.dtype, exclude: bool, op: str, cuda_path: str
) -> None:
    here, there = (
        build_loss(replace(case, dtype=dtype), exclude=exclude, device=device)
        for device in ("cpu", DEVICE)
    )
    found = {name: t.cpu() for name, t in run_loss(ops, op, there).items()}
    expected = run_loss(reference, op, here, torch.float64)
    assert all(t.dtype == dtype for t in found.values())
    if dtype == torch.float32:
        oracle.assert_loss(here, op, found, expected)
        return
    for name, mine in found.items():
        torch.testing.assert_close(mine, expected[name], rtol=1e-10, atol=1e-13)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("D", [4, 19, 64])
def test_losses_of_16_bit_inputs_are_of_their_numbers(D: int, dtype: torch.dtype, op: str) -> None:
    case = replace(SMALL, D=D, dtype=dtype)
    here, there = (build_loss(case, exclude=True, device=device) for device in ("cpu", DEVICE))
    found = {name: t.cpu() for name, t in run_loss(ops, op, there).items()}
    oracle.assert_loss(here, op, found, run_loss(reference, op, here, torch.float64))


@at_every_precision
@kinds
def test_the_loss_is_of_the_scores_at_its_precision(
    case: Case, precision: str, cuda_path: str
) -> None:
    x = build_loss(case, exclude=True, device=DEVICE)
    found = {k: t.cpu() for k, t in run_loss(ops, "match_kl", x, precision=precision).items()}
    T, argmax = (t.cpu() for t in ops.maxsim_indices(x.q, x.d, x.a, precision=precision))
    q, d, a, b, P = (t.cpu().double() for t in (x.q, x.d, x.a, x.b, x.P))
    column = x.exclude.cpu().unsqueeze(1) == torch.arange(case.N)
    log_Q = torch.log_softmax((T.double() + b).masked_fill(column, -torch.inf), 1)
    cross = torch.where(P > 0, P * log_Q, 0)
    G = (log_Q.exp() * P.sum(1, keepdim=True) - P) / len(P)
    matched = torch.nn.functional.one_hot(argmax, case.S).double()
    u = torch.einsum("bn,bnrs,bsk->nrk", G, matched, d)
    expected = {
        "loss": (torch.xlogy(P, P) - cross).sum(1).mean(),
        "q": a.unsqueeze(2) * u,
        "d": torch.einsum("bn,nr,bnrs,nrk->bsk", G, a, matched, q),
        "a": (q * u).sum(2),
        "b": G.sum(0),
    }
    for name, mine in found.items():
        error = (mine.double() - expected[name]).norm() / expected[name].norm()
        assert error <= 1e-5 + torch.finfo(mine.dtype).eps, name


@at_every_precision
@pytest.mark.parametrize("D", [3, 19, 64])
def test_scaled_is_the_loss_of_the_products(D: int, precision: str, cuda_path: str) -> None:
    x = build_loss(Case(N=9, R=50, B=11, S=49, D=D), exclude=True, device=DEVICE)
    product = replace(x, q=x.q * x.v.unsqueeze(1))
    plain = run_loss(ops, "match_kl", product, precision=precision)
    scaled = run_loss(ops, "match_kl_scaled", x, precision=precision)
    plain["v"] = (x.q * plain["q"]).sum(1)
    for name, mine in scaled.items():
        torch.testing.assert_close(mine, plain[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, D=19), replace(SMALL, S=300)], ids=str)
def test_gradients_pass_gradcheck(case: Case) -> None:
    case = replace(case, dtype=torch.float64)
    x, fast = build(case, DEVICE), case.S > 100
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    assert torch.autograd.gradcheck(ops.maxsim, inputs, fast_mode=fast)
    for op, names in DIFFERENTIABLE.items():
        y = build_loss(case, exclude=True, device=DEVICE).of(op)

        def loss(*values: Tensor, op=op, y=y, names=names) -> Tensor:
            return getattr(ops, op)(**y | dict(zip(names, values, strict=True)))

        leaves = [y[name].requires_grad_() for name in names]
        assert torch.autograd.gradcheck(loss, leaves, fast_mode=fast)


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, D=72)], ids=str)
@pytest.mark.parametrize("strides", ["transposed", "sliced", "expanded"])
def test_strides_do_not_change_a_bit(case: Case, strides: str) -> None:
    x = build(replace(case, strides=strides), DEVICE)
    plain = [t.clone(memory_format=torch.contiguous_format) for t in (x.q, x.d, x.a)]
    assert not all(t.is_contiguous() for t in (x.q, x.d, x.a))
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), ops.maxsim(*plain))


@both
@pytest.mark.parametrize("D", [4, 72])
@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (0, 0, 5), (3, 2, 0)])
def test_empty_inputs_are_the_references(N: int, B: int, R: int, D: int, op: str) -> None:
    case = replace(SMALL, N=N, B=B, R=R, D=D)
    x = build(case, DEVICE)
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert T.shape == (B, N) and argmax.shape == (B, N, R) and not T.any()
    expected = run_loss(reference, op, build_loss(case))
    for name, mine in run_loss(ops, op, build_loss(case, device=DEVICE)).items():
        torch.testing.assert_close(mine.cpu(), expected[name])


# What is not a number


@at_every_precision
@kinds
@pytest.mark.parametrize("name", ["q", "d", "a"])
def test_nan_reaches_every_score_that_it_touches_and_no_other(
    name: str, case: Case, precision: str, cuda_path: str
) -> None:
    x = build(case, DEVICE)
    expected = ops.maxsim(x.q, x.d, x.a, precision=precision)
    getattr(x, name)[2, 4] = torch.nan
    T = ops.maxsim(x.q, x.d, x.a, precision=precision)
    touched = torch.zeros_like(T, dtype=torch.bool)
    touched[2 if name == "d" else slice(None), slice(None) if name == "d" else 2] = True
    assert torch.equal(T.isnan(), touched)
    assert torch.equal(T[~touched], expected[~touched])


@both
@kinds
def test_nan_reaches_the_loss(case: Case, op: str, cuda_path: str) -> None:
    for name in ("d", "a", "b", "P"):
        x = build_loss(case, device=DEVICE).of(op)
        x[name][(2, 1) if name != "b" else 2] = torch.nan
        assert getattr(ops, op)(**x).isnan()


@at_every_precision
@pytest.mark.parametrize("D", [2, 3, 8, 9, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_product_that_overflows_gives_no_plausible_wrong_score(
    sign: int, dtype: torch.dtype, D: int, precision: str, cuda_path: str
) -> None:
    # In region 1, 1e30 * 1e30 - 1e30 * 1e30: 0, or in float32 inf, -inf or NaN; the best is 2e30.
    if cuda_path == "split" and D <= 8:
        pytest.skip("split selects to a share of the largest product, here 1e60")
    q, d = (torch.zeros(1, n, D, dtype=dtype, device=DEVICE) for n in (1, 3))
    q[..., 0] = q[..., -1] = 1e30
    d[:, 1, 0], d[:, 1, -1] = sign * 1e30, -sign * 1e30
    d[:, 2] = 1
    T = ops.maxsim(q, d, precision=precision)
    assert not T.isfinite().any() or abs(T.item() / 2e30 - 1) < 0.01
