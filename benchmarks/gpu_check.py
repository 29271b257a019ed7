"""Everything that needs a GPU, in one command: `make gpu-check`, `python -m benchmarks.gpu_check`.

Builds the library for the GPU that is there, runs the tests of the ops on it, the tools of
compute-sanitizer on small problems and the benchmark in the time that is left. Needs torch, its
compilers and pytest, no network and no virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import torch

from benchmarks import results
from benchmarks.budget import Budget
from benchmarks.gpu import pytest_report, sanitizers
from benchmarks.gpu.summary import summary
from benchmarks.peak import Peak
from benchmarks.results import ROOT, Results

LOGS: Final = ROOT / "build" / "gpu-check"
BENCHMARK: Final = LOGS / "benchmark"
TESTS: Final = ("tests/ops/test_ops_gpu.py", "tests/ops/test_ops_gpu_device.py")
BUILD_SECONDS: Final = 300
TEST_SECONDS: Final = 150
SANITIZER_SECONDS: Final = 100
CLOSING_SECONDS: Final = 10
"""What reading and writing take at the end."""

LAST_PEER_SECONDS: Final = 40
"""What a peer may take that was begun before the benchmark's time was up: some compile long."""

TOLD: Final = 20
"""Lines of a log that are told where something failed."""


@dataclass
class Phase:
    """One part of the check: what came of it, and what there is to tell."""

    name: str
    outcome: str
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the check fails by it; by a tool that is not available here it does not."""
        return not self.outcome.startswith(("passed", "unavailable"))


def main() -> None:
    """Run all phases; exit with 1 if one failed, with 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="in which everything ends")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder for the JSON; benchmarks/results when left out",
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check needs a GPU: torch sees no CUDA device here")
        sys.exit(2)
    shutil.rmtree(LOGS, ignore_errors=True)
    BENCHMARK.mkdir(parents=True)
    phases = check(Budget(options.seconds))
    measured, tests = _benchmarked(), pytest_report.read(LOGS / "tests.xml")
    kept = asdict(measured) | {
        "phases": [asdict(phase) for phase in phases],
        "tests": None if tests is None else asdict(tests),
        "build_info": _build_info(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / measured.name
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"\n{summary(measured, phases)}\nwrote {path.name}", flush=True)
    sys.exit(any(phase.failed for phase in phases))


def check(budget: Budget) -> list[Phase]:
    """Run the phases one after the other; all but the build go on where another failed."""
    phases = _phase(lambda: [build(budget.at_most(BUILD_SECONDS))], "build")
    if phases[0].failed:
        return phases
    keep = SANITIZER_SECONDS + LAST_PEER_SECONDS + CLOSING_SECONDS
    phases += _phase(lambda: [run_tests(budget.at_most(TEST_SECONDS, keep=keep))], "tests")
    keep -= SANITIZER_SECONDS
    phases += _phase(lambda: sanitize(budget.at_most(SANITIZER_SECONDS, keep=keep)), "sanitizers")
    rest = budget.at_most(math.inf, keep=CLOSING_SECONDS)
    return phases + _phase(lambda: [benchmark(rest)], "benchmark")


def _phase(run: Callable[[], list[Phase]], name: str) -> list[Phase]:
    start = time.monotonic()
    try:
        phases = run()
    except Exception as error:
        phases = [Phase(name, f"failed: {type(error).__name__}: {error}")]
    for phase in phases:
        phase.seconds = round(time.monotonic() - start, 1)
        print(f"{phase.name}: {phase.outcome} ({phase.seconds:.0f} s)", flush=True)
    return phases


def build(seconds: float) -> Phase:
    """Build in place for the GPU that is there; meanwhile it compiles what the peers will run."""
    major, minor = torch.cuda.get_device_capability()
    architecture = f"{major}.{minor}" + ("a" if major == 9 else "")
    env = {
        "TORCH_CUDA_ARCH_LIST": architecture,
        "MAX_JOBS": str(os.cpu_count()),
    }
    with (LOGS / "warm_up.log").open("w") as log:
        warm_up = _start([sys.executable, "-m", "benchmarks.gpu.warm_up"], log, {})
        try:
            command = [sys.executable, "setup.py", "build_ext", "--inplace"]
            status = _run(command, LOGS / "build.log", seconds, env)
        finally:
            # Beside tests and timings it would disturb.
            _end(warm_up)
    if status != 0:
        return Phase("build", _how_it_ended(status, seconds), _end_of(LOGS / "build.log"))
    return Phase("build", f"passed, for {architecture}")


def run_tests(seconds: float) -> Phase:
    """Run the tests of the ops on the GPU."""
    report, log = LOGS / "tests.xml", LOGS / "tests.log"
    options = ["-m", "gpu", "-q", "--tb=short", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *TESTS]
    status = _run(command, log, seconds, {})
    tests = pytest_report.read(report)
    if tests is None:
        return Phase("tests", _how_it_ended(status, seconds), _end_of(log))
    good = status == 0 and tests.passed > 0 and tests.failed == 0
    failures = tests.failures or ([] if good else _end_of(log))
    return Phase("tests", f"{'passed' if good else 'failed'}: {tests}", failures)


def sanitize(seconds: float) -> list[Phase]:
    """Run the tools of compute-sanitizer side by side on small problems."""
    program = sanitizers.find(os.environ)
    if program is None:
        missing = "unavailable: compute-sanitizer is neither in CUDA_HOME nor on the PATH"
        return [Phase(tool, missing) for tool in sanitizers.TOOLS]
    driver = [sys.executable, "-m", "benchmarks.gpu.sanitized"]
    # With an allocation of its own for each tensor, none can be left for the next one unseen.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    budget = Budget(seconds)
    with ExitStack() as stack:
        running = {}
        for tool in sanitizers.TOOLS:
            out = stack.enter_context((LOGS / f"{tool}.log").open("w"))
            running[tool] = _start([*sanitizers.command(program, tool), *driver], out, env)
        statuses = {tool: _wait(child, budget.left) for tool, child in running.items()}
    phases = []
    for tool, status in statuses.items():
        log = LOGS / f"{tool}.log"
        outcome = sanitizers.verdict(log.read_text(errors="replace"), status)
        phases.append(Phase(tool, outcome, [] if outcome == sanitizers.PASSED else _end_of(log)))
    return phases


def benchmark(seconds: float) -> Phase:
    """Time the ops and, as long as there is time, their peers."""
    log = LOGS / "benchmark.log"
    command = [sys.executable, "-m", "benchmarks", "--device", "cuda", "--out", str(BENCHMARK)]
    command += ["--seconds", str(max(0.0, seconds - LAST_PEER_SECONDS))]
    status = _run(command, log, seconds, {})
    measured = _benchmarked()
    if status == 0 and not measured.failures:
        return Phase("benchmark", "passed")
    if status is None and measured.memory and not measured.failures:
        return Phase("benchmark", "passed, but a peer was not done when the time was up")
    if measured.failures:
        return Phase("benchmark", f"failed: {len(measured.failures)} timings of the ops")
    return Phase("benchmark", _how_it_ended(status, seconds), _end_of(log))


def _benchmarked() -> Results:
    """Give what the benchmark has kept so far."""
    kept = next(BENCHMARK.glob("*.json"), None)
    return results.begin(Peak(), "cuda") if kept is None else results.load(kept)


def _build_info() -> dict[str, Any] | None:
    """Give what a new process, which loads what was built, says of it."""
    code = "import json; from emergence_ext import build_info; print(json.dumps(build_info()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _run(command: list[str], log: Path, seconds: float, env: Mapping[str, str]) -> int | None:
    with log.open("w") as out:
        return _wait(_start(command, out, env), seconds)


def _start(command: list[str], log: TextIO, env: Mapping[str, str]) -> subprocess.Popen[str]:
    usual = {
        "EMERGENCE_REQUIRE": "cpu,cuda",
        "EMERGENCE_UNTESTED_CUDA": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | usual | dict(env),
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what it starts ends with it
    )


def _wait(child: subprocess.Popen[str], seconds: float) -> int | None:
    """Return its exit status, None where its time was up."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _how_it_ended(status: int | None, seconds: float) -> str:
    return f"failed: not done in {seconds:.0f} s" if status is None else f"failed: status {status}"


def _end_of(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-TOLD:]


if __name__ == "__main__":
    main()
