"""Small problems through every kernel of a way, for compute-sanitizer.

`python -m benchmarks.gpu.sanitized --way NAME`. Inputs are made, and results looked at, on the CPU,
so that hardly a kernel but the package's runs. Each call is named before it is made; the last line
says how many there were: without it nothing was checked.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.bounds import NARROW
from benchmarks.gpu import paths
from benchmarks.gpu.phase import BEGIN
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
Call = tuple[str, Callable[[], None]]


def calls(way: str) -> Iterator[Call]:
    """Name every call that a way can do, and give what makes it."""
    for case in CASES:
        dtype = str(case.dtype).removeprefix("torch.")
        rounded = dtype == "float32" and case.D > NARROW
        for precision in ("highest", "high", "medium") if rounded else ("highest",):
            if paths.does(way, case.D, dtype, precision):
                yield from _calls(case, precision)


def _calls(case: Case, precision: str) -> Iterator[Call]:
    name = f"{case}, {precision}"
    yield f"maxsim, {name}", partial(_maxsim, case, precision)
    for op in DIFFERENTIABLE:
        for least in (False, True):
            blocks = "most blocks" if least else "one block"
            yield f"{op}, {name}, {blocks}", partial(_loss, op, case, precision, least)


def _maxsim(case: Case, precision: str) -> None:
    x = build(case, "cuda")
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    with torch.no_grad():
        _finite(ops.maxsim(*inputs, precision=precision))
        _finite(*ops.maxsim_indices(*inputs, precision=precision))
    T = ops.maxsim(*inputs, precision=precision)
    _finite(*torch.autograd.grad(T, inputs, torch.ones_like(T)))


def _loss(op: str, case: Case, precision: str, least: bool) -> None:
    x = build_loss(case, exclude=True, device="cuda")
    max_memory = _least_memory(op, x, precision) if least else None
    _finite(*run_loss(ops, op, x, precision=precision, max_memory=max_memory).values())


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


def main() -> None:
    """Make the calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=paths.WAYS, required=True)
    way = parser.parse_args().way
    count = 0
    with paths.taking(way):
        for name, call in calls(way):
            print(f"{BEGIN}{name}", flush=True)
            call()
            count += 1
    print(f"{count} calls")


if __name__ == "__main__":
    main()
