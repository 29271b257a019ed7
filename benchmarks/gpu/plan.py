"""What is run in a check on a GPU, in which order, and how long each phase is planned to take.

Part a builds, tests each way, watches it with the tools of compute-sanitizer and profiles it; part
b times the ops on each way and their peers. Whatever runs the kernels made for one generation of
devices, `hopper`, comes last in both: they wait for one another inside of a launch, and could leave
a device that no other phase can use.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks import results
from benchmarks.bounds import NARROW
from benchmarks.gpu import paths, profiler, pytest_log, sanitizers, tools
from benchmarks.gpu.cases import BENCHES
from benchmarks.gpu.phase import PASSED, Ended, Phase, Step, Verdict
from benchmarks.results import ROOT

PARTS: Final = ("a", "b")
TESTS: Final = ("tests/ops/test_ops_gpu.py", "tests/ops/test_ops_gpu_device.py")
BUILD: Final = "build"
STAMP: Final = ROOT / "build" / "gpu-check.built"
"""Of which sources, device and torch the build is that is there."""

SOURCES: Final = ("csrc/**/*.*", "setup.py", "build_support.py")
EARLY: Final = tuple(way for way in paths.WAYS if way != paths.HOPPER)
MOST_PROCESSES: Final = 8
"""That share the device while tests run."""

LONGEST_TEST: Final = 60
LAST_PEER: Final = 5
"""Seconds before the end after which none is begun; one that compiles longer is lost, alone."""


@dataclass(frozen=True)
class Place:
    """Where a check takes place.

    Attributes:
        gpu: as `device.describe` gives it.
        folder: for logs and whatever phases leave.
        programs: where each of `tools` is, None where it is not.
        wheels: folder of wheels of peers that are not installed here.
    """

    gpu: Mapping[str, Any]
    folder: Path
    programs: Mapping[str, str | None]
    wheels: Path | None = None

    @property
    def architecture(self) -> str:
        """The one architecture that is built for."""
        major, minor = self.gpu["capability"]
        return f"{major}.{minor}" + ("a" if major == 9 else "")

    @property
    def packages(self) -> Path:
        """Where the wheels are installed."""
        return self.folder.parent / "wheels"

    @property
    def env(self) -> dict[str, str]:
        """What every phase is given: every way is allowed, proven or not, and none is left out."""
        given = {
            "EMERGENCE_CUDA": "all",
            "EMERGENCE_REQUIRE": "cpu,cuda",
            "PYTHONUNBUFFERED": "1",
            paths.VARIABLE: paths.AUTO,
        }
        if self.wheels is not None:
            known = os.environ.get("PYTHONPATH")
            given["PYTHONPATH"] = os.pathsep.join([str(self.packages), *([known] if known else [])])
        return given

    def why_not(self, way: str) -> str | None:
        """Say why a way cannot be taken here."""
        return paths.why_not(way, self.gpu["capability"])


def steps(part: str, place: Place) -> list[Step]:
    """List the phases of a part of the check."""
    return list(_wheels(place)) + list(_part_a(place) if part == "a" else _part_b(place))


def _part_a(place: Place) -> Iterator[Step]:
    yield from _build(place)
    yield from ([tests(place, way)] for way in EARLY)
    yield [phase for way in EARLY for phase in sanitizing(place, way)]
    yield from ([profile(place, way)] for way in EARLY)
    yield [tests(place, paths.HOPPER)]
    yield sanitizing(place, paths.HOPPER)
    yield [profile(place, paths.HOPPER)]


def _part_b(place: Place) -> Iterator[Step]:
    if not is_built(place):
        yield from _build(place)
    narrow = [bench.name for bench in BENCHES if bench.D <= NARROW]
    wide = [bench.name for bench in BENCHES if bench.D > NARROW]
    own = ["--ways", paths.AUTO, paths.PORTABLE, "--measure"]
    start = ["peak", "ops", "growth", "memory"]
    yield [benchmark(place, "portable narrow", 45, narrow, [*own, *start])]
    yield [benchmark(place, "portable wide", 40, wide, [*own, "ops", "memory"])]
    for way in (paths.SPLIT, paths.TRITON):
        yield [benchmark(place, way, 18, narrow, ["--ways", way, "--measure", "ops"], way)]
    yield [peers(place, "peers narrow", 50, narrow)]
    yield [peers(place, "peers wide", 50, wide)]
    way = paths.HOPPER
    yield [benchmark(place, way, 24, wide, ["--ways", way, "--measure", "ops"], way)]


# The phases


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _fixed(command: Sequence[str]) -> Callable[[float], Sequence[str]]:
    return lambda seconds: command


def _wheels(place: Place) -> Iterator[Step]:
    if place.wheels is not None:
        options = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        wheels = map(str, sorted(place.wheels.glob("*.whl")))
        command = _module("pip", *options, "--target", str(place.packages), *wheels)
        yield [Phase("wheels", _fixed(command), 8)]


def _build(place: Place) -> Iterator[Step]:
    """Build in place; meanwhile compile what the peers will run, which stays in caches on disk."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    env = {"TORCH_CUDA_ARCH_LIST": place.architecture, "MAX_JOBS": str(os.cpu_count())}
    warm_up = _fixed(_module("benchmarks.gpu.warm_up"))
    yield [
        Phase(BUILD, _fixed(command), 110, partial(_judge_build, place), env),
        Phase("warm-up", warm_up, 0, helper=True),
    ]


def _judge_build(place: Place, ended: Ended) -> Verdict:
    if ended.status != 0:
        return Verdict(ended.how(), ended.lines)
    STAMP.write_text(_digest(place))
    return Verdict(f"{PASSED}, for {place.architecture}")


def is_built(place: Place) -> bool:
    """Whether the library that is there is of these sources, for this device and torch."""
    there = any((ROOT / "emergence_ext").glob("libemergence_ext.*"))
    return there and STAMP.exists() and STAMP.read_text() == _digest(place)


def _digest(place: Place) -> str:
    facts = f"{place.architecture} {version('torch')} {sys.version}"
    digest = hashlib.sha256(facts.encode())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def tests(place: Place, way: str) -> Phase:
    """Test a way; what does not depend on ways is tested with the portable one."""
    log = place.folder / f"tests-{way}.jsonl"

    def command(seconds: float) -> list[str]:
        options = ["-p", "benchmarks.gpu.pytest_log", "--test-log", str(log), "-m", "gpu", "-q"]
        options += ["-p", "no:cacheprovider", "--tb=short", "-r", "fE"]
        if way != paths.PORTABLE:
            options += ["-k", way]
        if find_spec("xdist") is not None:
            options += ["-n", str(_processes()), "--dist", "worksteal"]
        if find_spec("pytest_timeout") is not None:
            longest = max(1.0, min(LONGEST_TEST, seconds / 2))
            options += ["--timeout", f"{longest:.0f}", "--timeout-method", "thread"]
        return _module("pytest", *options, *TESTS)

    threads = str(max(1, (os.cpu_count() or 1) // _processes()))
    return Phase(
        f"tests, {way}",
        command,
        45 if way == paths.PORTABLE else 20,
        partial(judge_tests, log),
        {paths.VARIABLE: way, "OMP_NUM_THREADS": threads},
        BUILD,
        place.why_not(way),
    )


def _processes() -> int:
    return max(1, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))


def judge_tests(log: Path, ended: Ended) -> Verdict:
    """Say how the tests came out that are noted in `log`, and which was running at the end."""
    found = pytest_log.read(log)
    kept = asdict(found)
    if ended.status == 0 and found.good:
        return Verdict(f"{PASSED}: {found}", found=kept)
    told = [f"not ended: {name}" for name in found.unfinished] + found.failures
    if ended.status in (0, 1) and found.collected and not found.unfinished:
        # It came to its end: some failed, or none was more than skipped.
        return Verdict(f"failed: {found}", told or ended.lines, kept)
    during = found.unfinished[0] if found.unfinished else None
    return Verdict(f"{ended.how(during)}: {found}", told or ended.lines, kept)


def sanitizing(place: Place, way: str) -> list[Phase]:
    """Watch a way by every tool of compute-sanitizer on small problems."""
    program = place.programs[tools.SANITIZER]
    why_not = place.why_not(way) or (tools.missing(tools.SANITIZER) if program is None else None)
    driver = _module("benchmarks.gpu.sanitized", "--way", way)
    # With an allocation of its own for each tensor, none can be left for the next one unseen.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Phase(
            f"{tool}, {way}",
            _fixed([*sanitizers.command(program or tools.SANITIZER, tool), *driver]),
            18 if way == paths.HOPPER else 32,
            sanitizers.judge,
            env,
            BUILD,
            why_not,
        )
        for tool in sanitizers.TOOLS
    ]


def profile(place: Place, way: str) -> Phase:
    """Profile one launch of each kernel of a way."""
    program = place.programs[tools.PROFILER]
    why_not = place.why_not(way) or (tools.missing(tools.PROFILER) if program is None else None)
    report = place.folder / f"profile-{way}.ncu-rep"
    driver = _module("benchmarks.gpu.profiled", "--way", way)
    command = _fixed(profiler.command(program or tools.PROFILER, report, driver))
    seconds = 14 if way == paths.PORTABLE else 10
    return Phase(
        f"profile, {way}", command, seconds, profiler.judge, needs=BUILD, unavailable=why_not
    )


def benchmark(
    place: Place,
    name: str,
    seconds: float,
    cases: Sequence[str],
    options: Sequence[str],
    way: str = paths.PORTABLE,
) -> Phase:
    """Time the ops of these cases in a process that keeps its results in a folder of its own."""
    folder = place.folder / name.replace(" ", "-")
    command = _module("benchmarks", "--device", "cuda", "--out", str(folder), "--case", *cases)
    return Phase(
        f"benchmark, {name}",
        _fixed([*command, *options]),
        seconds,
        partial(_judge_benchmark, folder),
        needs=BUILD,
        unavailable=place.why_not(way),
    )


def peers(place: Place, name: str, seconds: float, cases: Sequence[str]) -> Phase:
    """Time the peers of these cases, as long as there is time."""
    folder = place.folder / name.replace(" ", "-")

    def command(limit: float) -> list[str]:
        options = ["--device", "cuda", "--out", str(folder), "--case", *cases]
        options += ["--measure", "peers", "--seconds", f"{max(0.0, limit - LAST_PEER):.0f}"]
        return _module("benchmarks", *options)

    judge = partial(_judge_peers, folder)
    return Phase(f"benchmark, {name}", command, seconds, judge, needs=BUILD)


def _judge_benchmark(folder: Path, ended: Ended) -> Verdict:
    measured = measured_in(folder)
    if measured is not None and measured.failures:
        return Verdict(f"failed: {len(measured.failures)} timings of the ops", measured.failures)
    if ended.status == 0 and measured is not None:
        return Verdict(f"{PASSED}: {len(measured.rows)} timings")
    return Verdict(ended.how(), ended.lines)


def _judge_peers(folder: Path, ended: Ended) -> Verdict:
    measured = measured_in(folder)
    timed = [] if measured is None else [row for row in measured.rows if row.group != "op"]
    if ended.status is None and timed and measured is not None and not measured.failures:
        return Verdict(f"{PASSED}: {len(timed)} timings, one was not done when the time was up")
    return _judge_benchmark(folder, ended)


def measured_in(folder: Path) -> results.Results | None:
    """Read what a phase of the benchmark has kept so far."""
    kept = next(folder.glob("*.json"), None)
    return None if kept is None else results.load(kept)


def measured(place: Place) -> results.Results | None:
    """Put together what all phases of the benchmark have kept so far."""
    folders = sorted((x for x in place.folder.iterdir() if x.is_dir()), key=_begun)
    parts = [part for part in map(measured_in, folders) if part is not None]
    return results.merged(parts) if parts else None


def _begun(folder: Path) -> tuple[bool, str]:
    """The ops first, of which the peers time some again."""
    return folder.name.startswith("peers"), folder.name
