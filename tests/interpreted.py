"""Triton's interpreter, in a process of its own: it is chosen before triton is first imported.

What runs there are the functions of this file; tensors travel there and back.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.cases import LossInputs, run_loss

Run = Callable[..., Any]


@contextmanager
def process() -> Iterator[Run]:
    """Give a function that calls another, of this file, in a process with the interpreter."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    # spawn: what was imported here would be imported there as well.
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        pool.submit(int).result()
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
    with pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()


def loads_triton() -> bool:
    """Whether triton is there when the package and the ops by Triton are imported."""
    import emergence_ext.ops.narrow_triton  # noqa: F401

    return "triton" in sys.modules


def why_not() -> str | None:
    """Say why the interpreter that is installed cannot run a loop whose length is an argument."""
    try:
        import triton
        import triton.language as tl

        @triton.jit
        def count(out_ptr, n):  # type: ignore[no-untyped-def]
            total = tl.zeros([4], tl.int32)
            for _ in range(n):
                total += 1
            tl.store(out_ptr + tl.arange(0, 4), total)

        out = torch.zeros(4, dtype=torch.int32)
        count[(1,)](out, 3)
        assert out.tolist() == [3] * 4, out
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def call(op: str, *args: Any, **options: Any) -> Any:
    """Call an op of `narrow_triton`, with tensors that ask for no gradient."""
    from emergence_ext.ops import narrow_triton

    return getattr(narrow_triton, op)(*args, **options)


def losses(op: str, x: LossInputs, *several: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Give loss and gradients of `op`, with each of several sets of options."""
    from emergence_ext.ops import narrow_triton

    return [run_loss(narrow_triton, op, x, **options) for options in several]


def score_gradients(G: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the scores from `G = dL/dT`, for all of q, d and a that are given."""
    from emergence_ext.ops import narrow_triton

    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(narrow_triton.maxsim(*leaves), leaves, G)


def unchecked(op: str, *args: Any, **options: Any) -> Any:
    """As `call`, of numbers that are not finite, which is not asked on a GPU."""
    from emergence_ext.ops import checks

    asked, checks.require_finite = checks.require_finite, lambda *_: None
    try:
        return call(op, *args, **options)
    finally:
        checks.require_finite = asked


def transformed(q: Tensor, d: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a sum of squared scores for q, by `torch.func` and by `backward`."""
    from emergence_ext.ops import narrow_triton

    def loss(q: Tensor) -> Tensor:
        return narrow_triton.maxsim(q, d, a).square().sum()

    leaf = q.detach().requires_grad_()
    return torch.func.grad(loss)(q), torch.autograd.grad(loss(leaf), leaf)[0]


def second_derivative(op: str, x: LossInputs) -> None:
    """Take one, which is an error."""
    from emergence_ext.ops import narrow_triton

    a = x.a.detach().requires_grad_()
    if op == "maxsim":
        loss = narrow_triton.maxsim(x.q, x.d, a).square().sum()
    else:
        loss = getattr(narrow_triton, op)(**x.of(op) | {"a": a}).square()
    (grad,) = torch.autograd.grad(loss, a, create_graph=True)
    grad.sum().backward()


def check_registration(q: Tensor, d: Tensor, a: Tensor) -> None:
    """Hold what torch is told of the ops against what they do."""
    import emergence_ext.ops.narrow_triton  # noqa: F401

    leaves = [x.detach().requires_grad_() for x in (q, d, a)]
    ops = torch.ops.emergence_triton
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.maxsim_indices.default, leaves, test_utils=tests)
    N, B = len(q), len(d)
    rest = [torch.zeros(N), torch.full((B, N), 1 / N), None, [True, True, True, False]]
    torch.library.opcheck(ops.match_kl.default, [*leaves, *rest], test_utils=tests)


def _start() -> None:
    torch.set_num_threads(1)
