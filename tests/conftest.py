"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

from build_support import find_compiler
from emergence_ext.network import forward_pass
from emergence_ext.ops import backend
from emergence_ext.ops import fused as ops
from emergence_ext.ops import library as _library
from tests import emulated
from tests.emulated import EmulatedGPU

CUDA = "emulated CUDA"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases", type=int, default=None, help="random cases of each kind in tests that draw them"
    )


@pytest.fixture(scope="session")
def cases(pytestconfig: pytest.Config) -> int:
    """How many random cases a test draws: few, or what `--cases` says."""
    return pytestconfig.getoption("--cases") or 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _leave_the_rest_to_slow_runs(items)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


# A test of so many cases runs each on one backend, and on all where slow tests run.
MANY = 6


def _leave_the_rest_to_slow_runs(items: list[pytest.Item]) -> None:
    """Of a test of many cases, mark as slow all but a sample that never changes.

    Backends share the cases of a test: each case runs on one of them. Where a case is heavy, the
    marker `one_in(n)` keeps one case of n.
    """
    tests = defaultdict(lambda: defaultdict(list))
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            names = (item.callspec.params.get(name) for name in ("each_backend", "level"))
            backend = next((name for name in names if name in BACKENDS), "")
            function, _, case = item.nodeid.partition("[")
            tests[function][case.replace(backend, "")].append(item)
    for cases in tests.values():
        by_chance = sorted(cases, key=lambda case: zlib.crc32(case.encode()))
        marker = cases[by_chance[0]][0].get_closest_marker("one_in")
        kept = by_chance[: -(-len(by_chance) // marker.args[0])] if marker else by_chance
        for case, on_backends in cases.items():
            drawn = zlib.crc32(case.encode()) % len(on_backends)
            for index, item in enumerate(on_backends):
                if case not in kept or (len(cases) >= MANY and index != drawn):
                    item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """The command line sets how much is logged, for the length of a process."""
    logger = logging.getLogger("emergence_ext")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real images and weights: $EMERGENCE_DATA, else shared/data beside the checkout."""
    named = os.environ.get("EMERGENCE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set EMERGENCE_DATA")
    return folder


@pytest.fixture(scope="session")
def truth_dir() -> Path:
    """The published values that are committed with the tests."""
    return Path(__file__).with_name("truth")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this machine for one that multiplies bfloat16; others are slow, and no less right."""
    monkeypatch.setattr(forward_pass, "_multiplies", lambda device: True)


@pytest.fixture(scope="session")
def library() -> None:
    """For tests of the compiled ops: skips without the library, fails where it is required."""
    reason = _library.why_not("cpu")
    if reason is None:
        # `make sanitize` must not pass by testing the usual library.
        if os.environ.get("EMERGENCE_SANITIZE") == "1":
            assert any(flag.startswith("-fsanitize=") for flag in _library.build_info()["flags"])
        return
    if "cpu" in os.environ.get("EMERGENCE_REQUIRE", ""):
        pytest.fail(f"EMERGENCE_REQUIRE asks for the library: {reason}")
    pytest.skip(f"the library is not there: {reason}")


@pytest.fixture
def emulated_gpu(library: None, monkeypatch: pytest.MonkeyPatch) -> EmulatedGPU:
    """An emulated GPU that runs the ops; skips without a compiler, and under sanitizers."""
    compiler = find_compiler(os.environ)
    if compiler is None:
        pytest.skip("no C++ compiler found (CXX, then c++, g++, clang++ on the PATH)")
    if os.environ.get("EMERGENCE_SANITIZE") == "1":
        pytest.skip("the fibers of the emulated GPU are none of the sanitizers' threads")
    gpu = emulated.load(compiler)
    gpu.set_schedule(2)
    gpu.set_device()
    gpu.allow(*emulated.WAYS)
    monkeypatch.setattr(ops, "_compiled", gpu.ops)
    return gpu


LEVELS = _library.build_info().get("instruction_sets", ["generic"])
BACKENDS = [*LEVELS, CUDA]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, library: None) -> Iterator[str]:
    """Runs a test at every instruction set that the library has for this machine."""
    yield from _at(request.param)


@pytest.fixture(params=BACKENDS)
def each_backend(request: pytest.FixtureRequest, library: None) -> Iterator[str]:
    """Runs a test at every instruction set, and with the CUDA ops on an emulated GPU."""
    if request.param == CUDA:
        request.getfixturevalue("emulated_gpu")
        yield CUDA
    else:
        yield from _at(request.param)


def _at(name: str) -> Iterator[str]:
    before = _library.build_info()["instruction_set"]
    _library.use_instruction_set(name)
    yield name
    _library.use_instruction_set(before)


@pytest.fixture
def gpu(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests on a GPU: skips without the CUDA backend, fails where that is required."""
    reason = _library.why_not("cuda")
    if reason is not None and "cuda" in os.environ.get("EMERGENCE_REQUIRE", ""):
        pytest.fail(f"EMERGENCE_REQUIRE asks for CUDA: {reason}")
    if reason is not None:
        pytest.skip(f"the CUDA backend is not there: {reason}")
    monkeypatch.setenv("EMERGENCE_CUDA", "all")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[str]]:
    """A library with a CUDA backend, and what it was told that each device may take."""
    told: dict[int, list[str]] = {}
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": None)
    monkeypatch.setattr(_library, "allow_cuda_ways", told.__setitem__)
    monkeypatch.setattr(backend, "_warned", set())
    for variable in ("EMERGENCE_CUDA", "EMERGENCE_CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return told


def _cuda_paths() -> list[str]:
    named = os.environ.get("EMERGENCE_CUDA_PATH", "auto")
    built = ["portable", "split", "hopper"] if _library.why_not("cuda") is None else []
    return built if named == "auto" else [named]


@pytest.fixture(params=_cuda_paths())
def cuda_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test on every path of the CUDA ops, or on the one that `EMERGENCE_CUDA_PATH` names.

    What one cannot do, the portable one does.
    """
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", request.param)
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test change torch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three categories of 16 images `16 x 16`, each with a patch in a channel of its own."""
    # Here and not above: the tests of the ops share this file and need only torch and numpy.
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for number in range(16):
            pixels = 90 + 60 * torch.rand(16, 16, 3, generator=generator)
            top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
            pixels[top : top + 7, left : left + 7, channel] += 50 + 50 * (number % 4) / 3
            Image.fromarray(pixels.byte().numpy()).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def training(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of `tiny_networks.three`, trained on `image_folder`: epochs 0, 2 and 12."""
    from emergence_ext.data.folders import ImageFolder
    from emergence_ext.training.loop import train
    from emergence_ext.training.recipes import Recipe
    from tests import tiny_networks

    folder = tmp_path_factory.mktemp("training")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = tiny_networks.three()
    images = ImageFolder(image_folder, size=16)
    recipe = Recipe(epochs=12, batch_size=12, lr=0.02, weight_decay=0)
    log = train(module, images, images, recipe, out=folder, checkpoints=[0, 2, 12])
    assert log.val_accuracy[-1] > 0.9
    return folder


@pytest.fixture(scope="session")
def finished_run(
    image_folder: Path, training: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `emergence run` leaves of three checkpoints and two layers; copy it to write into it."""
    from emergence_ext.run import Settings, SubjectSpec, run, strength

    spec = SubjectSpec(
        data=str(image_folder),
        model="tests.tiny_networks:three",
        checkpoints=str(training / "epoch_*.safetensors"),
        size=16,
    )
    settings = Settings(region_images=24, importance_evals=8, regional_evals=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strength, "TEMPERATURES", (1.0,))
        return run(spec.load(), tmp_path_factory.mktemp("finished") / "run", settings).folder
