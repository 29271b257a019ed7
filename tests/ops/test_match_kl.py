"""Loss and gradients of `match_kl` and `match_kl_scaled` against the reference and the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext import ops
from emergence_ext.ops import reference
from tests import layouts, oracle
from tests.cases import CASES, DIFFERENTIABLE, DTYPES, LARGE, Case, LossInputs, build_loss, run_loss

pytestmark = pytest.mark.usefixtures("each_backend")

SMALL = Case(N=4, R=5, B=3, S=7, D=4)
WIDE = replace(SMALL, D=19)
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
either = pytest.mark.parametrize("over", ["q", "d"])


def assert_explained_by_rounding(op: str, x: LossInputs, found: dict[str, Tensor]) -> None:
    """Hold float32 results against the reference in float64 of the same numbers."""
    oracle.assert_loss(x, op, found, run_loss(reference, op, x, torch.float64))


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_loss_and_gradients_are_the_references(
    case: Case, exclude: bool, op: str, over: str
) -> None:
    x = build_loss(replace(case, dtype=torch.float64), exclude=exclude, over=over)
    expected = run_loss(reference, op, x)
    for name, mine in run_loss(ops, op, x).items():
        torch.testing.assert_close(mine, expected[name], rtol=1e-10, atol=1e-13)


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_float32_misses_by_no_more_than_rounding(
    case: Case, exclude: bool, op: str, over: str
) -> None:
    x = build_loss(case, exclude=exclude, over=over)
    found = run_loss(ops, op, x)
    assert all(t.dtype == torch.float32 for t in found.values())
    assert_explained_by_rounding(op, x, found)


@both
@either
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [SMALL, WIDE, replace(SMALL, D=64)], ids=str)
def test_every_dtype_is_that_of_its_rounded_inputs(
    case: Case, dtype: torch.dtype, op: str, over: str
) -> None:
    x = build_loss(replace(case, dtype=dtype), exclude=True, over=over)
    found = run_loss(ops, op, x)
    assert found.pop("loss").dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(grad.dtype == dtype for grad in found.values())
    assert_explained_by_rounding(op, x, found)


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
@pytest.mark.parametrize("strides", ["contiguous", "transposed", "sliced"])
def test_loss_is_the_oracles(strides: str, exclude: bool, op: str, over: str) -> None:
    x = build_loss(
        replace(SMALL, strides=strides, dtype=torch.float64), exclude=exclude, over=over
    ).of(op)
    assert getattr(ops, op)(**x).item() == pytest.approx(getattr(oracle, op)(**x), rel=1e-12)


@both
@either
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "exclude"])
def test_gradients_are_finite_differences_of_the_oracle(exclude: bool, op: str, over: str) -> None:
    x = build_loss(replace(SMALL, dtype=torch.float64), exclude=exclude, over=over)
    grads = run_loss(ops, op, x)
    truth: Callable[..., float] = getattr(oracle, op)
    step = 1e-6
    for name in DIFFERENTIABLE[op]:
        for place in [(0,) * grads[name].ndim, tuple(n - 1 for n in grads[name].shape)]:
            losses = []
            for sign in (1, -1):
                moved = x.of(op)
                moved[name] = moved[name].clone()
                moved[name][place] += sign * step
                losses.append(truth(**moved))
            slope = (losses[0] - losses[1]) / (2 * step)
            # Central differences: curvature of order step^2 and rounding of 1e-16 / step are left.
            assert grads[name][place].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@both
@either
@pytest.mark.parametrize("case", [SMALL, WIDE, replace(SMALL, S=300)], ids=str)
def test_gradients_pass_gradcheck(case: Case, op: str, over: str) -> None:
    x = build_loss(replace(case, dtype=torch.float64), exclude=True, over=over).of(op)
    names = DIFFERENTIABLE[op]

    def loss(*values: Tensor) -> Tensor:
        return getattr(ops, op)(**x | dict(zip(names, values, strict=True)))

    leaves = [x[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=case is not SMALL)


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("D", [3, 19, 64])
def test_scaled_is_the_loss_of_the_products_to_the_bit(D: int, precision: str) -> None:
    x = build_loss(replace(SMALL, R=50, D=D), exclude=True)
    product = replace(x, q=x.q * x.v.unsqueeze(1))
    plain = run_loss(ops, "match_kl", product, precision=precision)
    scaled = run_loss(ops, "match_kl_scaled", x, precision=precision)
    assert torch.equal(scaled["loss"], plain["loss"])
    assert torch.equal(scaled["b"], plain["b"])
    torch.testing.assert_close(scaled["a"], plain["a"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled["v"], (x.q * plain["q"]).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("D", range(1, 10))
def test_no_gradient_reaches_beside_its_own_row(D: int) -> None:
    # Narrow rows are worked on by whole registers; what lies behind the last must not matter.
    x = build_loss(replace(SMALL, D=D))
    behind = torch.full((x.v.numel() + 16,), torch.nan)
    behind[: x.v.numel()] = x.v.flatten()
    poisoned = replace(x, v=behind[: x.v.numel()].view_as(x.v))
    expected = run_loss(ops, "match_kl_scaled", x)
    for name, mine in run_loss(ops, "match_kl_scaled", poisoned).items():
        assert torch.equal(mine, expected[name]), name


@both
def test_loss_is_zero_where_the_scores_give_the_target(op: str) -> None:
    x = build_loss(replace(SMALL, dtype=torch.float64))
    q = x.q if op == "match_kl" else x.q * x.v.unsqueeze(1)
    P = torch.softmax(reference.maxsim(q, x.d, x.a) + x.b, dim=1)
    found = run_loss(ops, op, replace(x, P=P))
    assert all(t.abs().max() < 1e-14 for t in found.values())


@both
@pytest.mark.parametrize("column", [0, 2, 3])
def test_an_excluded_column_has_no_influence(column: int, op: str) -> None:
    x = replace(build_loss(SMALL), exclude=torch.full((3,), column))
    x.b[column] += 1e4  # which would leave nothing to the other columns
    found = run_loss(ops, op, x)
    kept = [j for j in range(SMALL.N) if j != column]
    without = LossInputs(x.q[kept], x.v[kept], x.d, x.a[kept], x.b[kept], x.P[:, kept], None)
    expected = run_loss(ops, op, without)
    torch.testing.assert_close(found["loss"], expected["loss"])
    for name in DIFFERENTIABLE[op]:
        torch.testing.assert_close(
            found[name][kept] if name != "d" else found[name], expected[name]
        )
        assert name == "d" or not found[name][column].any()


@both
@either
def test_minus_one_excludes_nothing(op: str, over: str) -> None:
    x = build_loss(SMALL, over=over)
    expected = run_loss(ops, op, x)
    found = run_loss(ops, op, replace(x, exclude=torch.full((len(x.P),), -1)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@both
@either
@pytest.mark.parametrize("D", [4, 19])
def test_a_row_without_any_column_adds_nothing(D: int, op: str, over: str) -> None:
    x = build_loss(replace(SMALL, **{"N" if over == "q" else "B": 1}, D=D), over=over)
    found = run_loss(ops, op, replace(x, exclude=torch.zeros(len(x.P), dtype=torch.int64)))
    assert not any(t.any() for t in found.values())


@both
@either
@pytest.mark.parametrize("D", [4, 19])
@pytest.mark.parametrize(("N", "B", "R"), [(0, 2, 5), (3, 0, 5), (0, 0, 5), (3, 2, 0)])
def test_empty_inputs_are_the_references(
    N: int, B: int, R: int, D: int, op: str, over: str
) -> None:
    x = build_loss(replace(SMALL, N=N, B=B, R=R, D=D), over=over)
    expected = run_loss(reference, op, x)
    for name, mine in run_loss(ops, op, x).items():
        torch.testing.assert_close(mine, expected[name])


@both
@pytest.mark.parametrize("D", [4, 19])
def test_over_d_every_image_of_q_is_a_problem_of_its_own(D: int, op: str) -> None:
    x = build_loss(replace(SMALL, N=5, D=D), exclude=True, over="d")
    assert x.exclude is not None
    found, loss = run_loss(ops, op, x), torch.tensor(0.0)
    for j in range(5):
        one = slice(j, j + 1)
        alone = replace(x, q=x.q[one], v=x.v[one], a=x.a[one], P=x.P[one], exclude=x.exclude[one])
        expected = run_loss(ops, op, alone)
        loss += expected["loss"] / 5
        for name in {"q", "v", "a"} & set(found):
            torch.testing.assert_close(5 * found[name][j], expected[name][0])
    torch.testing.assert_close(found["loss"], loss)


@both
def test_over_d_is_over_q_where_the_scores_are_symmetric(op: str) -> None:
    # One region an image and weights of one: T[i, j] = <q[j], d[i]>, and q is d.
    x = build_loss(replace(SMALL, N=6, B=6, R=1, S=1, dtype=torch.float64), exclude=True)
    x = replace(x, v=torch.ones_like(x.v), d=x.q, a=torch.ones_like(x.a))
    over_q, over_d = (run_loss(ops, op, replace(x, over=over)) for over in "qd")
    for name in ("loss", "b"):
        torch.testing.assert_close(over_d[name], over_q[name])
    if op == "match_kl":
        torch.testing.assert_close(over_d["q"], over_q["d"])
        torch.testing.assert_close(over_d["d"], over_q["q"])


@both
@pytest.mark.parametrize("other", DTYPES, ids=str)
def test_b_and_P_may_be_of_any_floating_type(other: torch.dtype, op: str) -> None:
    x = build_loss(SMALL)
    rounded = replace(x, b=x.b.to(other), P=x.P.to(other))
    found = run_loss(ops, op, rounded)
    assert found["b"].dtype == other
    assert found["a"].dtype == found["loss"].dtype == torch.float32
    assert_explained_by_rounding(op, rounded, found)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), sizes=st.tuples(*[st.integers(1, 20) | st.sampled_from([32, 33])] * 3))
@both
def test_any_shape_and_layout_gives_the_references_loss(
    data: st.DataObject, sizes: tuple[int, ...], op: str
) -> None:
    R, S, D = sizes
    N, B = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 10))
    over = data.draw(st.sampled_from("qd"))
    rows, columns = (B, N) if over == "q" else (N, B)
    q, v, d, a, b = (
        data.draw(layouts.tensors(shape, torch.float64))
        for shape in ((N, R, D), (N, D), (B, S, D), (N, R), (columns,))
    )
    P = data.draw(layouts.tensors((rows, columns), torch.float64, positive=True))
    out = st.lists(st.integers(-1, columns - 1), min_size=rows, max_size=rows)
    exclude = data.draw(st.none() | out.map(torch.tensor))
    x = LossInputs(q, v, d, a / (R * D) ** 0.5, b, P, exclude, over)
    expected = run_loss(reference, op, x)
    for name, mine in run_loss(ops, op, x).items():
        torch.testing.assert_close(mine, expected[name], rtol=1e-9, atol=1e-11)
    narrow = LossInputs(*(t.float() for t in (q, v, d, x.a, b, P)), exclude, over)
    found = run_loss(ops, op, narrow)
    # The others jump where two regions are nearer than rounding can tell, which may be drawn.
    assert_explained_by_rounding(op, narrow, {name: found[name] for name in ("loss", "b")})
