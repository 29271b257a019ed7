"""Wrong input is named, and an overflow is never hidden behind a plausible number."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.ops import reference
from tests.cases import DIFFERENTIABLE, DTYPES, Case, build, build_loss

pytestmark = pytest.mark.usefixtures("library")

SMALL = Case(N=3, R=5, B=2, S=7, D=4)
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
ARGUMENTS = [("match_kl", name) for name in "qdabP"]
ARGUMENTS += [("match_kl_scaled", name) for name in "fvdabP"]
everywhere = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])


def poisoned(x: Tensor, place: tuple[int, ...], value: float = torch.nan) -> Tensor:
    x = x.clone()
    x[place] = value
    return x


WRONG_SCORES: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "q of two dimensions": (
        lambda q, d, a: ops.maxsim(q[0], d),
        ValueError,
        r"q must be \[N, R, D\], got \[5, 4\]",
    ),
    "d of two dimensions": (
        lambda q, d, a: ops.maxsim(q, d[0]),
        ValueError,
        r"d must be \[B, S, 4\]",
    ),
    "another width": (
        lambda q, d, a: ops.maxsim(q, d[..., 1:]),
        ValueError,
        r"d must be \[B, S, 4\].*got \[2, 7, 3\]",
    ),
    "no regions": (lambda q, d, a: ops.maxsim(q, d[:, :0]), ValueError, "at least one region"),
    "no channels": (
        lambda q, d, a: ops.maxsim(q[..., :0], d[..., :0]),
        ValueError,
        "one channel",
    ),
    "wrong weights": (
        lambda q, d, a: ops.maxsim(q, d, a[:, 1:]),
        ValueError,
        r"a must be .*3, 5\], got \[3, 4\]",
    ),
    "other dtype of d": (
        lambda q, d, a: ops.maxsim(q, d.double()),
        TypeError,
        "d is Double on cpu, q is Float",
    ),
    "other dtype of a": (lambda q, d, a: ops.maxsim(q, d, a.half()), TypeError, "a is Half on cpu"),
    "integers": (lambda q, d, a: ops.maxsim(q.int(), d.int()), TypeError, "q must be float32"),
    "no tensor": (
        lambda q, d, a: ops.maxsim(q.tolist(), d),
        TypeError,
        "q must be a tensor, got list",
    ),
    "precision": (lambda q, d, a: ops.maxsim(q, d, precision="low"), ValueError, "got 'low'"),
    "memory": (
        lambda q, d, a: ops.maxsim(q, d, max_memory=0),
        ValueError,
        "max_memory must be a positive number of bytes, got 0",
    ),
    "device": (
        lambda q, d, a: ops.maxsim(q.to("meta"), d),
        RuntimeError,
        "no backend for 'meta'",
    ),
}


@pytest.mark.parametrize(
    ("call", "kind", "says"), list(WRONG_SCORES.values()), ids=list(WRONG_SCORES)
)
def test_wrong_input_of_scores_is_named(
    call: Callable[..., Any], kind: type[Exception], says: str
) -> None:
    x = build(SMALL)
    with pytest.raises(kind, match=f"^maxsim: .*{says}"):
        call(x.q, x.d, x.a)


WRONG_LOSSES: dict[str, tuple[str, Callable[[Tensor], Any], type[Exception], str]] = {
    "no a": ("a", lambda a: None, TypeError, "a must be a tensor, got NoneType"),
    "shape of a": ("a", lambda a: a[1:], ValueError, r"a must be \[N, R\]"),
    "dtype of a": ("a", lambda a: a.double(), TypeError, "a is .* on cpu, {first} is"),
    "width of d": ("d", lambda d: d[..., 1:], ValueError, r"d.* \[B, S, .*{first}"),
    "no regions": ("d", lambda d: d[:, :0], ValueError, "d needs at least one region"),
    "dtype of d": ("d", lambda d: d.half(), TypeError, "d is .* on cpu, {first} is"),
    "shape of b": ("b", lambda b: b[1:], ValueError, r"b must be \[3\], got \[2\]"),
    "dtype of b": ("b", lambda b: b.long(), TypeError, "b must be floating point on cpu"),
    "shape of P": ("P", lambda P: P.t(), ValueError, r"P must be \[2, 3\], got \[3, 2\]"),
    "dtype of P": ("P", lambda P: P.long(), TypeError, "P must be floating point on cpu"),
    "negative P": (
        "P",
        lambda P: poisoned(P, (1, 0), -0.25),
        ValueError,
        "P must not be negative, its lowest entry is -0.25",
    ),
    "gradient of P": (
        "P",
        lambda P: P.clone().requires_grad_(),
        ValueError,
        "P has no gradient here; pass it detached",
    ),
    "shape of exclude": ("exclude", lambda e: e[1:], ValueError, r"exclude must be .*got.* \[1\]"),
    "dtype of exclude": ("exclude", lambda e: e.int(), TypeError, "exclude must be int64 on cpu"),
    "exclude too low": (
        "exclude",
        lambda e: poisoned(e, (1,), -2),
        ValueError,
        r"exclude must lie in \[-1, N\) = \[-1, 3\), got entries from -2 to 0",
    ),
    "exclude too high": (
        "exclude",
        lambda e: poisoned(e, (1,), 3),
        ValueError,
        r"exclude must lie in \[-1, N\) = \[-1, 3\), got entries from 0 to 3",
    ),
}


@everywhere
@both
@pytest.mark.parametrize(
    ("name", "change", "kind", "says"), list(WRONG_LOSSES.values()), ids=list(WRONG_LOSSES)
)
def test_wrong_input_of_losses_is_named(
    name: str, change: Callable[..., Any], kind: type[Exception], says: str, op: str, module: Any
) -> None:
    x = build_loss(SMALL, exclude=True).of(op)
    first = next(iter(x))
    with pytest.raises(kind, match=rf"^{op}: .*{says.replace('{first}', first)}"):
        getattr(module, op)(**x | {name: change(x[name])})


@everywhere
@pytest.mark.parametrize("name", ["f", "d"])
def test_a_gradient_that_the_scaled_loss_does_not_have_is_refused(name: str, module: Any) -> None:
    x = build_loss(SMALL).of("match_kl_scaled")
    x[name].requires_grad_()
    with pytest.raises(ValueError, match=f"^match_kl_scaled: {name} has no gradient here"):
        module.match_kl_scaled(**x)
    with torch.no_grad():
        assert module.match_kl_scaled(**x).isfinite()


@everywhere
@pytest.mark.parametrize(
    ("change", "kind"), [(lambda v: v[:, 1:], ValueError), (lambda v: v.double(), TypeError)]
)
def test_wrong_channel_weights_are_named(
    change: Callable[..., Any], kind: type[Exception], module: Any
) -> None:
    x = build_loss(SMALL).of("match_kl_scaled")
    with pytest.raises(kind, match=r"^match_kl_scaled: v (must be|is) .* f|v must be \[3, 4\]"):
        module.match_kl_scaled(**x | {"v": change(x["v"])})


@both
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"over": "r"}, "must be 'q' or 'd', got 'r'"),
        ({"precision": "low"}, "got 'low'"),
        ({"max_memory": -1}, "must be a positive .* got -1"),
    ],
    ids=["over", "precision", "memory"],
)
def test_wrong_options_of_losses_are_named(options: dict[str, Any], says: str, op: str) -> None:
    with pytest.raises(ValueError, match=f"^{op}: {next(iter(options))} .*{says}"):
        getattr(ops, op)(**build_loss(SMALL).of(op), **options)


@everywhere
@both
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"over": "r"}, "over must be 'q' or 'd', got 'r'"),
        ({"b": torch.zeros(3)}, r"b must be \[2\], got \[3\]"),
        ({"P": torch.ones(2, 3)}, r"P must be \[3, 2\], got \[2, 3\]"),
        ({"exclude": torch.zeros(2, dtype=torch.int64)}, r"exclude must be .*\[3\], got \[2\]"),
        ({"exclude": torch.full((3,), 2)}, r"exclude must lie in \[-1, B\) = \[-1, 2\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_over_d_wrong_targets_are_named(
    change: dict[str, Any], says: str, op: str, module: Any
) -> None:
    x = build_loss(replace(SMALL, N=3, B=2), exclude=True, over="d").of(op)
    with pytest.raises(ValueError, match=f"^{op}: {says}"):
        getattr(module, op)(**x | change)


@everywhere
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["q", "d", "a"])
def test_a_non_finite_value_of_scores_is_named_with_its_place(
    name: str, dtype: torch.dtype, value: float, module: Any
) -> None:
    x = build(Case(N=3, R=5, B=2, S=7, D=40, dtype=dtype, strides="transposed"))
    getattr(x, name)[1, 4] = value
    getattr(x, name)[1, 3] = value
    with pytest.raises(ValueError, match=f"^maxsim: {name} is not finite at sample 1, region 3"):
        module.maxsim(x.q, x.d, x.a)


@everywhere
@pytest.mark.parametrize(("op", "name"), ARGUMENTS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_non_finite_value_of_losses_is_named_with_its_place(
    value: float, op: str, name: str, module: Any
) -> None:
    x = build_loss(SMALL).of(op)
    places = {"b": ((1,), ""), "P": ((1, 2), ", image 2"), "v": ((1, 2), ", channel 2")}
    place, second = places.get(name, ((1, 3), ", region 3"))
    with pytest.raises(
        ValueError, match=f"^{op}: {name} is not finite at sample 1{re.escape(second)}"
    ):
        getattr(module, op)(**x | {name: poisoned(x[name], place, value)})


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("D", [2, 8, 9, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_product_that_overflows_to_nan_is_never_hidden(
    sign: int, dtype: torch.dtype, D: int, precision: str
) -> None:
    # 1e30 * 1e30 - 1e30 * 1e30 is inf - inf in float32; the regions beside it are plausible.
    q, d = torch.zeros(1, 1, D, dtype=dtype), torch.zeros(1, 3, D, dtype=dtype)
    q[..., 0] = q[..., -1] = 1e30
    d[:, 1, 0], d[:, 1, -1] = sign * 1e30, -sign * 1e30
    d[:, 2] = 1
    T, argmax = ops.maxsim_indices(q, d, precision=precision)
    assert T.isnan().all()
    assert argmax.item() == 1


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(("op", "name"), [pair for pair in ARGUMENTS if pair[1] not in "qfP"])
@pytest.mark.parametrize("D", [3, 40])
def test_a_loss_of_scores_that_overflow_is_no_plausible_number(D: int, op: str, name: str) -> None:
    x = build_loss(Case(N=3, R=5, B=2, S=7, D=D)).of(op)
    x[next(iter(x))] *= 1e10
    # b may be of a type that is wider than the scores'.
    x[name] = x[name].double() * 1e300 if name == "b" else x[name] * 1e32
    leaves = {n: x[n].requires_grad_() for n in DIFFERENTIABLE[op]}
    loss = getattr(ops, op)(**x | leaves)
    assert not loss.isfinite()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert not all(grad.isfinite().all() for grad in grads)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("D", [3, 40])
def test_large_values_that_do_not_overflow_are_computed(D: int, dtype: torch.dtype) -> None:
    # Around the limit where the vector code hands over to code that carries NaN.
    for size in (1e17, 4e18, 1e19):
        x = build(Case(N=2, R=5, B=2, S=7, D=D, dtype=dtype))
        q, d = x.q.clamp(-1, 1) * size / D, x.d.clamp(-1, 1) * size
        T = ops.maxsim(q, d, x.a)
        expected = reference.maxsim(q.double(), d.double(), x.a.double())
        torch.testing.assert_close(T.double(), expected, rtol=1e-5, atol=0)


def test_more_regions_than_float32_can_number_are_refused() -> None:
    q = torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match=r"d may have at most 2\^24 regions"):
        ops.maxsim(q, q.expand(1, 2**24 + 1, 1))
