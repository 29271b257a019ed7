"""Gradients on an emulated GPU, from matches that a test chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.cases import Case, build
from tests.emulated import EmulatedGPU

# Channels past a slice of 64 and past a pair; rows past a warp's 32 and past a block of threads;
# candidates past what shared memory holds of them.
CASES = [
    Case(N=3, R=37, B=2, S=5, D=9),
    Case(N=2, R=33, B=9, S=20, D=65),
    Case(N=17, R=70, B=2, S=12, D=72),
    Case(N=2, R=40, B=3, S=430, D=130),
    # Narrow rows, more of them than a warp takes together and more candidates than fit at once.
    Case(N=5, R=300, B=2, S=7, D=3),
    Case(N=70, R=20, B=2, S=900, D=4),
]
HALVES = [torch.bfloat16, torch.float16]


def matches(case: Case, kind: str) -> Tensor:
    shape = (case.B, case.N, case.R)
    if kind == "same":  # all rows meet at one candidate
        return torch.full(shape, case.S - 1)
    if kind == "turns":  # neighbours meet now and then
        return torch.arange(case.B * case.N * case.R).view(shape) // 2 % 3 % case.S
    return torch.randint(case.S, shape, generator=torch.Generator().manual_seed(1))


def gradients(
    gpu: EmulatedGPU, case: Case, kind: str, like: torch.dtype | None = None
) -> dict[str, Tensor]:
    """dq, dd and da of the case's values, in their own type or in that of `like`."""
    x = build(case)
    assert x.a is not None
    G = torch.randn(case.B, case.N, generator=torch.Generator().manual_seed(2))
    rows = [t.to(like or case.dtype) for t in (x.q, x.d, x.a)]
    found = gpu.ops.maxsim_backward(
        G.to(rows[0].dtype if rows[0].dtype == torch.float64 else torch.float32),
        *rows,
        matches(case, kind),
        [True] * 3,
    )
    return dict(zip(("q", "d", "a"), found, strict=True))


def truth(case: Case, kind: str) -> dict[str, Tensor]:
    """The same in float64 by plain indexing."""
    x = build(case)
    assert x.a is not None
    q, d, a = (t.double() for t in (x.q, x.d, x.a))
    G = torch.randn(case.B, case.N, generator=torch.Generator().manual_seed(2)).double()
    argmax = matches(case, kind)
    dq, dd, da = torch.zeros_like(q), torch.zeros_like(d), torch.zeros_like(a)
    for i in range(case.B):
        chosen = d[i][argmax[i]]
        dq += G[i, :, None, None] * a[..., None] * chosen
        da += G[i, :, None] * (q * chosen).sum(-1)
        moved = (G[i, :, None, None] * a[..., None] * q).reshape(-1, case.D)
        dd[i].index_add_(0, argmax[i].reshape(-1), moved)
    return {"q": dq, "d": dd, "a": da}


@pytest.mark.parametrize("kind", ["random", "same", "turns"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_sums_over_matches(case: Case, kind: str, emulated_gpu: EmulatedGPU) -> None:
    emulated_gpu.set_device(shared=99 << 10)
    expected = truth(case, kind)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        found = gradients(emulated_gpu, case, kind, dtype)
        for name, mine in found.items():
            scale = expected[name].abs().max()
            assert (mine - expected[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", ["random", "same"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_16_bits_are_gathered_as_their_float32_copies_would_be(
    case: Case, kind: str, dtype: torch.dtype, emulated_gpu: EmulatedGPU
) -> None:
    emulated_gpu.set_device(shared=99 << 10)
    case = replace(case, dtype=dtype)
    found = gradients(emulated_gpu, case, kind)
    copies = gradients(emulated_gpu, case, kind, torch.float32)
    for name, mine in found.items():
        assert mine.dtype == dtype
        assert torch.equal(mine, copies[name].to(dtype)), name


@pytest.mark.parametrize("kind", ["random", "same"])
def test_gradients_do_not_depend_on_the_order_of_threads(
    kind: str, emulated_gpu: EmulatedGPU
) -> None:
    case = replace(CASES[1], dtype=torch.bfloat16)
    first = gradients(emulated_gpu, case, kind)
    for schedule in (0, 1, 3):
        emulated_gpu.set_schedule(schedule)
        for name, mine in gradients(emulated_gpu, case, kind).items():
            assert torch.equal(mine, first[name]), name


@pytest.mark.parametrize(("N", "R"), [(0, 4), (4, 0)])
@pytest.mark.parametrize("D", [3, 40])
def test_without_scored_rows_the_gradient_is_zero(
    N: int, R: int, D: int, emulated_gpu: EmulatedGPU
) -> None:
    case = Case(N=N, R=R, B=2, S=3, D=D, dtype=torch.bfloat16)
    assert (gradients(emulated_gpu, case, "same")["d"] == 0).all()
