"""The CUDA ops built for the host, on an emulated GPU: namespace `emergence_emulated`."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch

from emergence_ext.ops.registration import register

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-fPIC", "-DEMERGENCE_EMULATED", "-O2", "-ffp-contract=off", "-Wall"]
FLAGS += [
    "-Werror",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",
    *(["-mfma"] if os.uname().machine == "x86_64" else []),
]
# Torch's own headers, found second, are not held to our warnings.
INCLUDED = [f"-I{ROOT / folder}" for folder in ("csrc", "csrc/cuda", "tests/emulation")]


WAYS = ("narrow", "wide", "planes", "split", "hopper")  # in the order of csrc/cuda/paths.h


class EmulatedGPU:
    """The loaded library, and what a test can set of the device."""

    namespace = "emergence_emulated"

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))
        register(self.namespace)
        self.ops = torch.ops.emergence_emulated
        self.library = ctypes.CDLL(str(path))
        self.set_device()
        self.allow(*WAYS)

    def set_schedule(self, number: int) -> None:
        """0: threads run in ascending order, 1: descending, others: shuffled."""
        self.library.emulation_set_schedule(number)

    def set_device(
        self, multiprocessors: int = 2, shared: int = 227 << 10, allocation: int = 2**62
    ) -> None:
        """Multiprocessors; bytes of shared memory of a block of threads; bytes of an allocation."""
        self.library.emulation_set_device(
            *map(ctypes.c_int64, (multiprocessors, shared, allocation))
        )

    def allow(self, *ways: str) -> None:
        """What has proved itself there, and nothing else."""
        self.library.emulation_allow_ways(sum(1 << WAYS.index(way) for way in ways))

    @property
    def launches(self) -> int:
        """Kernels so far."""
        self.library.emulation_launches.restype = ctypes.c_int64
        return int(self.library.emulation_launches())


@cache
def load(compiler: str) -> EmulatedGPU:
    """Build the library, unless it is there as the sources are now, and load it."""
    sources = [*_sources()]
    digest = hashlib.sha256(" ".join([compiler, *FLAGS, torch.__version__]).encode())
    for path in sorted([*sources, *ROOT.glob("csrc/**/*.h"), *ROOT.glob("tests/emulation/*.h")]):
        digest.update(path.read_bytes())
    folder = ROOT / "build" / "emulated" / digest.hexdigest()[:16]
    library = folder / "emulated.so"
    with _alone(ROOT / "build" / "emulated.lock"):
        if not library.exists():
            _build(compiler, sources, folder, library)
    return EmulatedGPU(library)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Of several processes that test, one builds and the others wait."""
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which ends with the process, however that ends
        yield


def _build(compiler: str, sources: list[Path], folder: Path, library: Path) -> None:
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [*pool.map(partial(_compile, compiler, folder), sources)]
    built, libraries = library.with_suffix(".part"), Path(torch.__file__).parent / "lib"
    linked = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu"]
    _run([*compiler.split(), "-shared", "-o", str(built), *objects, *linked])
    built.rename(library)


def _sources() -> Iterator[Path]:
    yield ROOT / "csrc/cuda/bindings.cpp"  # which takes longest, so first
    yield ROOT / "csrc/errors.cpp"
    yield from (
        ROOT / "tests/emulation" / name
        for name in ("library.cpp", "emulation.cpp", "hopper_emulation.cpp", "arithmetic.cpp")
    )
    yield from sorted(ROOT.glob("csrc/cuda/*.cu"))


def _compile(compiler: str, folder: Path, source: Path) -> str:
    out = str(folder / f"{source.name}.o")
    headers = Path(torch.__file__).parent / "include"
    outside = [headers, sysconfig.get_path("include")] if source.suffix == ".cpp" else []
    system = [x for path in outside for x in ("-isystem", str(path))]
    what = ["-x", "c++", "-c", str(source), "-o", out]
    _run([*compiler.split(), *FLAGS, *INCLUDED, *system, *what])
    return out


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
