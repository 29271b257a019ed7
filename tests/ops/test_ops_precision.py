"""What each `precision` promises on the CPU, at every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from tests.cases import Case, build, build_loss

pytestmark = pytest.mark.usefixtures("level")

HAS_PAIRS = "avx512_bf16"
EPS = torch.finfo(torch.float32).eps
BOUND = 2.0**-6


def usual(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    x = build(case)
    return x.q, x.d, x.a


def near_ties(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Regions of d that differ by as much as rounding to bfloat16 moves them."""
    x, generator = build(case), torch.Generator().manual_seed(3)
    return x.q, x.d[:, :1] * (1 + 2**-8 * torch.randn(x.d.shape, generator=generator)), x.a


def worst(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The best region loses all that rounding can take, others gain all that it can give.

    1 + 2^-8 lies halfway between two numbers of bfloat16.
    """
    x, half = build(case), case.D // 2
    down, up = 1 + 2**-8 - 2**-14, 1 + 2**-8 + 2**-14
    x.q[..., :half], x.q[..., half:] = down, up
    x.d.zero_()
    x.d[:, 0, :half] = down
    x.d[:, 1:, half : case.D - half // 80] = up
    return x.q, x.d, x.a


def worst_of_rests(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Three products of two planes of bfloat16 take what misses by nearly their bound.

    All four numbers lie by nearly 2^-8 beside their first plane and by 2^-17 beside both: those of
    the best region so that all that is left out adds, those of the others so that it subtracts.
    """
    x, half = build(case), (case.D - 1) // 2
    up, down = 1 + 2**-8 + 2**-17, 1 + 2**-8 - 2**-17
    x.q[..., :half], x.q[..., half:], x.q[..., -1] = up, down, 1
    x.d.zero_()
    x.d[:, 0, :half] = up
    x.d[:, 1:, half : 2 * half] = 1 + 2**-8 + 2**-16 + 2**-17 + 2**-20
    x.d[:, 1:, -1] = -half * 1.8 * 2.0**-15
    return x.q, x.d, x.a


@pytest.mark.parametrize("D", [3, 16, 64, 512])
def test_high_is_highest_to_the_bit(D: int) -> None:
    x = build(Case(N=3, R=17, B=2, S=13, D=D))
    found = ops.maxsim_indices(x.q, x.d, x.a, precision="high")
    expected = ops.maxsim_indices(x.q, x.d, x.a, precision="highest")
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("D", "dtype"), [(3, torch.float32), (31, torch.float32), (64, torch.float64)], ids=str
)
def test_medium_is_highest_for_narrow_regions_and_float64(D: int, dtype: torch.dtype) -> None:
    x = build(Case(N=3, R=17, B=2, S=13, D=D, dtype=dtype))
    found = ops.maxsim_indices(x.q, x.d, x.a, precision="medium")
    assert all(map(torch.equal, found, ops.maxsim_indices(x.q, x.d, x.a)))


@pytest.mark.parametrize("inputs", [usual, near_ties])
@pytest.mark.parametrize("S", [5, 6, 49, 257])
@pytest.mark.parametrize("D", [40, 64, 127, 512])
def test_medium_selects_within_its_bound_and_scores_what_it_selected(
    D: int, S: int, inputs: Callable[[Case], tuple[Tensor, ...]], level: str
) -> None:
    q, d, a = inputs(Case(N=3, R=70, B=2, S=S, D=D))
    T, argmax = ops.maxsim_indices(q, d, a, precision="medium")
    assert torch.equal(ops.maxsim(q, d, a, precision="medium"), T)
    missed, magnitude, chosen = missed_by(q, d, argmax)
    assert (missed <= BOUND * magnitude).all()
    slack = (a.double() * magnitude).sum(-1) * (D + a.shape[1]) * EPS
    assert ((T - (a.double() * chosen).sum(-1)).abs() <= slack).all()
    if level != HAS_PAIRS:
        assert all(map(torch.equal, (T, argmax), ops.maxsim_indices(q, d, a)))
    elif inputs is near_ties and D >= 64:
        assert (missed > 0).any()  # else any arithmetic would hold the bound


def test_medium_misses_by_no_more_than_its_bound_where_rounding_is_worst(level: str) -> None:
    q, d, a = worst(Case(N=2, R=70, B=2, S=13, D=512))
    _, argmax = ops.maxsim_indices(q, d, a, precision="medium")
    missed, magnitude, _ = missed_by(q, d, argmax)
    share = missed / (BOUND * magnitude)
    if level == HAS_PAIRS:
        assert (share > 0.7).all()
        assert (share <= 1).all()
    else:
        assert not share.any()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("D", [3, 72])
def test_the_loss_is_of_the_scores_at_its_precision(D: int, precision: str) -> None:
    # Loss and gradients describe the same matches, so that they are those of maxsim's own pieces.
    x = build_loss(Case(N=5, R=9, B=11, S=13, D=D), exclude=True)
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a, x.b)]
    loss = ops.match_kl(*inputs, x.P, x.exclude, precision=precision)
    q, d, a, b = (t.detach() for t in inputs)
    T, argmax = ops.maxsim_indices(q, d, a, precision=precision)
    column = x.exclude.unsqueeze(1) == torch.arange(5)
    logits, P = (T.double() + b).masked_fill(column, -torch.inf), x.P.double()
    log_Q = torch.log_softmax(logits, 1)
    expected = (torch.xlogy(P, P) - torch.where(P > 0, P * log_Q, 0)).sum(1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-7)
    G = (log_Q.exp() * P.sum(1, keepdim=True) - P) / len(P)
    pieces = ops._compiled.maxsim_backward(G.float(), q, d, a, argmax, [True] * 3)
    grads = torch.autograd.grad(loss, inputs)
    for grad, piece in zip(grads, [*pieces, G.sum(0).float()], strict=True):
        torch.testing.assert_close(grad, piece, rtol=1e-5, atol=1e-6)


def missed_by(q: Tensor, d: Tensor, argmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By how much a match misses its maximum, the largest sum of magnitudes, the match's product.

    All `[B, N, R]` in float64.
    """
    values = torch.einsum("nrk,bsk->bnrs", q.double(), d.double())
    magnitude = torch.einsum("nrk,bsk->bnrs", q.double().abs(), d.double().abs())
    chosen = values.gather(-1, argmax.unsqueeze(-1)).squeeze(-1)
    return values.amax(-1) - chosen, magnitude.amax(-1), chosen


@pytest.mark.parametrize("D", [63, 64, 70, 129])
@pytest.mark.parametrize("begins", [0, 1])
def test_bfloat16_regions_are_matched_where_they_are_stored(begins: int, D: int) -> None:
    x = build(Case(N=3, R=70, B=5, S=13, D=D, dtype=torch.bfloat16))
    memory = torch.full((begins + x.d.numel(),), torch.nan, dtype=torch.bfloat16)
    memory[begins:] = x.d.flatten()
    T, argmax = ops.maxsim_indices(x.q, memory[begins:].view(x.d.shape), x.a)
    products = torch.einsum("jrd,isd->ijrs", x.q.double(), x.d.double())
    chosen = products.gather(-1, argmax[..., None])[..., 0]
    slack = D * EPS * torch.einsum("jrd,isd->ijrs", x.q.double().abs(), x.d.double().abs())
    assert (products.amax(-1) - chosen <= slack.amax(-1)).all()
    torch.testing.assert_close(T.double(), (x.a.double() * chosen).sum(-1), rtol=1e-4, atol=1e-3)
    # Rows that lie otherwise are copied.
    apart = torch.full((*x.d.shape[:2], D + 3), torch.nan, dtype=torch.bfloat16)[..., :D]
    assert torch.equal(ops.maxsim(x.q, apart.copy_(x.d), x.a), ops.maxsim(x.q, x.d.clone(), x.a))
