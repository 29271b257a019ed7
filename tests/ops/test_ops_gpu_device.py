"""How the ops get along with a GPU: streams, graphs, memory, repeats. Needs torch and pytest."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.ops import reference, ways
from emergence_ext.ops.proof import GPU, prove
from tests.cases import DIFFERENTIABLE, KINDS, Case, Inputs, LossInputs, build, build_loss, run_loss

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

DEVICE = "cuda"
SMALL = Case(N=4, R=5, B=3, S=7, D=4)
MIB = 1 << 20
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))
kinds = pytest.mark.parametrize("case", KINDS, ids=str)
compiler = pytest.mark.parametrize("backend", ["aot_eager", "inductor"])


def results(x: Inputs, y: LossInputs, precision: str = "highest", **options: Any) -> list[Tensor]:
    """What all ops give, with every gradient: maxsim of x, the losses of y."""
    inputs = [t.detach().requires_grad_() for t in (x.q, x.d, x.a)]
    T, argmax = ops.maxsim_indices(*inputs, precision=precision)
    found = [T.detach(), argmax, *torch.autograd.grad(T, inputs, torch.ones_like(T))]
    for op in DIFFERENTIABLE:
        found += run_loss(ops, op, y, precision=precision, **options).values()
    return found


def problem(case: Case, device: str = DEVICE) -> tuple[Inputs, LossInputs]:
    return build(case, device), build_loss(case, exclude=True, device=device)


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for place, (mine, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(mine, other.to(mine.device)), place


# The proof


# Of a check that takes one way after another, those of others are none of its business.
_PROVED = ways.PORTABLE if os.environ.get("EMERGENCE_CUDA_PATH") == "portable" else ways.WAYS


@pytest.mark.parametrize("way", _PROVED)
def test_a_way_proves_itself_or_is_not_quicker(way: str) -> None:
    index = torch.cuda.current_device()
    if (reason := ways.gate.impossible(way, index)) is not None:
        pytest.skip(reason)
    gpu = ways.gate.gpu(index)
    assert isinstance(gpu, GPU)
    found = prove(way, gpu, limit=45)
    assert found.lasts and found.verdict.milliseconds is not None, found.verdict.reason


def test_what_nobody_allowed_is_refused_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA", "off")
    x = build(SMALL, DEVICE)
    with pytest.raises(NotImplementedError, match="not proved themselves on cuda:0"):
        torch.ops.emergence_ext.maxsim(x.q, x.d, x.a)
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), reference.maxsim(x.q, x.d, x.a))


# The same bits


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@kinds
def test_every_run_gives_the_same_bits(case: Case, precision: str, cuda_path: str) -> None:
    x, y = problem(case)
    first = results(x, y, precision)
    for _ in range(20):
        assert_same_bits(results(x, y, precision), first)


@both
@pytest.mark.parametrize("precision", ["highest", "medium"])
@kinds
def test_any_max_memory_gives_the_same_bits(
    case: Case, precision: str, op: str, cuda_path: str
) -> None:
    x = build_loss(replace(case, B=43), exclude=True, device=DEVICE)
    expected = run_loss(ops, op, x, precision=precision)
    least = least_memory(op, x, precision)
    for max_memory in (least, least + least // 2, 3 * least):
        found = run_loss(ops, op, x, precision=precision, max_memory=max_memory)
        assert_same_bits(list(found.values()), list(expected.values()))


def least_memory(op: str, x: LossInputs, precision: str) -> int:
    """The bytes that the error for too little memory asks for."""
    with pytest.raises(ValueError, match=r"holds no block.*give at least \d+") as error:
        run_loss(ops, op, x, precision=precision, max_memory=1)
    named = re.search(r"at least (\d+)", str(error.value))
    assert named is not None
    return int(named[1])


@kinds
def test_deterministic_algorithms_change_nothing_and_everything_is_written(case: Case) -> None:
    x, y = problem(case)
    expected = results(x, y)
    torch.use_deterministic_algorithms(True)  # which fills fresh memory with NaN
    try:
        found = results(x, y)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_bits(found, expected)


# torch's own machinery


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, D=72, S=300)], ids=str)
def test_opcheck(case: Case) -> None:
    direct = torch.ops.emergence_ext
    x = build(replace(case, dtype=torch.float64), DEVICE)
    inputs = tuple(t.requires_grad_() for t in (x.q, x.d, x.a))
    torch.library.opcheck(direct.maxsim, inputs)
    torch.library.opcheck(direct.maxsim_indices, inputs)
    torch.library.opcheck(direct.maxsim_indices, inputs, {"compact": True})
    T, argmax = (t.detach() for t in direct.maxsim_indices(*inputs))
    given = (torch.ones_like(T), *(t.detach() for t in inputs), argmax, [True, False, True])
    torch.library.opcheck(direct.maxsim_backward, given)
    for op, names in DIFFERENTIABLE.items():
        y = build_loss(replace(case, dtype=torch.float64), exclude=True, device=DEVICE).of(op)
        for name in names:
            y[name].requires_grad_()
        torch.library.opcheck(getattr(direct, op), (*y.values(), [True] * len(names)))


@compiler
def test_compiled_scores_are_those_of_eager(backend: str) -> None:
    def loss(q: Tensor, d: Tensor, a: Tensor) -> Tensor:
        return ops.maxsim(torch.nn.functional.normalize(q, dim=-1), d, a).square().sum()

    x = build(SMALL, DEVICE)
    assert_compiled_is_eager(loss, [x.q, x.d, x.a], backend)


@both
@compiler
def test_compiled_loss_is_that_of_eager(backend: str, op: str) -> None:
    x, names = build_loss(SMALL, exclude=True, device=DEVICE).of(op), DIFFERENTIABLE[op]

    def loss(*values: Tensor) -> Tensor:
        moved = [value * 1.5 for value in values]
        return getattr(ops, op)(**x | dict(zip(names, moved, strict=True))).square()

    assert_compiled_is_eager(loss, [x[name] for name in names], backend)


def assert_compiled_is_eager(
    function: Callable[..., Tensor], inputs: list[Tensor], backend: str
) -> None:
    inputs = [t.requires_grad_() for t in inputs]
    eager = function(*inputs)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager, inputs)
    for mine, other in zip(torch.autograd.grad(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(lower: torch.dtype) -> None:
    x, y = problem(SMALL)
    low = y.of("match_kl") | {"q": y.q.to(lower)}
    full = low | {"q": y.q.to(lower).float()}
    with torch.autocast(DEVICE, lower):
        mixed, loss = ops.maxsim(x.q.to(lower), x.d, x.a), ops.match_kl(**low)
    assert torch.equal(mixed, ops.maxsim(x.q.to(lower).float(), x.d, x.a))
    assert torch.equal(loss, ops.match_kl(**full))


# Streams, graphs, devices


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["highest", "medium"])
@kinds
def test_nothing_waits_for_the_device(
    case: Case, precision: str, cuda_path: str, request: pytest.FixtureRequest
) -> None:
    x, y = problem(case)
    request.getfixturevalue("waiting_is_an_error")
    results(x, y, precision)


@pytest.mark.parametrize("precision", ["highest", "medium"])
@kinds
def test_a_captured_graph_replays_to_the_bits_of_eager(
    case: Case, precision: str, cuda_path: str
) -> None:
    x, y = problem(case)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        results(x, y, precision)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(x, y, precision)
    others = problem(replace(case, seed=5))
    for mine, other in ((x, others[0]), (y, others[1])):
        for name in vars(mine):
            getattr(mine, name).copy_(getattr(other, name))
    for _ in range(2):
        graph.replay()
        assert_same_bits(captured, results(*others, precision))


@kinds
def test_work_goes_to_the_stream_in_use(case: Case, cuda_path: str) -> None:
    expected = results(*problem(case))
    x, y = problem(case)
    real = [t.clone() for t in (x.q, x.d, y.q, y.d)]
    for t in (x.q, x.d, y.q, y.d):
        t.fill_(torch.nan)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # cycles, in which another stream would read the NaN
        for t, right in zip((x.q, x.d, y.q, y.d), real, strict=True):
            t.copy_(right)
        found = results(x, y)
        torch.cuda.current_stream().synchronize()
    assert_same_bits(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one device")
@kinds
def test_a_second_device_computes_as_the_first(case: Case) -> None:
    expected = results(*problem(case))
    assert torch.cuda.current_device() == 0
    found = results(*problem(case, "cuda:1"))
    assert {t.device.index for t in found} == {1}
    assert_same_bits(found, expected)


def test_inputs_of_two_devices_are_refused() -> None:
    x = build(SMALL, DEVICE)
    with pytest.raises(TypeError, match="d is Float on cpu, q is Float on cuda"):
        ops.maxsim(x.q, x.d.cpu())


# Memory


@pytest.mark.parametrize("most", [24 * MIB, 96 * MIB])
@pytest.mark.parametrize(
    ("case", "precision"),
    [
        (Case(N=300, R=196, B=400, S=196, D=3), "highest"),
        (Case(N=200, R=49, B=400, S=49, D=64, dtype=torch.bfloat16), "medium"),
        (Case(N=200, R=49, B=400, S=49, D=64), "medium"),
    ],
    ids=str,
)
@both
def test_max_memory_is_kept(op: str, case: Case, precision: str, most: int) -> None:
    x = build_loss(case, device=DEVICE)
    run_loss(ops, op, x, precision=precision, max_memory=most)  # what is loaded once
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = run_loss(ops, op, x, precision=precision, max_memory=most)
    extra = torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in found.values())
    assert extra <= 1.1 * most


def has_memory(bytes_: int) -> bool:
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > bytes_


@pytest.mark.skipif(not has_memory(60 << 30), reason="needs 60 GB of the device")
def test_more_than_2_to_the_31_matches() -> None:
    # Two candidates for each of the many rows: 2.2e9 matches, 4.3e9 products.
    x = build(Case(N=2900, R=257, B=2900, S=2, D=3), DEVICE)
    assert 2900 * 2900 * 257 > 2**31
    inputs = [t.requires_grad_() for t in (x.q, x.d, x.a)]
    T, argmax = ops.maxsim_indices(x.q.detach(), x.d.detach(), x.a.detach())
    q, d, a = (t.detach().cpu().double() for t in inputs)
    for block in (slice(0, 2), slice(-2, None)):
        expected, matches = reference.maxsim_indices(q, d[block], a)
        torch.testing.assert_close(T[block].cpu().double(), expected, rtol=1e-4, atol=1e-4)
        assert (argmax[block].cpu() == matches).double().mean() > 0.9999  # but for near ties
    del argmax
    scores = ops.maxsim(*inputs)
    assert torch.equal(scores, T)
    G = torch.randn(T.shape, generator=torch.Generator().manual_seed(0))
    dq, dd, da = (t.cpu().double() for t in torch.autograd.grad(scores, inputs, G.to(DEVICE)))
    some = [t[-2:].requires_grad_() for t in (q, a)]
    expected_q, expected_a = torch.autograd.grad(
        reference.maxsim(some[0], d, some[1]), some, G[:, -2:].double()
    )
    last = d[-2:].requires_grad_()
    (expected_d,) = torch.autograd.grad(reference.maxsim(q, last, a), last, G[-2:].double())
    for found, expected in ((dq[-2:], expected_q), (da[-2:], expected_a), (dd[-2:], expected_d)):
        assert (found - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.skipif(not has_memory(30 << 30), reason="needs 30 GB of the device")
def test_rows_of_more_than_2_to_the_31_numbers() -> None:
    N, R, D = 4200, 1000, 512
    q = torch.randn(N, R, D, device=DEVICE, dtype=torch.bfloat16)
    assert q.numel() > 2**31
    d = torch.randn(2, 49, D, device=DEVICE, dtype=torch.bfloat16)
    T = ops.maxsim(q, d)[:, -2:].cpu().double()
    expected = reference.maxsim(q[-2:].cpu().double(), d.cpu().double())
    torch.testing.assert_close(T, expected, rtol=1e-4, atol=0)


def test_out_of_memory_is_said_and_survived() -> None:
    x, y = problem(SMALL)
    expected = results(x, y)
    N, R = 20_000, 5000
    rows = torch.ones(N, R, 1, device=DEVICE)
    candidates = torch.ones(N, 1, 1, device=DEVICE)
    before = torch.cuda.memory_allocated()
    with pytest.raises(torch.OutOfMemoryError):
        ops.maxsim_indices(rows, candidates)  # matches of 16 TB
    assert torch.cuda.memory_allocated() == before
    assert_same_bits(results(x, y), expected)
