"""Small problems through every kernel, for compute-sanitizer: `python -m benchmarks.gpu.sanitized`.

Inputs are made, and results looked at, on the CPU, so that hardly a kernel but the package's runs.
The last line says how many calls were made: without it nothing was checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.bounds import NARROW
from benchmarks.gpu import paths
from emergence_ext import ops
from tests.cases import DIFFERENTIABLE, Case, LossInputs, build, build_loss, run_loss

# More rows than a warp and none of its multiples; images in more than one group of a block.
SMALL = Case(N=3, R=17, B=11, S=19, D=3)
CASES = (
    SMALL,
    replace(SMALL, D=7),
    replace(SMALL, S=300),
    replace(SMALL, D=40),
    replace(SMALL, D=40, S=300),
    replace(SMALL, D=3, dtype=torch.float64),
    replace(SMALL, D=40, dtype=torch.float64),
    replace(SMALL, D=72, dtype=torch.bfloat16),
    replace(SMALL, D=72, dtype=torch.float16),
    replace(SMALL, N=2, R=196, B=2, S=196, D=3),
    replace(SMALL, N=2, R=196, B=2, S=196, D=512, dtype=torch.bfloat16),
    replace(SMALL, N=9, R=49, B=9, S=49, D=128, dtype=torch.bfloat16),
)


def calls() -> Iterator[str]:
    """Make every call, and name it."""
    for path in (None, *paths.built()):
        with paths.taking(path):
            for case in CASES:
                rounded = case.dtype == torch.float32 and case.D > NARROW
                for precision in ("highest", "high", "medium") if rounded else ("highest",):
                    yield from _calls(case, precision, path)


def _calls(case: Case, precision: str, path: str | None) -> Iterator[str]:
    name = f"{case}, {precision}, {path or 'auto'}"
    x = build(case, "cuda")
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    with torch.no_grad():
        _finite(ops.maxsim(*inputs, precision=precision))
        _finite(*ops.maxsim_indices(*inputs, precision=precision))
    T = ops.maxsim(*inputs, precision=precision)
    _finite(*torch.autograd.grad(T, inputs, torch.ones_like(T)))
    yield f"maxsim, {name}"
    for op in DIFFERENTIABLE:
        y = build_loss(case, exclude=True, device="cuda")
        for max_memory in (None, _least_memory(op, y, precision)):
            tensors = run_loss(ops, op, y, precision=precision, max_memory=max_memory)
            _finite(*tensors.values())
            yield f"{op}, {name}, {max_memory or 'no'} max_memory"


def _least_memory(op: str, x: LossInputs, precision: str) -> int:
    """Return what makes as many blocks as there can be."""
    try:
        run_loss(ops, op, x, precision=precision, max_memory=1)
    except ValueError as error:
        named = re.search(r"at least (\d+)", str(error))
        if named is None:
            raise
        return int(named[1])
    return 1


def _finite(*tensors: torch.Tensor) -> None:
    for t in tensors:
        if not t.cpu().isfinite().all():
            raise ArithmeticError("a result is not finite")


if __name__ == "__main__":
    every_call = list(calls())
    print(f"{len(every_call)} calls")
