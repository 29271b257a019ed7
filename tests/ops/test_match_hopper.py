"""Wide rows on Hopper, on the emulated GPU: the kernel, and that wrong ones would be noticed."""

from __future__ import annotations

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from build_support import find_compiler

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "emulation"
SOURCES = [ROOT / "csrc" / "cuda" / "match_hopper.cu"]
SOURCES += [HERE / f"{name}.cpp" for name in ("hopper_emulation", "hopper_library", "emulation")]
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-DEMERGENCE_EMULATED", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas", f"-I{ROOT / 'csrc' / 'cuda'}", f"-I{HERE}", "-x", "c++"]

# As in hopper_library.cpp.
Fault = IntEnum(
    "Fault",
    "RIGHT OTHER_STRIDE OTHER_CHANNELS RELEASED_TOO_EARLY READ_TOO_EARLY OTHER_SWIZZLE "
    "NEVER_WAITS NOT_ALIGNED REFILLED_TOO_EARLY NOT_BEGUN NOT_COMMITTED NOT_ENDED NO_FENCE "
    "TOO_FEW_BYTES TOO_MANY_BYTES TOO_MANY_ARRIVALS TOO_FEW_ARRIVALS BARRIER_WRITTEN_OVER "
    "PART_OF_GROUP WARPS_APART NO_REGISTERS",
    start=0,
)


class Refused(Exception):
    pass


@dataclass
class Rows:
    """Rows in 16 bits an entry, and what those hold."""

    bits: np.ndarray
    numbers: np.ndarray
    float16: bool = False

    @classmethod
    def of(cls, x: np.ndarray, float16: bool = False) -> Rows:
        if float16:
            half = x.astype(np.float16)
            return cls(aligned(half.view(np.uint16)), half.astype(np.float64), True)
        bits = aligned((x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
        return cls(bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64))


def aligned(x: np.ndarray) -> np.ndarray:
    """Copy `x` to where 16 divides the address, and no more than that."""
    room = np.empty(x.nbytes + 32, np.uint8)
    start = -room.ctypes.data % 32 + 16 - (32 if -room.ctypes.data % 32 >= 16 else 0)
    out = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


class Hopper:
    untouched = 99  # in every byte that a kernel may not write

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def schedule(self, number: int) -> None:
        self.library.emulation_set_schedule(number)

    def match(
        self,
        q: Rows,
        d: Rows,
        *,
        index: type | None = np.int32,
        shared: int = 227 << 10,
        multiprocessors: int = 2,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Match rows [rows, planes, width] with d [B, S, planes, width]: products and places."""
        (rows, planes, width), (B, S) = q.bits.shape, d.bits.shape[:2]
        count, size = B * rows, np.dtype(index or np.uint8).itemsize
        # With room behind that nothing may touch.
        value = np.full((count + rows) * 4, self.untouched, np.uint8)
        place = np.full((count + rows) * size, self.untouched, np.uint8)
        self._call(
            "match", q.bits, d.bits, *(ctypes.c_int64(x) for x in (rows, B, S, width)), planes,
            q.float16, value, place if index else None, size, multiprocessors,
            ctypes.c_int64(shared),
        )  # fmt: skip
        used = count * size if index else 0
        assert (value[count * 4 :] == self.untouched).all()
        assert (place[used:] == self.untouched).all()
        places = place[:used].view(index or np.uint8).reshape(-1, rows)
        return value[: count * 4].view(np.float32).reshape(B, rows), places

    def product(self, fault: Fault, a: Rows, b: Rows, steps: int) -> np.ndarray:
        """The sums of a kernel that is wrong in this way."""
        out = np.full((len(a.bits), len(b.bits)), 1000, np.float32)
        self._call("product", int(fault), a.bits, b.bits, steps, out)
        return out

    def _call(self, name: str, *args: object) -> None:
        message = ctypes.create_string_buffer(1000)
        passed = [ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else x for x in args]
        code = self.library[f"hopper_{name}"](*passed, message, len(message))
        if code == -1:
            raise Refused(message.value.decode())
        assert code == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Hopper:
    compiler = find_compiler(os.environ)
    if compiler is None:
        pytest.skip("no C++ compiler found (CXX, then c++, g++, clang++ on the PATH)")
    folder = tmp_path_factory.mktemp("hopper")

    def run(*arguments: str) -> None:
        done = subprocess.run([*compiler.split(), *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    objects = [str(folder / f"{path.name}.o") for path in SOURCES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda x, o: run(*FLAGS, "-c", str(x), "-o", o), SOURCES, objects):
            pass
    run("-shared", *objects, "-o", str(folder / "hopper.so"))
    return Hopper(folder / "hopper.so")


@pytest.fixture
def hopper(built: Hopper) -> Hopper:
    built.schedule(2)
    return built


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check(hopper: Hopper, q: Rows, d: Rows, **options: int) -> None:
    """Products are within the rounding of float32 sums, and so are the matches' of the best."""
    value, place = hopper.match(q, d, **options)

    def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pairs = [(0, 0), (0, 1), (1, 0)] if x.shape[1] == 2 else [(0, 0)]
        return sum(np.einsum("rc,isc->irs", x[:, a], y[:, :, b]) for a, b in pairs)

    exact = products(q.numbers, d.numbers)
    terms = q.bits.shape[2] * (3 if q.bits.shape[1] == 2 else 1)
    error = (terms + 1) * 2.0**-24 * products(abs(q.numbers), abs(d.numbers))
    chosen = place[..., None].astype(np.int64)
    assert (chosen < exact.shape[2]).all()

    def at(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, chosen, 2)[..., 0]

    assert (abs(value - at(exact)) <= at(error)).all()
    assert (at(exact) + at(error) >= (exact - error).max(2)).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("S", [1, 7, 49, 56, 57, 104, 128, 196, 200, 201, 257, 401])
@pytest.mark.parametrize("rows", [1, 63, 64, 128, 129, 300])
def test_all_sizes_of_tiles(hopper: Hopper, rows: int, S: int) -> None:
    hopper.schedule(rows % 7 + S % 5)
    B = 1 + (rows + S) % 5
    check(hopper, Rows.of(draw(rows, 1, 64)), Rows.of(draw(B, S, 1, 64, seed=1)))


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("width", [16, 48, 80, 256, 512, 528])  # 528 channels do not stay
def test_all_widths(hopper: Hopper, width: int, planes: int, float16: bool) -> None:
    for rows, B, S in [(65, 2, 50), (130, 1, 196)]:
        hopper.schedule(rows % 4)
        q = Rows.of(draw(rows, planes, width), float16)
        check(hopper, q, Rows.of(draw(B, S, planes, width, seed=1), float16))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("schedule", range(8))
@pytest.mark.parametrize(("planes", "width"), [(1, 320), (2, 192)])
def test_any_order_gives_the_same_bits(
    hopper: Hopper, planes: int, width: int, schedule: int
) -> None:
    q, d = Rows.of(draw(200, planes, width)), Rows.of(draw(3, 196, planes, width, seed=1))
    first = hopper.match(q, d)
    hopper.schedule(schedule)
    again = hopper.match(q, d, multiprocessors=1 + schedule % 3)
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)


# KiB of shared memory that two stages of the ring take, with rows of q in them, by planes.
LEAST = {1: 99, 2: 194}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("much", [True, False])
@pytest.mark.parametrize("S", [49, 100, 128, 196, 257])
def test_a_block_meets_many_images(hopper: Hopper, S: int, much: bool) -> None:
    for planes, least in LEAST.items():
        kib = 227 if much else least
        q, d = Rows.of(draw(260, planes, 80)), Rows.of(draw(13, S, planes, 80, seed=1))
        check(hopper, q, d, multiprocessors=1, shared=kib << 10)


@pytest.mark.parametrize("more", [0, 12, 30])
def test_what_does_not_stay_comes_again(hopper: Hopper, more: int) -> None:
    for planes, S in [(1, 200), (2, 128)]:
        kib = LEAST[planes] + more
        q, d = Rows.of(draw(130, planes, 192)), Rows.of(draw(3, S, planes, 192, seed=1))
        check(hopper, q, d, shared=kib << 10)


@pytest.mark.parametrize("S", [1, 49, 104, 128, 196, 257])
def test_the_first_of_equal_candidates_wins(hopper: Hopper, S: int) -> None:
    generator = np.random.default_rng(0)
    few = generator.integers(-4, 5, (7, 1, 32)).astype(np.float32)
    q = Rows.of(generator.integers(-4, 5, (70, 1, 32)).astype(np.float32))
    d = Rows.of(few[generator.integers(0, len(few), (3, S))])
    exact = np.einsum("rc,isc->irs", q.numbers[:, 0], d.numbers[:, :, 0])
    value, place = hopper.match(q, d)
    np.testing.assert_array_equal(value, exact.max(2))
    np.testing.assert_array_equal(place, exact.argmax(2))


@pytest.mark.parametrize("S", [1, 3, 49, 50, 55, 100, 105, 127, 193, 196, 199, 258])
def test_candidates_that_are_not_there_never_win(hopper: Hopper, S: int) -> None:
    generator = np.random.default_rng(0)
    q = Rows.of(generator.integers(1, 4, (66, 1, 16)).astype(np.float32))
    d = Rows.of(generator.integers(-90, -1, (5, S, 1, 16)).astype(np.float32))
    exact = np.einsum("rc,isc->irs", q.numbers[:, 0], d.numbers[:, :, 0])
    value, place = hopper.match(q, d)
    np.testing.assert_array_equal(value, exact.max(2))
    np.testing.assert_array_equal(place, exact.argmax(2))


@pytest.mark.parametrize("S", [5, 49, 196, 257])
def test_nan_and_infinity_are_found(hopper: Hopper, S: int) -> None:
    generator = np.random.default_rng(0)
    q, d = draw(70, 1, 32), draw(4, S, 1, 32, seed=1)
    q[3], q[40, 0, 7], q[41, 0, 7] = np.nan, np.inf, -np.inf
    d[1, generator.integers(0, S, 3)] = np.nan
    d[2, generator.integers(0, S, 2), 0, 5] = np.inf
    d[3, :, 0, 7] = 1  # times infinity: no candidate is left, or all are best
    Q, D = Rows.of(q), Rows.of(d)
    with np.errstate(invalid="ignore"):
        exact = np.einsum("rc,isc->irs", Q.numbers[:, 0], D.numbers[:, :, 0])
    nan, infinite = np.isnan(exact), np.isinf(exact)
    value, place = hopper.match(Q, D)
    right = np.where(nan.any(2), nan.argmax(2), np.where(nan, -np.inf, exact).argmax(2))
    np.testing.assert_array_equal(np.isnan(value), nan.any(2))
    certain = (nan | infinite).any(2)
    assert certain.sum() > 100
    np.testing.assert_array_equal(place[certain], right[certain])
    best = np.take_along_axis(exact, right[..., None], 2)[..., 0]
    np.testing.assert_allclose(value, best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("index", [None, np.uint8, np.int32, np.int64])
def test_matches_come_in_the_type_that_was_asked_for(hopper: Hopper, index: type | None) -> None:
    q, d = Rows.of(draw(67, 1, 48)), Rows.of(draw(3, 101, 1, 48, seed=1))
    value, place = hopper.match(q, d)
    again, compact = hopper.match(q, d, index=index)
    np.testing.assert_array_equal(value, again)
    np.testing.assert_array_equal(compact, place if index else np.empty((0, 67)))


# Of the emulation.


def factors(steps: int) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(0)
    shapes = [(64, 64 * steps), (200, 64 * steps)]
    a, b = (Rows.of(generator.integers(-8, 9, x).astype(np.float32)) for x in shapes)
    return a, b


@pytest.mark.parametrize("schedule", range(4))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_products_are_what_the_hardware_makes(hopper: Hopper, steps: int, schedule: int) -> None:
    hopper.schedule(schedule)
    a, b = factors(steps)
    np.testing.assert_array_equal(hopper.product(Fault.RIGHT, a, b, steps), a.numbers @ b.numbers.T)


@pytest.mark.parametrize(
    ("fault", "schedule", "steps"),
    [
        (Fault.OTHER_STRIDE, 2, 2),
        (Fault.OTHER_CHANNELS, 2, 2),
        (Fault.RELEASED_TOO_EARLY, 0, 5),
        (Fault.RELEASED_TOO_EARLY, 1, 5),
        (Fault.READ_TOO_EARLY, 0, 1),
        (Fault.READ_TOO_EARLY, 1, 1),
    ],
)
def test_wrong_kernels_give_wrong_numbers(
    hopper: Hopper, fault: Fault, schedule: int, steps: int
) -> None:
    hopper.schedule(schedule)
    a, b = factors(steps)
    assert (hopper.product(fault, a, b, steps) != a.numbers @ b.numbers.T).any()


STUCK = "where none can go on: "


@pytest.mark.parametrize("schedule", range(3))
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.OTHER_SWIZZLE, "multiply .*: only 128-byte swizzling is emulated"),
        (Fault.NEVER_WAITS, "barrier_expect .*: (there are more arrivals|nobody has waited)"),
        (Fault.NOT_ALIGNED, r"load_box .*: address \d+ is not aligned to 1024 bytes"),
        (Fault.REFILLED_TOO_EARLY, "barrier_expect .*: there are more arrivals"),
        (Fault.NOT_BEGUN, r"multiply .*: begin_products\(\) is missing"),
        (Fault.NOT_COMMITTED, r"end_products .*: commit_products\(\) is missing"),
        (Fault.NOT_ENDED, "products were not waited for"),
        (Fault.NO_FENCE, "load_box .*: there was no fence after its barrier was made"),
        (Fault.TOO_FEW_BYTES, f"{STUCK}.*barrier_wait"),
        (Fault.TOO_MANY_BYTES, f"{STUCK}.*barrier_wait"),
        (Fault.TOO_MANY_ARRIVALS, "barrier_arrive .*: nobody has waited for the phase before"),
        (Fault.TOO_FEW_ARRIVALS, f"{STUCK}.*barrier_wait"),
        (Fault.BARRIER_WRITTEN_OVER, r"barrier_\w+ .*: there is no barrier at \d+"),
        (Fault.PART_OF_GROUP, f"{STUCK}.*threads 0-95 wait at end_products"),
        (Fault.WARPS_APART, "multiply .*: warps of the group bring different arguments"),
        (Fault.NO_REGISTERS, f"{STUCK}.*threads 0-127 wait at take_registers"),
    ],
)
def test_wrong_kernels_are_refused(hopper: Hopper, fault: Fault, said: str, schedule: int) -> None:
    hopper.schedule(schedule)
    a, b = factors(5)
    with pytest.raises(Refused, match=said):
        hopper.product(fault, a, b, 5)
    np.testing.assert_array_equal(hopper.product(Fault.RIGHT, a, b, 5), a.numbers @ b.numbers.T)


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"address": 8}, False),
        ({"strides": [128, 128 + 8, 4096]}, False),
        ({"strides": [128, 1 << 40, 4096]}, False),
        ({"sizes": [64, 1, 0, 1]}, False),
        ({"box": [64, 1, 257, 1]}, False),
        ({"box": [128, 1, 8, 1]}, False),
        ({"box": [64, 1, 256, 2]}, True),
    ],
)
def test_maps_are_refused_as_the_driver_does(
    hopper: Hopper, changed: dict[str, object], right: bool
) -> None:
    given = {"address": 0, "sizes": [64, 1, 7, 3], "strides": [128, 128, 896], "box": [64, 1, 8, 1]}
    given |= changed
    arrays = [np.array(given[x], np.uint64) for x in ("sizes", "strides")]
    arrays.append(np.array(given["box"], np.uint32))
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in arrays]
    assert bool(hopper.library.hopper_map(ctypes.c_uint64(given["address"]), *pointers)) == right
