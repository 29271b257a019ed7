"""Every op at every option with every gradient, in each mode that torch can call it in."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from emergence_ext.ops import autocast, reference
from emergence_ext.ops import fused as ops
from tests.cases import DIFFERENTIABLE, Case, build, build_loss

pytestmark = pytest.mark.usefixtures("library")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"precision": "high"},
    {"precision": "medium"},
    {"max_memory": 1 << 20},
    {"precision": "high", "max_memory": 1 << 20},
]
WANTED = {"maxsim": ["q", "d", "a"], "maxsim_indices": ["q", "d", "a"], **DIFFERENTIABLE}
LOWER = [torch.bfloat16, torch.float16]

each_op = pytest.mark.parametrize("op", list(WANTED))
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
each_module = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])

Arguments = dict[str, Tensor | None]


def arguments(op: str, strides: str = "contiguous", **sizes: int) -> Arguments:
    case = Case(**{"N": 3, "R": 5, "B": 2, "S": 7, "D": 4} | sizes, strides=strides)
    if op in DIFFERENTIABLE:
        return build_loss(case, exclude=case.N > 0).of(op)
    x = build(case)
    return {"q": x.q, "d": x.d, "a": x.a}


def cast(given: Arguments, dtype: torch.dtype) -> Arguments:
    return {
        name: x.to(dtype) if x is not None and x.is_floating_point() else x
        for name, x in given.items()
    }


def outcome(
    op: str,
    given: Arguments,
    wanted: list[str],
    options: dict[str, Any],
    module: ModuleType = ops,
    within: Any = None,
) -> list[Tensor]:
    """The results, called `within` a context, and the gradients of those `wanted`."""
    leaves = {name: given[name].detach().requires_grad_() for name in wanted}
    with within or nullcontext():
        found = getattr(module, op)(**given | leaves, **options)
    found = list(found) if isinstance(found, tuple) else [found]
    # The ops' gradients know nothing of autocast, those of plain torch want it left first.
    with within if within and module is ops else nullcontext():
        grads = torch.autograd.grad(found[0].square().sum(), [*leaves.values()]) if wanted else ()
    return [x.detach() for x in found] + list(grads)


def score(op: str, given: Arguments, options: dict[str, Any]) -> Callable[..., Tensor]:
    """The same as a function of the tensors that have a gradient."""

    def function(*values: Tensor) -> Tensor:
        moved = given | dict(zip(WANTED[op], values, strict=True))
        found = getattr(ops, op)(**moved, **options)
        return (found[0] if isinstance(found, tuple) else found).square().sum()

    return function


def values(op: str, given: Arguments) -> tuple[Tensor, ...]:
    return tuple(given[name] for name in WANTED[op])


@each_module
@pytest.mark.parametrize("lower", LOWER, ids=str)
@each_option
@each_op
def test_autocast_is_float32_of_the_inputs_for_every_gradient(
    op: str, options: dict[str, Any], lower: torch.dtype, module: ModuleType
) -> None:
    low = cast(arguments(op), lower)
    full = cast(low, torch.float32)
    for wanted in ([], ["a"], WANTED[op]):
        within = torch.autocast("cpu", lower)
        found = outcome(op, low, wanted, options, module, within)
        expected = outcome(op, full, wanted, options, module)
        if wanted:
            expected[-len(wanted) :] = [x.to(lower) for x in expected[-len(wanted) :]]
        for mine, other in zip(found, expected, strict=True):
            assert mine.dtype == other.dtype and torch.equal(mine, other)


@each_module
@each_op
def test_autocast_takes_mixed_types_and_leaves_float64(op: str, module: ModuleType) -> None:
    given = arguments(op)
    mixed = given | {"d": given["d"].half(), "a": given["a"].bfloat16()}
    double = outcome(op, cast(given, torch.float64), [], {}, module)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(op, mixed, [], {}, module)
        assert all(
            map(torch.equal, outcome(op, cast(given, torch.float64), [], {}, module), double)
        )
    assert found[0].dtype == torch.float32 and double[0].dtype == torch.float64
    expected = outcome(op, cast(mixed, torch.float32), [], {}, module)
    assert all(map(torch.equal, found, expected))
    with pytest.raises(TypeError, match="same dtype"):
        outcome(op, mixed, [], {}, module)


@each_option
@each_op
def test_layouts_and_modes_without_gradients_change_nothing(
    op: str, options: dict[str, Any]
) -> None:
    for strides in ("contiguous", "transposed", "sliced", "expanded"):
        given = arguments(op, strides)
        expected = outcome(op, given, [], options)
        asking = given | {name: given[name].clone().requires_grad_() for name in WANTED[op]}
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                found = getattr(ops, op)(**asking, **options)
                found = found if isinstance(found, tuple) else (found,)
                assert not any(x.requires_grad for x in found)
                assert all(map(torch.equal, copy.deepcopy(found), expected))


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]], ids=str)
@each_op
@pytest.mark.parametrize("sizes", [{"N": 0}, {"B": 0}, {"R": 0}, {"N": 0, "B": 0}], ids=str)
def test_nothing_to_match_is_the_references_answer(
    sizes: dict[str, int], op: str, options: dict[str, Any]
) -> None:
    given = arguments(op, **sizes)
    found = outcome(op, given, WANTED[op], options)
    for mine, other in zip(found, outcome(op, given, WANTED[op], {}, reference), strict=True):
        torch.testing.assert_close(mine, other)


@each_option
@each_op
def test_gradients_by_any_way_of_torch_are_those_of_backward(
    op: str, options: dict[str, Any]
) -> None:
    given = arguments(op)
    function, inputs = score(op, given, options), values(op, given)
    leaves = [x.detach().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(function(*leaves), leaves)
    places = tuple(range(len(inputs)))
    one = torch.ones(())
    for way, found in (
        ("func.grad", torch.func.grad(function, places)(*inputs)),
        ("func.vjp", torch.func.vjp(function, *inputs)[1](one)),
        ("func.jacrev", torch.func.jacrev(function, places)(*inputs)),
        ("functional.vjp", torch.autograd.functional.vjp(function, inputs, one)[1]),
        ("jacobian", torch.autograd.functional.jacobian(function, inputs, vectorize=True)),
        (
            "checkpoint",
            torch.autograd.grad(checkpoint(function, *leaves, use_reentrant=False), leaves),
        ),
    ):
        for mine, other in zip(found, expected, strict=True):
            assert torch.equal(mine, other), way


@pytest.mark.filterwarnings("error")
@each_option
@each_op
def test_vmap_is_a_call_for_each_entry(op: str, options: dict[str, Any]) -> None:
    given = arguments(op)
    function, inputs = score(op, given, options), values(op, given)
    first, *rest = inputs
    batch = torch.stack([first, first.flip(0), 2 * first])
    wanting = batch.clone().requires_grad_()
    mapped = torch.vmap(lambda x: function(x, *rest))
    expected = torch.stack([function(x, *rest) for x in batch])
    assert torch.equal(mapped(batch), expected)
    (around,) = torch.autograd.grad(mapped(wanting).sum(), wanting)
    within = torch.vmap(torch.func.grad(lambda x: function(x, *rest)))(batch)
    over = torch.func.grad(lambda x: mapped(x).sum())(batch)
    one_by_one = torch.stack([torch.func.grad(lambda x: function(x, *rest))(x) for x in batch])
    for found in (around, within, over):
        assert torch.equal(found, one_by_one)


@each_op
def test_vmap_over_nothing_says_so(op: str) -> None:
    given = arguments(op)
    function, (first, *rest) = score(op, given, {}), values(op, given)
    with pytest.raises(ValueError, match="batch of at least one"):
        torch.vmap(lambda x: function(x, *rest))(first.new_zeros(0, *first.shape))


@each_op
def test_a_derivative_in_forward_mode_is_an_error_and_never_zero(op: str) -> None:
    given = arguments(op)
    function, inputs = score(op, given, {}), values(op, given)
    with pytest.raises(RuntimeError, match=r"no derivative in forward mode.*reverse mode"):
        torch.func.jvp(function, inputs, inputs)
    with pytest.raises(RuntimeError, match="no derivative in forward mode"):
        torch.func.jacfwd(function)(*inputs)
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="no derivative in forward mode"),
    ):
        function(*(forward_ad.make_dual(x, x) for x in inputs))


@each_op
def test_a_second_derivative_under_func_is_a_named_error(op: str) -> None:
    given = arguments(op)
    function, (first, *rest) = score(op, given, {}), values(op, given)
    slope = torch.func.grad(lambda x: function(x, *rest))
    with pytest.raises(RuntimeError, match="there is no second derivative"):
        torch.func.grad(lambda x: slope(x).sum())(first)


@each_op
def test_a_compiled_graph_under_autocast_is_eager(op: str) -> None:
    given = arguments(op)
    options = {"precision": "high", "max_memory": 1 << 20}
    function = score(op, given, options)
    leaves = [x.detach().bfloat16().requires_grad_() for x in values(op, given)]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = compiled(*leaves), function(*leaves)
    assert torch.equal(found, expected)
    grads = torch.autograd.grad(found, leaves)
    assert all(map(torch.equal, grads, torch.autograd.grad(expected, leaves)))


@each_op
def test_an_exported_program_is_saved_loaded_and_the_same(op: str) -> None:
    given = arguments(op)

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return score(op, given, {"precision": "medium", "max_memory": 1 << 20})(*inputs)

    inputs, file = values(op, given), io.BytesIO()
    torch.export.save(torch.export.export(Module(), inputs).run_decompositions(), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("op", list(DIFFERENTIABLE))
def test_a_loss_over_d_goes_where_one_over_q_goes(op: str) -> None:
    case = Case(N=3, R=5, B=2, S=7, D=4)
    given: Arguments = build_loss(case, exclude=True, over="d").of(op)
    function, inputs = score(op, given, {}), values(op, given)
    leaves = [x.detach().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(function(*leaves), leaves)
    by_func = torch.func.grad(function, tuple(range(len(inputs))))(*inputs)
    assert all(map(torch.equal, by_func, expected))
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, torch.autograd.grad(compiled(*leaves), leaves), expected))
    first, *rest = inputs
    mapped = torch.vmap(lambda x: function(x, *rest))(torch.stack([first, 2 * first]))
    assert torch.equal(mapped[0], function(*inputs))


@pytest.fixture
def autocast_of_cuda() -> Iterator[None]:
    """As `torch.autocast("cuda")` where there is a device."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.usefixtures("autocast_of_cuda")
def test_autocast_of_cuda_reaches_cuda_tensors() -> None:
    seen = []
    op = autocast.in_float32(lambda *xs, **named: seen.append([*xs, *named.values()]))
    with FakeTensorMode():
        q = torch.empty(1, 2, 3, device="cuda", dtype=torch.float16)
        op(q, None, q.double(), exclude=q.long())
    assert torch.is_autocast_enabled("cuda")
    assert [x if x is None else x.dtype for x in seen[0]] == [
        torch.float32,
        None,
        torch.float64,
        torch.int64,
    ]
