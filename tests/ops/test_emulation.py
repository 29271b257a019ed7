"""The emulated GPU that kernels are tested on: right kernels pass on it, wrong ones do not."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_support import find_compiler

HERE = Path(__file__).parents[1] / "emulation"
SCHEDULES = range(6)
THREADS = 128

# As in selftest.cpp.
Pipeline = IntEnum(
    "Pipeline", "RIGHT NEVER_WAITS WAITS_TOO_LITTLE NO_BARRIER REFILLED_TOO_EARLY", start=0
)
Fault = IntEnum(
    "Fault",
    "FINE SOME_EXIT LANES_APART WARPS_APART OTHER_LINE MASK PART_OF_WARP ABOVE BELOW MISALIGNED_TO "
    "MISALIGNED_FROM COPY_OUTSIDE LOAD_OUTSIDE",
    start=0,
)


class Refused(Exception):
    pass


class Selftest:
    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *args: Any) -> int:
        """Run a kernel; arrays go as pointers. Refused is what launch() throws."""
        message = ctypes.create_string_buffer(500)
        passed = [
            x.ctypes.data_as(ctypes.c_void_p) if isinstance(x, np.ndarray) else x for x in args
        ]
        code: int = self.library[f"selftest_{name}"](*passed, message, len(message))
        if code == -1:
            raise Refused(message.value.decode())
        return code

    def set_schedule(self, number: int) -> None:
        self.library.emulation_set_schedule(number)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Selftest:
    compiler = find_compiler(os.environ)
    if compiler is None:
        pytest.skip("no C++ compiler found (CXX, then c++, g++, clang++ on the PATH)")
    path = tmp_path_factory.mktemp("emulation") / "selftest.so"
    sources = [str(HERE / "emulation.cpp"), str(HERE / "selftest.cpp")]
    flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [*compiler.split(), *flags, *sources, "-o", str(path)]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return Selftest(path)


@pytest.fixture
def selftest(built: Selftest) -> Iterator[Selftest]:
    built.set_schedule(0)
    yield built
    built.set_schedule(0)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_right_kernel_gives_the_same_bits_in_any_order(selftest: Selftest, schedule: int) -> None:
    x, out, first = random(3, THREADS), np.empty(3, np.float32), np.empty(3, np.float32)
    assert selftest("sum", x, 3, first) == 0
    selftest.set_schedule(schedule)
    before = selftest.library.emulation_launches()
    assert selftest("sum", x, 3, out) == 0
    assert selftest.library.emulation_launches() == before + 1
    np.testing.assert_allclose(out, x.sum(1, dtype=np.float64), rtol=1e-5)
    np.testing.assert_array_equal(out, first)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("apart", [1, 64])
def test_a_missing_barrier_shows(selftest: Selftest, apart: int, schedule: int) -> None:
    def run(before_reading: bool, before_writing: bool) -> np.ndarray:
        out = np.empty((2, THREADS), np.float32)
        assert selftest("pass", apart, before_reading, before_writing, out) == 0
        return out

    selftest.set_schedule(schedule)
    right = [[0], [1000]] + (np.arange(THREADS) + apart) % THREADS
    np.testing.assert_array_equal(run(True, True), right)
    without = run(False, True)
    assert np.isnan(without[0]).any()  # nobody had written that
    assert (without != right).any()
    assert (run(True, False) != right).any()  # written over too early


def test_a_missing_barrier_depends_on_the_schedule(selftest: Selftest) -> None:
    seen = set()
    for schedule in SCHEDULES:
        selftest.set_schedule(schedule)
        out = np.empty((2, THREADS), np.float32)
        selftest("pass", 1, False, True, out)
        again = np.empty_like(out)
        selftest("pass", 1, False, True, again)
        assert out.tobytes() == again.tobytes()
        seen.add(out.tobytes())
    assert len(seen) == len(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_copies_arrive_when_they_are_waited_for(selftest: Selftest, schedule: int) -> None:
    steps = 5
    x, out = random(steps, THREADS, 4), np.empty(THREADS, np.float32)
    assert x.ctypes.data % 16 == 0
    right = np.zeros(THREADS, np.float32)
    for step in range(steps):
        right += np.roll(x[step, :, 0], -1)
    selftest.set_schedule(schedule)
    selftest("pipeline", Pipeline.RIGHT, x, steps, out)
    np.testing.assert_array_equal(out, right)
    for wrong in (Pipeline.NEVER_WAITS, Pipeline.WAITS_TOO_LITTLE):
        selftest("pipeline", wrong, x, steps, out)
        assert np.isnan(out).all()
    for wrong in (Pipeline.NO_BARRIER, Pipeline.REFILLED_TOO_EARLY):
        selftest("pipeline", wrong, x, steps, out)
        assert np.isnan(out).any()


@pytest.mark.parametrize("float16", [False, True])
def test_matrices_lie_as_the_hardware_has_them(selftest: Selftest, float16: bool) -> None:
    # Small integers: every sum is exact in any order.
    generator = np.random.default_rng(0)
    a, b, c = (
        generator.integers(-8, 9, s).astype(np.float32) for s in [(16, 16), (8, 16), (16, 8)]
    )
    as_bits = to_float16_bits if float16 else to_bfloat16_bits
    out = c.copy()
    selftest("product", float16, as_bits(a), as_bits(b), out)
    np.testing.assert_array_equal(out, c + a @ b.T)


def to_float16_bits(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).view(np.uint16)


def to_bfloat16_bits(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def test_lanes_get_what_they_ask_for(selftest: Selftest) -> None:
    x = np.random.default_rng(0).integers(0, 2**63, 64, dtype=np.uint64)
    out = np.empty((9, 64), np.uint64)
    selftest("lanes", x, out)
    thread = np.arange(64)
    lane, warp = thread % 32, thread // 32 * 32
    xor = lane ^ 9
    np.testing.assert_array_equal(out[0], x[warp + 5])
    np.testing.assert_array_equal(out[1], x[thread // 8 * 8 + (lane + 3) % 8])
    np.testing.assert_array_equal(out[2], x[np.where(lane % 16 >= 3, thread - 3, thread)])
    np.testing.assert_array_equal(out[3], x[np.where(lane % 16 < 13, thread + 3, thread)])
    np.testing.assert_array_equal(out[4], x[np.where(xor < lane, warp + xor, thread)])
    np.testing.assert_array_equal(out[5], x[warp + (lane ^ 31)] & np.uint64(0xFFFFFFFF))
    odd = (x & np.uint64(1)).reshape(2, 32) << np.arange(32, dtype=np.uint64)
    np.testing.assert_array_equal(out[6], odd.sum(1).repeat(32))
    np.testing.assert_array_equal(out[7], [0] * 32 + [1] * 32)
    np.testing.assert_array_equal(out[8], [1] * 32 + [0] * 32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_orders_threads_warps_and_blocks(selftest: Selftest, schedule: int) -> None:
    blocks, threads = 2 * 3 * 2, 72
    count, turns = np.array([0, 0, 99], np.int32), np.empty((blocks, threads), np.int32)
    selftest.set_schedule(schedule)
    selftest("order", 2, 3, 2, threads, count, turns)
    np.testing.assert_array_equal(count, [blocks * threads, threads - 1, 3])
    np.testing.assert_array_equal(np.sort(turns, None), np.arange(blocks * threads))
    order = np.argsort(turns, None)
    if schedule == 0:
        np.testing.assert_array_equal(order, np.arange(blocks * threads))
    elif schedule == 1:
        np.testing.assert_array_equal(order, np.arange(blocks * threads)[::-1])
    else:
        first = turns // threads  # when the block of each thread ran
        assert (first == first[:, :1]).all()
        assert (first[:, 0] != np.arange(blocks)).any()
        assert len({tuple(np.argsort(row)) for row in turns}) == blocks


AT_THE_BARRIER = r"wait at __syncthreads \(\S*selftest.cpp:\d+\)"
OF_SHARED = "of 100 bytes of shared memory"


@pytest.mark.parametrize(
    ("fault", "threads", "said"),
    [
        (Fault.SOME_EXIT, 96, rf"warp [01]: lanes .*have exited; lanes .* {AT_THE_BARRIER}"),
        (
            Fault.LANES_APART,
            96,
            rf"warp 1: lanes 16-31 wait at __shfl_sync .*; lanes 0-15 {AT_THE_BARRIER}",
        ),
        (Fault.WARPS_APART, 160, rf"warps 2 have exited; warps 0-1, 3-4 {AT_THE_BARRIER}"),
        (Fault.OTHER_LINE, 96, rf"warps .* {AT_THE_BARRIER}; warps .* {AT_THE_BARRIER}"),
        (Fault.MASK, 32, r"thread \d+: __shfl_sync \(.*\): lanes are left out of the mask"),
        (Fault.PART_OF_WARP, 40, r"warp 1: __ballot_sync \(.*\) has only 8 lanes"),
        (Fault.ABOVE, 32, f"byte 100 {OF_SHARED} was written"),
        (Fault.BELOW, 32, f"byte -1 {OF_SHARED} was written"),
        (Fault.MISALIGNED_TO, 32, r"thread \d+: copy_async \(.*\): \S+ is not aligned to 16 bytes"),
        (
            Fault.MISALIGNED_FROM,
            32,
            r"thread \d+: copy_async \(.*\): \S+ is not aligned to 16 bytes",
        ),
        (Fault.COPY_OUTSIDE, 32, rf"thread \d+: copy_async \(.*\): 16 bytes at 96 {OF_SHARED}"),
        (Fault.LOAD_OUTSIDE, 32, rf"thread \d+: load_matrices \(.*\): 16 bytes at \d+ {OF_SHARED}"),
    ],
)
@pytest.mark.parametrize("schedule", [0, 1, 2])
def test_a_fault_is_named_and_the_next_launch_is_well(
    selftest: Selftest, schedule: int, fault: Fault, threads: int, said: str
) -> None:
    selftest.set_schedule(schedule)
    x = np.zeros(8, np.float32)
    for _ in range(2):
        with pytest.raises(Refused, match=rf"^block \([01], 0, 0\)(: |, ){said}"):
            selftest("fault", fault, threads, x)
        assert selftest("fault", Fault.FINE, threads, x) == 0


@pytest.mark.parametrize(
    ("x", "y", "z", "threads", "shared", "code"),
    [
        (1, 1, 1, 1024, 227 << 10, 0),
        (1, 1, 1, 1025, 0, 1),
        (1, 1, 1, 0, 0, 1),
        (1, 1, 1, 32, (227 << 10) + 1, 1),
        (0, 1, 1, 32, 0, 1),
        (1, 0, 1, 32, 0, 1),
        (1, 1, 0, 32, 0, 1),
        (1 << 31, 1, 1, 32, 0, 1),
        (1, 65535, 1, 1, 0, 0),
        (1, 65536, 1, 1, 0, 1),
        (1, 1, 65536, 1, 0, 1),
    ],
)
def test_launches_keep_to_the_limits(
    selftest: Selftest, x: int, y: int, z: int, threads: int, shared: int, code: int
) -> None:
    assert selftest("limits", x, y, z, threads, ctypes.c_int64(shared)) == code


def test_float16_is_rounded_as_ieee_does(selftest: Selftest) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    numbers = np.empty(every.shape, np.float32)
    selftest.library.selftest_from_float16(
        every.ctypes.data_as(ctypes.c_void_p), every.size, numbers.ctypes.data_as(ctypes.c_void_p)
    )
    np.testing.assert_array_equal(numbers, every.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(numbers[numbers == 0]), [False, True])

    # Each number, the middle between it and the next, and both neighbours of either; and any bits.
    finite = np.sort(numbers[np.isfinite(numbers)])
    exact = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2, [np.float32(65520)]])
    around = [np.nextafter(exact, side, dtype=np.float32) for side in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    x = np.concatenate([exact, *around, bits.view(np.float32)]).astype(np.float32)
    out = np.empty(x.shape, np.uint16)
    selftest.library.selftest_to_float16(
        x.ctypes.data_as(ctypes.c_void_p), x.size, out.ctypes.data_as(ctypes.c_void_p)
    )
    with np.errstate(over="ignore"):
        right = np.where(np.isnan(x), np.uint16(0x7FFF), to_float16_bits(x))
    np.testing.assert_array_equal(out, right)


def test_arithmetic_is_that_of_the_hardware(selftest: Selftest) -> None:
    fma, max_nan = selftest.library.selftest_fma, selftest.library.selftest_max_nan
    for function in (fma, max_nan):
        function.restype = ctypes.c_float
    fma.argtypes, max_nan.argtypes = [ctypes.c_float] * 3, [ctypes.c_float] * 2
    # The product is between two numbers of float32; in double the third would be lost.
    assert fma(24929, 673, 2**-80) == 2**24 + 2
    assert fma(24929, 673, -(2**-80)) == 2**24
    x = 1 + 2**-23
    assert fma(x, x, -1 - 2**-22) == 2**-46
    assert np.isnan(max_nan(np.nan, 1)) and np.isnan(max_nan(1, np.nan))
    assert max_nan(-1, 2) == max_nan(2, -1) == 2
    assert not np.signbit(max_nan(-0.0, 0.0)) and not np.signbit(max_nan(0.0, -0.0))
