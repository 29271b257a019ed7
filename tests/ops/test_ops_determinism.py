"""The same bits for any number of threads, any block and every run; blocks that fit the memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from emergence_ext import ops
from tests.cases import DIFFERENTIABLE, Case, LossInputs, build, build_loss, run_loss

pytestmark = pytest.mark.usefixtures("each_backend", "threads")

# Neither N nor B is a multiple of 8, the images whose gradients are summed at once. Narrow regions,
# wide ones, several blocks of columns; more rows than are packed at once; int32 matches.
CASES = [
    Case(N=13, R=9, B=27, S=11, D=3),
    Case(N=13, R=9, B=27, S=11, D=24),
    Case(N=11, R=7, B=21, S=5, D=200),
    Case(N=3, R=700, B=19, S=6, D=2),
    Case(N=5, R=40, B=19, S=4, D=150),
    Case(N=5, R=9, B=19, S=300, D=5),
]
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
either = pytest.mark.parametrize("over", ["q", "d"])


def least_memory(op: str, x: LossInputs, **options: Any) -> int:
    """The bytes that the error for too little memory asks for."""
    with pytest.raises(ValueError, match="holds no block") as error:
        run_loss(ops, op, x, max_memory=1, **options)
    said = re.fullmatch(
        rf"{op}: max_memory = 1 bytes holds no block; (?:with (\d+) threads )?give at least (\d+)",
        str(error.value).splitlines()[0],
    )
    assert said is not None
    assert said[1] is None or int(said[1]) == torch.get_num_threads()
    return int(said[2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_are_the_same_for_any_number_of_threads(case: Case) -> None:
    x = build(case)
    results = []
    for number in (1, 2, 8, 8):
        torch.set_num_threads(number)
        inputs = [t.clone().requires_grad_() for t in (x.q, x.d, x.a)]
        T, argmax = ops.maxsim_indices(*inputs)
        grads = torch.autograd.grad(T.square().sum(), inputs)
        results.append([T.detach(), argmax, *grads])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@both
@either
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("case", "precision"),
    [*((case, "highest") for case in CASES), (CASES[2], "medium"), (CASES[4], "medium")],
    ids=str,
)
def test_loss_is_the_same_for_any_threads_and_block(
    case: Case, precision: str, op: str, over: str
) -> None:
    x = build_loss(case, exclude=True, over=over)
    matches = case.R * (1 if case.S <= 256 else 4)
    results = []
    for number in (1, 2, 8):
        torch.set_num_threads(number)
        least = least_memory(op, x, precision=precision)
        # A block of the fewest images, of 8 more, of all.
        for max_memory in (least, least + 8 * x.P.shape[1] * (matches + 4), None, None):
            results.append(run_loss(ops, op, x, precision=precision, max_memory=max_memory))
    for other in results[1:]:
        for name, mine in other.items():
            assert torch.equal(mine, results[0][name]), name


@both
@either
@pytest.mark.parametrize("D", [3, 24, 200])
def test_the_least_memory_that_is_named_is_enough_and_no_byte_less(
    D: int, op: str, over: str
) -> None:
    x = build_loss(Case(N=13, R=9, B=27, S=11, D=D), over=over)
    for number in (1, 3):
        torch.set_num_threads(number)
        least = least_memory(op, x)
        run_loss(ops, op, x, max_memory=least)
        with pytest.raises(ValueError, match=f"max_memory = {least - 1} bytes holds no block"):
            run_loss(ops, op, x, max_memory=least - 1)
        # Without gradients there are no matches to hold.
        getattr(ops, op)(**x.of(op), max_memory=least - 1)


@both
def test_a_row_does_not_depend_on_the_rows_beside_it(op: str) -> None:
    # What a block or a thread gets is decided by the number of images alone.
    x = build_loss(Case(N=5, R=9, B=27, S=11, D=24))
    rows = [
        getattr(ops, op)(**x.of(op) | {"d": x.d[i : i + 1], "P": x.P[i : i + 1]}).double()
        for i in range(27)
    ]
    together = getattr(ops, op)(**x.of(op)).double()
    torch.testing.assert_close(together, torch.stack(rows).mean(), rtol=1e-6, atol=0)
