"""The ops as torch sees them: opcheck, fake tensors, compiled graphs, autocast, what is formed."""

from __future__ import annotations

import doctest
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from emergence_ext.ops import fused as ops
from emergence_ext.ops import library as _library
from emergence_ext.ops import ways
from emergence_ext.ops.registration import DERIVATIVES
from tests.cases import DIFFERENTIABLE, DTYPES, Case, build, build_loss
from tests.emulated import EmulatedGPU

pytestmark = pytest.mark.usefixtures("each_backend")

SMALL = Case(N=3, R=5, B=2, S=7, D=4)
LAYOUTS = [
    SMALL,
    replace(SMALL, strides="transposed"),
    replace(SMALL, strides="sliced"),
    replace(SMALL, weights=False),
    replace(SMALL, S=300),
    replace(SMALL, D=40),
    replace(SMALL, N=0),
]
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))


def leaves(case: Case) -> list[Tensor | None]:
    """q, d and a (if any) of a case in float64, asking for gradients."""
    x = build(replace(case, dtype=torch.float64))
    return [None if t is None else t.requires_grad_() for t in (x.q, x.d, x.a)]


def loss_arguments(op: str, case: Case, needs: set[str], exclude: bool = True) -> list[Any]:
    """Arguments of the registered op, those in `needs` asking for a gradient."""
    given = build_loss(case, exclude=exclude).of(op)
    for name in needs:
        given[name].requires_grad_()
    return [*given.values(), [name in needs for name in DIFFERENTIABLE[op]]]


class Recorder(TorchDispatchMode):
    """Remembers the calls of this package's ops, by name, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace in ("emergence_ext", EmulatedGPU.namespace):
            self.calls.append((func.overloadpacket.__name__, args))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("op", list(DERIVATIVES))
def test_torch_compile_is_told_that_the_ops_are_made_for_it(op: str) -> None:
    assert torch.Tag.pt2_compliant_tag in getattr(ops._compiled, op).default.tags


@pytest.mark.parametrize("op", ["maxsim", "maxsim_indices"])
@pytest.mark.parametrize("case", LAYOUTS, ids=str)
def test_opcheck_of_scores(case: Case, op: str) -> None:
    torch.library.opcheck(getattr(ops._compiled, op), tuple(leaves(case)))


def test_opcheck_of_compact_matches() -> None:
    torch.library.opcheck(ops._compiled.maxsim_indices, tuple(leaves(SMALL)), {"compact": True})


def test_opcheck_of_the_gradient_of_scores() -> None:
    x = build(SMALL)
    T, argmax = ops._compiled.maxsim_indices(x.q, x.d, x.a)
    arguments = (torch.ones_like(T), x.q, x.d, x.a, argmax, [True, False, True])
    torch.library.opcheck(ops._compiled.maxsim_backward, arguments)


@both
@pytest.mark.parametrize("case", [SMALL, replace(SMALL, D=40, strides="sliced")], ids=str)
@pytest.mark.parametrize("needs", [set(), {"a"}, None], ids=["none", "a", "all"])
def test_opcheck_of_losses(needs: set[str] | None, case: Case, op: str) -> None:
    wanted = set(DIFFERENTIABLE[op]) if needs is None else needs
    arguments = loss_arguments(op, replace(case, dtype=torch.float64), wanted, needs is None)
    torch.library.opcheck(getattr(ops._compiled, op), tuple(arguments))


@both
def test_opcheck_of_losses_over_d(op: str) -> None:
    given = build_loss(replace(SMALL, dtype=torch.float64), exclude=True, over="d").of(op)
    over = given.pop("over")
    for name in DIFFERENTIABLE[op]:
        given[name].requires_grad_()
    needs = [True for _ in DIFFERENTIABLE[op]]
    torch.library.opcheck(getattr(ops._compiled, op), (*given.values(), needs), {"over": over})


def test_opcheck_of_scale_gradient() -> None:
    arguments = (torch.tensor(2.0), torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bfloat16))
    torch.library.opcheck(ops._compiled.scale_gradient, arguments)


@pytest.mark.parametrize("S", [256, 257])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fake_scores_have_the_shapes_and_dtypes_of_real_ones(S: int, dtype: torch.dtype) -> None:
    x = build(replace(SMALL, S=S, dtype=dtype))
    for options in ({}, {"compact": True}):
        assert_fakes_fit(ops._compiled.maxsim_indices, [x.q, x.d, x.a], options)
    T, argmax = ops._compiled.maxsim_indices(x.q, x.d, x.a)
    for needs in ([True] * 3, [False, True, False]):
        assert_fakes_fit(ops._compiled.maxsim_backward, [T, x.q, x.d, x.a, argmax, needs], {})


@both
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fake_losses_have_the_shapes_and_dtypes_of_real_ones(dtype: torch.dtype, op: str) -> None:
    for needs in (set(), {"a"}, {"b"}, set(DIFFERENTIABLE[op])):
        arguments = loss_arguments(op, replace(SMALL, dtype=dtype), needs)
        with torch.no_grad():
            assert_fakes_fit(getattr(ops._compiled, op), arguments, {})
        arguments[-3] = arguments[-3].double()  # P, which like b may be of another type
        with torch.no_grad():
            assert_fakes_fit(getattr(ops._compiled, op), arguments, {})


def assert_fakes_fit(op: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    real = op(*arguments, **options)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = op(
            *(mode.from_tensor(t) if isinstance(t, Tensor) else t for t in arguments), **options
        )
    for mine, other in zip(fake, real, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_scores_are_those_of_eager(backend: str) -> None:
    def loss(q: Tensor, d: Tensor, a: Tensor) -> Tensor:
        return ops.maxsim(torch.nn.functional.normalize(q, dim=-1), d, a).square().sum()

    x = build(SMALL)
    assert_compiled_is_eager(loss, [x.q, x.d, x.a], backend)


@both
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_loss_is_that_of_eager(backend: str, op: str) -> None:
    x = build_loss(SMALL, exclude=True)
    names = DIFFERENTIABLE[op]

    def loss(*values: Tensor) -> Tensor:
        moved = [value * 1.5 for value in values]
        return getattr(ops, op)(**x.of(op) | dict(zip(names, moved, strict=True))).square()

    assert_compiled_is_eager(loss, [x.of(op)[name] for name in names], backend)


def assert_compiled_is_eager(
    function: Callable[..., Tensor], inputs: list[Tensor], backend: str
) -> None:
    inputs = [t.requires_grad_() for t in inputs]
    eager = function(*inputs)
    expected = torch.autograd.grad(eager, inputs)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(compiled, eager)
    for mine, other in zip(torch.autograd.grad(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_scores_in_float32(lower: torch.dtype) -> None:
    x = build(SMALL)
    with torch.autocast("cpu", lower):
        mixed = ops.maxsim(x.q.to(lower), x.d, x.a)
        double = ops.maxsim(x.q.double(), x.d.double())
    assert torch.equal(mixed, ops.maxsim(x.q.to(lower).float(), x.d, x.a))
    assert double.dtype == torch.float64


@both
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_losses_in_float32(lower: torch.dtype, op: str) -> None:
    x = build_loss(SMALL, exclude=True).of(op)
    first = next(iter(x))
    low = x | {first: x[first].to(lower), "a": x["a"].to(lower).requires_grad_()}
    full = low | {name: low[name].detach().float() for name in (first, "a")}
    full["a"].requires_grad_()
    with torch.autocast("cpu", lower):
        loss = getattr(ops, op)(**low)
        double = getattr(ops, op)(
            **{name: t.double() if t.is_floating_point() else t for name, t in x.items()}
        )
    expected = getattr(ops, op)(**full)
    assert torch.equal(loss, expected)
    assert double.dtype == torch.float64
    loss.backward()
    expected.backward()
    assert low["a"].grad.dtype == lower
    assert torch.equal(low["a"].grad, full["a"].grad.to(lower))


@both
def test_every_subset_of_the_gradients_is_formed_alone(op: str) -> None:
    names = DIFFERENTIABLE[op]
    everything = loss_arguments(op, SMALL, set(names))
    with torch.no_grad():
        expected = getattr(ops._compiled, op)(*everything)
    for subset in range(2 ** len(names)):
        wanted = {name for place, name in enumerate(names) if subset >> place & 1}
        arguments = loss_arguments(op, SMALL, wanted)
        loss, *formed = getattr(ops._compiled, op)(*arguments)
        assert [grad.numel() > 0 for grad in formed] == arguments[-1]
        assert torch.equal(loss, expected[0])
        for mine, other, need in zip(formed, expected[1:], arguments[-1], strict=True):
            assert not need or torch.equal(mine, other)
        given = dict(zip(build_loss(SMALL).of(op), arguments, strict=False))
        if wanted:
            loss.backward()
        assert {name for name, t in given.items() if t.grad is not None} == wanted


@both
@pytest.mark.parametrize("needs", [set(), {"a"}, {"b", "a"}], ids=["none", "a", "a and b"])
def test_the_wrapper_asks_for_the_gradients_that_are_wanted(needs: set[str], op: str) -> None:
    x = build_loss(SMALL).of(op)
    for name in needs:
        x[name].requires_grad_()
    with Recorder() as seen:
        getattr(ops, op)(**x)
        with torch.no_grad():
            getattr(ops, op)(**x)
    asked = [args[-1] for name, args in seen.calls if name == op]
    assert asked == [[name in needs for name in DIFFERENTIABLE[op]], [False] * len(asked[0])]


def test_scores_keep_no_matches_unless_a_gradient_is_wanted() -> None:
    x = build(SMALL)
    with Recorder() as seen:
        ops.maxsim(x.q, x.d, x.a)
        x.a.requires_grad_()
        ops.maxsim(x.q, x.d, x.a)
        with torch.no_grad():
            ops.maxsim(x.q, x.d, x.a)
    assert [name for name, _ in seen.calls] == ["maxsim", "maxsim_indices", "maxsim"]


@both
def test_a_gradient_that_was_not_asked_for_is_a_named_error(op: str) -> None:
    arguments = loss_arguments(op, SMALL, {"a", "b"})
    arguments[-1] = [name == "b" for name in DIFFERENTIABLE[op]]
    loss = getattr(ops._compiled, op)(*arguments)[0]
    with pytest.raises(RuntimeError, match="match_kl: a gradient is wanted that `needs` did not"):
        loss.backward()


@both
def test_a_second_derivative_of_a_loss_is_a_named_error(op: str) -> None:
    x = build_loss(SMALL).of(op)
    a = x["a"].requires_grad_()
    (grad,) = torch.autograd.grad(getattr(ops, op)(**x).square(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="match_kl: there is no second derivative"):
        grad.sum().backward()


@both
def test_gradients_are_scaled_by_that_of_the_loss(op: str) -> None:
    x = build_loss(SMALL).of(op)
    a = x["a"].requires_grad_()
    (plain,) = torch.autograd.grad(getattr(ops, op)(**x), a)
    (scaled,) = torch.autograd.grad(4 * getattr(ops, op)(**x), a)
    assert torch.equal(scaled, 4 * plain)


def test_the_examples_of_the_docstrings_run() -> None:
    results = doctest.testmod(ops, extraglobs={"torch": torch})
    assert results.attempted > 0
    assert results.failed == 0


def test_without_the_library_the_reference_answers_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = build(SMALL), build_loss(SMALL)
    expected = ops.maxsim_indices(x.q, x.d, x.a)
    losses = {op: getattr(ops, op)(**y.of(op)) for op in DIFFERENTIABLE}
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": "it was never built here")
    monkeypatch.setattr(ops, "_warned", False)
    with pytest.warns(RuntimeWarning, match="without its compiled library.*never built") as seen:
        found = ops.maxsim_indices(x.q, x.d, x.a)
    assert seen[0].filename == __file__
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.maxsim(x.q, x.d)
        for op, loss in losses.items():
            torch.testing.assert_close(getattr(ops, op)(**y.of(op)), loss)
        with torch.autocast("cpu", torch.bfloat16):
            assert ops.maxsim(x.q.bfloat16(), x.d, x.a).dtype == torch.float32


def test_without_a_cuda_backend_a_cuda_tensor_has_the_reference_and_a_word_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": f"no, run {_library.REBUILD}")
    monkeypatch.setattr(ways, "gate", ways.Gate())
    monkeypatch.setattr(ways, "_why_no_triton", lambda index: "there is no Triton")
    with FakeTensorMode():
        q = torch.empty(1, 2, 3, device="cuda")
        with pytest.warns(
            RuntimeWarning,
            match=r"on cuda:0: .*no CUDA backend.*pip install --no-build-isolation.*no Triton",
        ) as told:
            for _ in range(2):
                assert ops.maxsim(q, q).device.type == "cuda"
    assert len(told) == 1
