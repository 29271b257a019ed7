"""What the matches are kept as: their dtype, and memory that is there already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference
from tests.cases import Case, build

SMALL = Case(N=5, R=6, B=4, S=7, D=4)
everywhere = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])


@everywhere
@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("S", [7, 256, 257])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_every_type_holds_the_same_matches(dtype: torch.dtype, S: int, module: Any) -> None:
    x = build(replace(SMALL, S=S))
    T, expected = module.maxsim_indices(x.q, x.d, x.a)
    assert expected.dtype == torch.int64
    if dtype == torch.uint8 and S == 257:
        with pytest.raises(
            ValueError, match=r"index_dtype uint8 holds .* 256 candidates, d has 257"
        ):
            module.maxsim_indices(x.q, x.d, x.a, index_dtype=dtype)
        return
    scores, found = module.maxsim_indices(x.q, x.d, x.a, index_dtype=dtype)
    out = torch.full((4, 5, 6), 99, dtype=dtype)
    again, same = module.maxsim_indices(x.q, x.d, x.a, out=out)
    assert found.dtype == dtype and same is out
    assert torch.equal(found, out) and torch.equal(found.long(), expected)
    assert torch.equal(scores, T) and torch.equal(again, T)


@everywhere
def test_gradients_reach_the_scores_of_any_type(module: Any) -> None:
    x = build(SMALL)
    q = x.q.requires_grad_()
    grads = []
    for dtype in (None, torch.uint8, torch.int32):
        T, argmax = module.maxsim_indices(q, x.d, x.a, index_dtype=dtype)
        assert not argmax.requires_grad
        grads.append(torch.autograd.grad(T.square().sum(), q)[0])
    assert all(torch.equal(other, grads[0]) for other in grads[1:])


@everywhere
@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"index_dtype": torch.int16}, TypeError, "index_dtype must be uint8, int32 or int64"),
        ({"out": torch.zeros(4, 5, 6)}, TypeError, "out must be uint8, int32 or int64"),
        ({"out": [0]}, TypeError, "out must be a tensor, got list"),
        ({"out": torch.zeros(4, 5, 7, dtype=int)}, ValueError, r"contiguous \[4, 5, 6\] on cpu"),
        ({"out": torch.zeros(4, 6, 5, dtype=int).mT}, ValueError, "must be contiguous"),
        (
            {"out": torch.zeros(4, 5, 6, dtype=int), "index_dtype": torch.int64},
            ValueError,
            "index_dtype or out, not both",
        ),
    ],
    ids=["int16", "float", "list", "shape", "strides", "both"],
)
def test_what_cannot_hold_them_is_named(
    options: dict[str, Any], kind: type[Exception], says: str, module: Any
) -> None:
    x = build(SMALL)
    with pytest.raises(kind, match=f"^maxsim_indices: .*{says}"):
        module.maxsim_indices(x.q, x.d, x.a, **options)


@everywhere
def test_out_and_gradients_do_not_go_together(module: Any) -> None:
    x = build(SMALL)
    out = torch.zeros(4, 5, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match="out does not go together with gradients"):
        module.maxsim_indices(x.q.requires_grad_(), x.d, x.a, out=out)
    with torch.no_grad():
        module.maxsim_indices(x.q, x.d, x.a, out=out)
