"""Random cases of the ops against the oracle: `python -m tests.ops.fuzz`, or `make fuzz`.

A case follows from its number alone: sizes that leave every kind of rest, values with ties, zeros
and extremes, types, strides, options and threads. What fails is printed with its number, and
`python -m tests.ops.fuzz --first NUMBER --cases 1` runs it again. The default tests take a sample.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from emergence_ext.ops import build_info, reference, use_instruction_set
from emergence_ext.ops import fused as ops
from tests import oracle
from tests.cases import DIFFERENTIABLE, DTYPES, Case, LossInputs, build, build_loss, run_loss

LOOPS = 8_000  # products of two numbers that the oracle's loops may take, some milliseconds
SIZES = [*range(1, 10), 12, 15, 16, 17, 31, 32, 33, 47, 49, 64, 65, 128, 196, 256, 257, 300]
VALUES = ["normal", "normal", "ties", "first", "last", "negative", "zero rows"]
STRIDES = ["contiguous", "transposed", "sliced", "expanded"]
BITS = {torch.float32: 40, torch.float64: 300, torch.bfloat16: 40, torch.float16: 3}


@dataclass(frozen=True)
class Problem:
    """One case: the op, its inputs, powers of two that scale q and d, options, threads."""

    number: int
    op: str
    case: Case
    exclude: bool
    over: str
    powers: tuple[int, int]
    threads: int
    ragged: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def draw(number: int) -> Problem:
    """The case of a number, the same on every machine."""
    rng = random.Random(number)
    sizes = {name: rng.choice(SIZES) for name in ("N", "R", "B", "S", "D")}
    while sizes["N"] * sizes["R"] * sizes["B"] * sizes["S"] * sizes["D"] > LOOPS:
        name = rng.choice(list(sizes))
        sizes[name] = max(1, sizes[name] // 2)
    values = rng.choice(VALUES)
    if values == "normal" and rng.random() < 0.06:
        sizes[rng.choice(["N", "R", "B"])] = 0
    case = Case(
        **sizes,
        values=values,
        strides=rng.choice(STRIDES),
        weights=rng.random() < 0.8,
        dtype=rng.choice(DTYPES),
        seed=number,
    )
    options: dict[str, Any] = {}
    if rng.random() < 0.6:
        options["precision"] = rng.choice(["highest", "high", "medium"])
    if rng.random() < 0.3:
        options["max_memory"] = 1 << rng.randint(16, 30)
    # Wide powers for scores alone: a softmax of huge scores says nothing.
    op = rng.choice(["maxsim", "maxsim", *DIFFERENTIABLE])
    most = BITS[case.dtype] if op == "maxsim" else 1
    powers = (rng.randint(-most, most), rng.randint(-most, most))
    over = rng.choice("qqd")
    ragged = rng.random() < 0.3 and STRIDES.index(case.strides) < 3
    exclude = rng.random() < 0.5 and sizes["N" if over == "q" else "B"] > 1
    threads = rng.choice([1, 2, 3, 8])
    return Problem(number, op, case, exclude, over, powers, threads, ragged, options)


def check(problem: Problem) -> None:
    """Hold the op, at the instruction set in use, against the oracle.

    Raises:
        AssertionError: what misses, and where.
    """
    if problem.ragged and problem.op == "maxsim":
        _check_ragged(problem)
    elif problem.op == "maxsim":
        _check_scores(problem)
    else:
        _check_loss(problem)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """For the op alone: the checks are faster without."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_scores(problem: Problem) -> None:
    x = build(problem.case)
    _scale(x.q, problem.powers[0])
    _scale(x.d, problem.powers[1])
    with _threads(problem.threads):
        T, argmax = ops.maxsim_indices(x.q, x.d, x.a, **problem.options)
    assert torch.equal(ops.maxsim(x.q, x.d, x.a, **problem.options), T), "maxsim has other scores"
    if 0 in (problem.case.N, problem.case.R, problem.case.B):
        assert not T.any() and T.shape == (problem.case.B, problem.case.N), "scores of nothing"
        return
    if _selects_by_pairs(problem):
        missed = _missed(x.q, x.d, argmax)
        assert (missed <= 2.0**-6).all(), f"a match is {float(missed.max()):.3g} below the best"
    else:
        oracle.assert_scores(x.q, x.d, x.a, T, argmax)
        if problem.case.values == "ties":
            matches = torch.tensor(oracle.maxsim(x.q, x.d, x.a)[1])
            assert torch.equal(argmax, matches.view(argmax.shape)), "a tie goes to another region"
    _check_gradients_of_scores(problem, x.q, x.d, x.a, T, argmax)
    with _threads(1):
        again = ops.maxsim_indices(x.q, x.d, x.a, **problem.options)
    assert torch.equal(again[0], T) and torch.equal(again[1], argmax), "threads change bits"


def _check_ragged(problem: Problem) -> None:
    """Each pair is that of its sets alone, bit for bit, and padding has no gradient."""
    x, case = build(problem.case), problem.case
    _scale(x.q, problem.powers[0])
    _scale(x.d, problem.powers[1])
    rng = random.Random(problem.number)
    q_lengths = [rng.randint(0, case.R) for _ in range(case.N)]
    d_lengths = [rng.randint(0, case.S) for _ in range(case.B)]
    for j, length in enumerate(q_lengths):
        x.q[j, length:] = torch.nan
        if x.a is not None:
            x.a[j, length:] = torch.nan
    for i, length in enumerate(d_lengths):
        x.d[i, length:] = torch.nan
    lengths = {name: torch.tensor(each, dtype=rng.choice([torch.int32, torch.int64])) for name, each
               in (("q_lengths", q_lengths), ("d_lengths", d_lengths))}  # fmt: skip
    options = problem.options | lengths
    leaves = [t.detach().requires_grad_() for t in (x.q, x.d, x.a) if t is not None]
    with _threads(problem.threads):
        T, argmax = ops.maxsim_indices(x.q, x.d, x.a, **options)
        grads = torch.autograd.grad(ops.maxsim(*leaves, **options).sum(), leaves)
    for leaf, grad in zip(leaves, grads, strict=True):
        assert not grad[leaf.isnan()].any() and not grad.isnan().any(), "a gradient of padding"
    # Whether sums may overflow or vanish, and so what computes, is decided for all sets together.
    alike = abs(sum(problem.powers)) < 60 and not _selects_by_pairs(problem)
    for i, S in enumerate(d_lengths):
        for j, R in enumerate(q_lengths):
            if S == 0 or R == 0:
                assert T[i, j] == (-1e9 if S == 0 else 0), "the score of nothing"
                continue
            a = None if x.a is None else x.a[j : j + 1, :R]
            alone = ops.maxsim_indices(x.q[j : j + 1, :R], x.d[i : i + 1, :S], a, **problem.options)
            if alike:
                assert torch.equal(T[i, j], alone[0][0, 0]), "a pair differs from its sets alone"
                assert torch.equal(argmax[i, j, :R], alone[1][0, 0]), "a match differs"


def _check_gradients_of_scores(
    problem: Problem, q: Tensor, d: Tensor, a: Tensor | None, T: Tensor, argmax: Tensor
) -> None:
    """The gradients of these matches, in float64 by the formulas of csrc/maxsim.h."""
    generator = torch.Generator().manual_seed(problem.number)
    G = torch.randn(T.shape, generator=generator, dtype=torch.float64).to(T.dtype)
    leaves = [x.detach().requires_grad_() for x in (q, d) + (() if a is None else (a,))]
    with _threads(problem.threads):
        found = torch.autograd.grad(ops.maxsim(*leaves, **problem.options), leaves, G)
    weights = torch.ones(q.shape[:2]) if a is None else a
    exact = [x.double() for x in (G, q, d, weights)]
    expected = _gradients(*exact, argmax)
    slack = _gradients(*(x.abs() for x in exact), argmax)
    (N, R, D), B = q.shape, len(d)
    eps = torch.finfo(T.dtype).eps * (B + N * R + D)
    for name, mine, other, most in zip("qda", found, expected, slack, strict=False):
        rounded = torch.finfo(mine.dtype).eps * other.abs() + torch.finfo(mine.dtype).tiny
        assert ((mine.double() - other).abs() <= eps * most + rounded).all(), f"gradient of {name}"


def _gradients(
    G: Tensor, q: Tensor, d: Tensor, a: Tensor, argmax: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B = len(d)
    chosen = d[torch.arange(B)[:, None, None], argmax]  # [B, N, R, D]
    u = (G[:, :, None, None] * chosen).sum(0)
    items = (G[:, :, None] * a)[..., None] * q  # [B, N, R, D]
    places = argmax + d.shape[1] * torch.arange(B)[:, None, None]
    dd = torch.zeros_like(d).flatten(0, 1)
    dd.index_add_(0, places.flatten(), items.flatten(0, 2))
    return a[..., None] * u, dd.view_as(d), (q * u).sum(-1)


def _check_loss(problem: Problem) -> None:
    if _selects_by_pairs(problem):
        problem = replace(problem, options=problem.options | {"precision": "high"})
    x = build_loss(problem.case, exclude=problem.exclude, over=problem.over)
    options = problem.options
    with _threads(problem.threads):
        try:
            found = run_loss(ops, problem.op, x, **options)
        except ValueError as error:  # too little for a block: the message says what is enough
            least = re.search(r"holds no block.* give at least (\d+)", str(error))
            if least is None:
                raise
            options = options | {"max_memory": int(least[1])}
            found = run_loss(ops, problem.op, x, **options)
    with _threads(1):
        again = run_loss(ops, problem.op, x, **options)
    for name, other in again.items():
        assert torch.equal(found[name], other), f"threads change bits of {name}"
    if problem.case.N == 0 or problem.case.B == 0 or problem.case.R == 0:
        assert found["loss"].isfinite(), "the loss of nothing"
        return
    expected = run_loss(reference, problem.op, x, torch.float64)
    loops = getattr(oracle, problem.op)(**x.of(problem.op))
    assert abs(loops - float(expected["loss"])) <= 1e-9 * (1 + abs(loops)), "the oracle itself"
    if _has_near_tie(problem, x):  # rounding may take either match, so that gradients jump
        found = {"loss": found["loss"]}
    oracle.assert_loss(x, problem.op, found, expected)


def _has_near_tie(problem: Problem, x: LossInputs) -> bool:
    q = x.q.double() * (x.v.double().unsqueeze(1) if problem.op == "match_kl_scaled" else 1)
    if x.d.shape[1] == 1 or (problem.case.values == "ties" and problem.op == "match_kl"):
        return False
    products, magnitude = _products(q, x.d)
    best = products.topk(2, dim=-1).values
    near = 4 * (x.d.shape[2] + 1) * torch.finfo(torch.float32).eps * magnitude.amax(-1)
    return bool((best[..., 0] - best[..., 1] <= near).any())


def _products(q: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    q, d = q.double(), d.double()
    form = "nrk,bsk->bnrs"
    return torch.einsum(form, q, d), torch.einsum(form, q.abs(), d.abs())


def _missed(q: Tensor, d: Tensor, argmax: Tensor) -> Tensor:
    """By what share of its magnitude a match misses the best one."""
    products, magnitude = _products(q, d)
    chosen = products.gather(-1, argmax.unsqueeze(-1)).squeeze(-1)
    return (products.amax(-1) - chosen) / magnitude.amax(-1).clamp(min=2.0**-120)


def _selects_by_pairs(problem: Problem) -> bool:
    """Whether the match is selected by bfloat16 products, as csrc/maxsim.h says."""
    medium = problem.options.get("precision") == "medium" and problem.case.dtype == torch.float32
    return medium and problem.case.D >= 64 and build_info()["instruction_set"] == "avx512_bf16"


def _scale(x: Tensor, power: int) -> None:
    """In place, where the memory is that of one image for all as well."""
    if x.numel():
        (x[:1] if x.stride(0) == 0 else x).mul_(2.0**power)


def failures(numbers: range) -> Iterator[tuple[Problem, Exception]]:
    """The cases that fail at the instruction set in use, and how."""
    for number in numbers:
        problem = draw(number)
        try:
            check(problem)
        except Exception as error:
            yield problem, error


def main() -> int:
    """Run the cases on every instruction set of this machine; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description="random cases of the ops against the oracle")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    wanted = parser.parse_args()
    failed = 0
    for level in build_info()["instruction_sets"]:
        use_instruction_set(level)
        start, wrong = time.perf_counter(), 0
        for problem, error in failures(range(wanted.first, wanted.first + wanted.cases)):
            wrong += 1
            print(f"{level}: case {problem.number} {problem}: {type(error).__name__}: {error}")
        seconds = time.perf_counter() - start
        print(f"{level}: {wanted.cases} cases, {wrong} wrong, {seconds:.0f} s", flush=True)
        failed += wrong
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
