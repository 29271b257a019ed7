"""What the reference selects by 16-bit products, as on a GPU, made of float32 ones on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from emergence_ext.ops import checks, reference, tensor_cores
from emergence_ext.ops.tensor_cores import Products
from tests import oracle
from tests.cases import DIFFERENTIABLE, Case, build, build_loss, run_loss
from tests.ops.test_ops_precision import missed_by, near_ties, usual, worst, worst_of_rests

EPS = torch.finfo(torch.float32).eps
PLANES = {"medium": 1, "high": 2}
BOUNDS = {"medium": 2.0**-6, "high": 2.0**-14}


@pytest.fixture(params=list(PLANES))
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Selection as on a GPU at a precision."""
    products = Products(torch.bfloat16, PLANES[request.param])
    monkeypatch.setattr(tensor_cores, "products_for", lambda *_: products)
    return request.param


@pytest.mark.parametrize("inputs", [usual, near_ties, worst, worst_of_rests])
@pytest.mark.parametrize(("D", "S"), [(9, 49), (63, 5), (127, 257), (512, 13)])
def test_what_is_selected_is_within_its_bound_and_scored_in_float32(
    D: int, S: int, inputs: Callable[[Case], tuple[Tensor, ...]], precision: str
) -> None:
    q, d, a = inputs(Case(N=3, R=70, B=2, S=S, D=D))
    T, argmax = reference.maxsim_indices(q, d, a)
    missed, magnitude, chosen = missed_by(q, d, argmax)
    assert (missed <= BOUNDS[precision] * magnitude).all()
    slack = (a.double() * magnitude).sum(-1) * (D + a.shape[1]) * EPS
    assert ((T - (a.double() * chosen).sum(-1)).abs() <= slack).all()
    if inputs is near_ties and precision == "medium":
        assert (missed > 0).any()  # else any arithmetic would hold the bound


@pytest.mark.parametrize("op", list(DIFFERENTIABLE))
def test_loss_and_gradients_are_of_the_matches_that_were_selected(op: str, precision: str) -> None:
    # Matches that are told apart by more than rounding: then they are those of float64.
    x = build_loss(Case(N=4, R=9, B=5, S=7, D=40), exclude=True)
    x.d[:] = x.d.bfloat16()
    x.q[:] = x.q.bfloat16()
    x = replace(x, v=x.v.bfloat16().float() if op == "match_kl" else torch.ones_like(x.v))
    oracle.assert_loss(x, op, run_loss(reference, op, x), run_loss(reference, op, x, torch.float64))


def test_scores_are_differentiable_where_they_are_scored_again(precision: str) -> None:
    x = build(Case(N=3, R=5, B=2, S=7, D=130))
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    T, argmax = reference.maxsim_indices(*inputs)
    matched = torch.stack([d[place] for d, place in zip(x.d, argmax, strict=True)])
    expected = (x.a * (x.q * matched).sum(-1)).sum(-1)
    torch.testing.assert_close(T, expected)
    grads = torch.autograd.grad(T.square().sum(), inputs)
    for mine, other in zip(
        grads, torch.autograd.grad(expected.square().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gradient", [False, True])
def test_rows_of_16_bits_are_multiplied_as_they_are(
    dtype: torch.dtype, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_cores, "products_for", lambda *_: Products(dtype, exact=True))
    x = build(Case(N=3, R=20, B=4, S=49, D=72, dtype=dtype))
    T, argmax = reference.maxsim_indices(x.q.requires_grad_(gradient), x.d, x.a)
    assert T.requires_grad == gradient
    oracle.assert_scores(x.q.detach(), x.d, x.a, T.detach(), argmax)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_the_scores(
    value: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "require_finite", lambda *_: None)  # which a GPU does not ask
    x = build(Case(N=3, R=5, B=2, S=7, D=40))
    x.d[1, 3, 5] = value
    T = reference.maxsim(x.q.abs(), x.d, x.a)
    assert T[0].isfinite().all()
    assert not T[1].isfinite().any()


def test_what_would_round_to_infinity_stays_finite(precision: str) -> None:
    q, d = torch.zeros(1, 1, 16), torch.zeros(1, 2, 16)
    q[..., 0], q[..., 1] = torch.finfo(torch.float32).max, 1
    d[:, 1, 0], d[:, 0, 1] = 0.5, 1
    T, argmax = reference.maxsim_indices(q, d)
    assert argmax.item() == 1
    assert T.item() == 0.5 * q[0, 0, 0]


def test_scoring_again_stays_within_the_block(precision: str) -> None:
    x = build(Case(N=4, R=50, B=6, S=3, D=300))
    T, argmax = reference.maxsim_indices(x.q, x.d, x.a)
    blocked = reference.maxsim_indices(x.q, x.d, x.a, max_memory=1)
    torch.testing.assert_close(blocked[0], T)
    assert torch.equal(blocked[1], argmax)
    products = tensor_cores.products_for(x.q, x.q.dtype, precision)
    each = 3 * 4 * 50 * tensor_cores.SLICE * x.q.element_size()
    assert reference._pairs_at_once(x.q, x.d, products, 2 * each) // 4 == 2


@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (3, 2, 0)])
def test_empty_inputs_give_empty_scores(N: int, B: int, R: int, precision: str) -> None:
    x = build(Case(N=N, R=R, B=B, S=7, D=40))
    T, argmax = reference.maxsim_indices(x.q, x.d, x.a)
    assert T.shape == (B, N) and not T.any()
    assert argmax.shape == (B, N, R)


@pytest.mark.parametrize(
    ("stored", "precision", "D", "expected"),
    [
        (torch.float32, "highest", 40, None),
        (torch.float32, "high", 40, Products(torch.bfloat16, 2)),
        (torch.float32, "medium", 40, Products(torch.bfloat16, 1)),
        (torch.float32, "medium", 8, None),
        (torch.float16, "highest", 40, Products(torch.float16, 1, exact=True)),
        (torch.bfloat16, "medium", 40, Products(torch.bfloat16, 1, exact=True)),
        (torch.float64, "medium", 40, None),
    ],
    ids=str,
)
def test_which_products_select_depends_on_device_dtype_width_and_precision(
    stored: torch.dtype,
    precision: str,
    D: int,
    expected: Products | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = torch.float64 if stored == torch.float64 else torch.float32
    assert tensor_cores.products_for(torch.empty(1, 2, D), stored, precision) is None
    with FakeTensorMode():
        q = torch.empty(1, 2, D, device="cuda", dtype=wide)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert tensor_cores.products_for(q, stored, precision) == expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert tensor_cores.products_for(q, stored, precision) is None


def test_torch_has_16_bit_products_with_float32_results_on_cuda() -> None:
    # No GPU is needed to ask what shape and dtype such a product has.
    with FakeTensorMode():
        x, y = (torch.empty(5, 40, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        product = tensor_cores._multiply(x, y)
    assert (product.shape, product.dtype) == ((5, 5), torch.float32)
