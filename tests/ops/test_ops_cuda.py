"""What is CUDA's own: ways to match, precisions, schedules and memory of a GPU, on an emulated one.

Everything else that the ops promise is tested with `each_backend`.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.ops import reference
from emergence_ext.ops.ways import portable_way
from tests import oracle
from tests.cases import CASES, DIFFERENTIABLE, LARGE, Case, build, build_loss, run_loss
from tests.emulated import EmulatedGPU
from tests.ops.test_ops_precision import missed_by, near_ties, usual, worst, worst_of_rests

pytestmark = pytest.mark.usefixtures("emulated_gpu")

EPS = torch.finfo(torch.float32).eps
BOUNDS = {"medium": 2.0**-6, "high": 2.0**-14}
SHARED = [227 << 10, 163 << 10, 99 << 10]  # of compute capability 9.0, 8.0, 8.6
NARROW = [case for case in [*CASES, *LARGE] if case.D <= 8]
# Rows past a tile and past a block of threads, several tiles of candidates, of channels and of
# images; rows that stay in shared memory and rows that are too wide for it.
TILED = [
    Case(N=3, R=100, B=3, S=49, D=3),
    Case(N=14, R=196, B=2, S=196, D=3),
    Case(N=2, R=150, B=9, S=196, D=40),
    Case(N=3, R=100, B=2, S=230, D=70),
    Case(N=1, R=130, B=2, S=60, D=1100),
]
both = pytest.mark.parametrize("op", list(DIFFERENTIABLE))


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "split")


def everything(case: Case, precision: str = "highest") -> dict[str, Tensor]:
    """Scores, matches, losses and all gradients of a case."""
    x = build(case)
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a, precision=precision)
    found = {"T": T, "argmax": argmax}
    for op in DIFFERENTIABLE:
        grads = run_loss(ops, op, build_loss(case, exclude=True), precision=precision)
        found |= {f"{op} {name}": grad for name, grad in grads.items()}
    return found


def assert_same(found: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, expected in found.items():
        assert torch.equal(other[name], expected), name


def test_the_ops_launch_kernels(emulated_gpu: EmulatedGPU) -> None:
    before = emulated_gpu.launches
    everything(TILED[0])
    assert emulated_gpu.launches >= before + 10


@pytest.mark.one_in(3)
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("case", TILED, ids=str)
def test_results_do_not_depend_on_the_order_of_threads(
    case: Case, precision: str, emulated_gpu: EmulatedGPU
) -> None:
    # A barrier that is missing would show.
    found = everything(case, precision)
    for schedule in (0, 1, 3):
        emulated_gpu.set_schedule(schedule)
        assert_same(found, everything(case, precision))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("case", TILED, ids=str)
def test_results_do_not_depend_on_shared_memory(
    case: Case, precision: str, emulated_gpu: EmulatedGPU
) -> None:
    found = everything(case, precision)
    for size in SHARED:
        emulated_gpu.set_device(shared=size)
        assert_same(found, everything(case, precision))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("way", ["portable", "split", "hopper"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("D", [3, 40])
def test_results_do_not_depend_on_how_many_images_a_block_of_threads_takes(
    D: int,
    precision: str,
    way: str,
    emulated_gpu: EmulatedGPU,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", way)
    case = Case(N=3, R=20, B=150, S=9, D=D)
    emulated_gpu.set_device(multiprocessors=1)
    found = everything(case, precision)
    emulated_gpu.set_device(multiprocessors=1000)
    assert_same(found, everything(case, precision))


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("case", [TILED[0], TILED[1], replace(TILED[0], D=6, S=63)], ids=str)
def test_split_rows_do_not_depend_on_the_order_of_threads(
    case: Case, emulated_gpu: EmulatedGPU
) -> None:
    found = everything(case)
    for schedule in (0, 1, 3):
        emulated_gpu.set_schedule(schedule)
        assert_same(found, everything(case))


@pytest.mark.parametrize("case", TILED, ids=str)
def test_scores_and_gradients_of_many_tiles(case: Case) -> None:
    x = build(case)
    truth = reference.maxsim_indices(x.q.double(), x.d.double(), x.a.double())
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax, truth)
    for op in DIFFERENTIABLE:
        loss = build_loss(replace(case, dtype=torch.float64))
        expected = run_loss(reference, op, loss)
        for name, mine in run_loss(ops, op, loss).items():
            torch.testing.assert_close(mine, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("case", [*NARROW, *TILED[:2]], ids=str)
def test_split_rows_are_matched_as_in_float32(case: Case) -> None:
    for D in sorted({case.D, 2, 3, 4, 7}):
        x = build(replace(case, D=D))
        T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
        truth = reference.maxsim_indices(
            *(None if t is None else t.double() for t in (x.q, x.d, x.a))
        )
        oracle.assert_scores(x.q, x.d, x.a, T, argmax, truth)
        assert torch.equal(ops.maxsim(x.q, x.d, x.a), T)
        if case.values == "ties":
            assert torch.equal(argmax, truth[1])


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e18])
def test_split_rows_may_be_of_any_size(scale: float) -> None:
    x = build(Case(N=3, R=20, B=2, S=33, D=3))
    T, argmax = ops.maxsim_indices(x.q * scale, x.d, x.a)
    expected, places = ops.maxsim_indices(x.q, x.d, x.a)
    assert torch.equal(argmax, places)
    torch.testing.assert_close(T, expected * scale, rtol=1e-5, atol=0)
    assert torch.equal(ops.maxsim_indices(x.q, x.d * scale, x.a)[1], places)


@pytest.mark.usefixtures("split")
def test_what_cannot_be_split_is_matched_all_the_same() -> None:
    for case in (Case(N=2, R=5, B=2, S=1100, D=3), Case(N=2, R=5, B=2, S=7, D=12)):
        x = build(case)
        truth = reference.maxsim_indices(x.q.double(), x.d.double(), x.a.double())
        oracle.assert_scores(x.q, x.d, x.a, *ops.maxsim_indices(x.q, x.d, x.a), truth)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_what_would_round_to_infinity_stays_finite(precision: str) -> None:
    q, d = torch.zeros(1, 1, 16), torch.zeros(1, 2, 16)
    q[..., 0], q[..., 1] = torch.finfo(torch.float32).max, 1
    d[:, 1, 0], d[:, 0, 1] = 0.5, 1
    T, argmax = ops.maxsim_indices(q, d, precision=precision)
    assert argmax.item() == 1
    assert T.item() == 0.5 * q[0, 0, 0]


def test_an_unknown_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "fast")
    x = build(CASES[0])
    with pytest.raises(ValueError, match=r"EMERGENCE_CUDA_PATH must be .* got 'fast'"):
        ops.maxsim(x.q, x.d)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("way", ["portable", "hopper"])
@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("inputs", [usual, near_ties, worst, worst_of_rests])
@pytest.mark.parametrize("S", [5, 57, 257])
@pytest.mark.parametrize("D", [9, 40, 127, 512])
def test_what_is_selected_is_within_its_bound_and_scored_in_float32(
    D: int,
    S: int,
    inputs: object,
    precision: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", way)
    q, d, a = inputs(Case(N=3, R=70, B=2, S=S, D=D))
    T, argmax = ops.maxsim_indices(q, d, a, precision=precision)
    assert torch.equal(ops.maxsim(q, d, a, precision=precision), T)
    missed, magnitude, chosen = missed_by(q, d, argmax)
    assert (missed <= BOUNDS[precision] * magnitude).all()
    slack = (a.double() * magnitude).sum(-1) * (D + a.shape[1]) * EPS
    assert ((T - (a.double() * chosen).sum(-1)).abs() <= slack).all()
    if inputs is near_ties and precision == "medium":
        assert (missed > 0).any()  # else any arithmetic would hold the bound
    if inputs is worst_of_rests and precision == "high" and D > 100:
        assert (missed > 0.6 * BOUNDS[precision] * magnitude).any()  # more than four would miss


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scaled_16_bit_rows_are_scaled_in_float32(dtype: torch.dtype, precision: str) -> None:
    x = build_loss(Case(N=3, R=70, B=2, S=20, D=72, dtype=dtype))
    found = run_loss(ops, "match_kl_scaled", x, precision=precision)
    expected = run_loss(ops, "match_kl_scaled", x, torch.float32, precision=precision)
    assert torch.equal(found["loss"], expected["loss"])
    for name in DIFFERENTIABLE["match_kl_scaled"]:
        assert torch.equal(found[name], expected[name].to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.D > 8], ids=str)
def test_hopper_matches_16_bit_rows_as_the_portable_way_does(
    case: Case, dtype: torch.dtype, emulated_gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = build(replace(case, dtype=dtype))
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "hopper")
    for schedule in (0, 1, 2):
        emulated_gpu.set_schedule(schedule)
        found, places = ops.maxsim_indices(x.q, x.d, x.a)
        assert torch.equal(places, argmax)
        torch.testing.assert_close(found, T, rtol=1e-5, atol=1e-5)


def test_the_way_that_is_named_is_taken(
    emulated_gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No stage of Hopper's ring fits into so little, which the portable way does not ask about.
    x = build(Case(N=2, R=5, B=2, S=7, D=40, dtype=torch.bfloat16))
    emulated_gpu.set_device(shared=8 << 10)
    ops.maxsim(x.q, x.d, x.a)
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "hopper")
    with pytest.raises(RuntimeError, match="gave error"):
        ops.maxsim(x.q, x.d, x.a)


@pytest.mark.parametrize("way", ["portable", "split", "hopper"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [3, 7, 40])
def test_a_nan_reaches_every_score_that_it_touches_and_no_other(
    D: int, dtype: torch.dtype, precision: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", way)
    x = build(Case(N=4, R=50, B=3, S=60, D=D, dtype=dtype))
    x.q[1, 7, 2] = x.d[2, 31, 1] = x.a[3, 0] = torch.nan
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a, precision=precision)
    touched = torch.zeros(3, 4, dtype=torch.bool)
    touched[:, 1] = touched[:, 3] = touched[2] = True
    assert torch.equal(T.isnan(), touched)
    assert (argmax[2, 0] == 31).all()
    assert (argmax[:2, 1, 7] == 0).all()
    assert ((argmax >= 0) & (argmax < 60)).all()


@both
@pytest.mark.parametrize("D", [3, 40])
def test_a_nan_makes_the_loss_nan(D: int, op: str) -> None:
    for name in ("q", "d", "a", "b", "P"):
        x = build_loss(Case(N=4, R=5, B=3, S=6, D=D))
        getattr(x, name).view(-1)[0] = torch.nan
        assert run_loss(ops, op, x)["loss"].isnan(), name


@both
@pytest.mark.parametrize("D", [3, 40])
def test_where_memory_is_short_blocks_are_halved(
    D: int, op: str, emulated_gpu: EmulatedGPU
) -> None:
    x = build_loss(Case(N=5, R=40, B=50, S=9, D=D))
    found = run_loss(ops, op, x)
    image = 5 * 40 * (1 if D == 3 else 4)  # bytes of its matches, or of its products
    emulated_gpu.set_device(allocation=20 * image)
    assert_same(found, run_loss(ops, op, x))
    emulated_gpu.set_device(allocation=7 * image)
    with pytest.raises(torch.OutOfMemoryError, match="no room for the smallest block"):
        run_loss(ops, op, x)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_scores_of_wide_rows_come_in_blocks_that_fit(precision: str) -> None:
    x = build(Case(N=5, R=20, B=50, S=9, D=40))
    options = {"precision": precision}
    found = ops.maxsim_indices(x.q, x.d, x.a, **options)
    with pytest.raises(
        ValueError, match=r"^maxsim_indices: max_memory = 1 bytes holds no"
    ) as error:
        ops.maxsim_indices(x.q, x.d, x.a, max_memory=1, **options)
    least = int(re.findall(r"\d+", str(error.value).splitlines()[0])[-1])
    for max_memory in (least, 2 * least):
        other = ops.maxsim_indices(x.q, x.d, x.a, max_memory=max_memory, **options)
        assert all(map(torch.equal, other, found))


# What the library refuses by itself, for those who call torch.ops


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("D", [8, 9])
def test_the_library_takes_the_very_way_that_was_proved(
    D: int,
    dtype: torch.dtype,
    precision: str,
    scaled: bool,
    emulated_gpu: EmulatedGPU,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EMERGENCE_CUDA", raising=False)
    x = torch.ones(2, 3, D, dtype=dtype)
    P = torch.full((2, 2), 0.5, dtype=dtype)

    def call() -> Tensor:
        if scaled:
            rest = (x, x[..., 0], x[:, 0, 0], P, None, [True, True, True])
            return emulated_gpu.ops.match_kl_scaled(x, x[:, 0], *rest, precision=precision)[0]
        T, argmax = emulated_gpu.ops.maxsim_indices(x, x, None, precision=precision)
        emulated_gpu.ops.maxsim_backward(T, x, x, None, argmax, [True, True, False])
        return T

    way = portable_way(D, dtype, precision, scaled)
    emulated_gpu.allow(way)
    assert call().isfinite().all()
    emulated_gpu.allow(*{"narrow", "wide", "planes", "split", "hopper"} - {way})
    with pytest.raises(NotImplementedError, match="not proved themselves on cpu") as error:
        call()
    assert "EMERGENCE_CUDA=portable" in str(error.value)


def test_the_library_reads_the_environment_too(
    emulated_gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(1, 1, 3)
    emulated_gpu.allow()
    for said in ("portable", "all"):
        monkeypatch.setenv("EMERGENCE_CUDA", said)
        assert emulated_gpu.ops.maxsim(x, x, None).item() == 3
    emulated_gpu.allow("narrow")
    monkeypatch.setenv("EMERGENCE_CUDA", "off")
    with pytest.raises(NotImplementedError, match="not proved themselves"):
        emulated_gpu.ops.maxsim(x, x, None)
    monkeypatch.setenv("EMERGENCE_CUDA", "yes")
    with pytest.raises(ValueError, match="EMERGENCE_CUDA must be off, portable or all; got 'yes'"):
        emulated_gpu.ops.maxsim(x, x, None)
