"""The check on a GPU, without one: what tools say is read right, and no phase stops the others."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.budget import Budget
from benchmarks.gpu import pytest_report, sanitizers
from benchmarks.gpu_check import Phase

# What tools say


def test_counts_of_pytest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tests.xml"
    assert pytest_report.read(path) is None
    path.write_text(
        "<testsuites><testsuite>"
        '<testcase name="good"/><testcase name="also"/>'
        '<testcase name="bad[3]"><failure message="assert 1 == 2&#10;and more"/>'
        '<error message="teardown"/></testcase>'
        '<testcase name="left"><skipped message="there is one device"/></testcase>'
        "</testsuite></testsuites>"
    )
    found = pytest_report.read(path)
    assert found is not None and str(found) == "2 passed, 1 failed, 1 skipped"
    assert found.failures == ["bad[3]: assert 1 == 2"]
    assert found.skips == {"there is one device": 1}
    path.write_text("<testsuites><testsuite>")  # cut off
    assert pytest_report.read(path) is None


CLEAN = "========= COMPUTE-SANITIZER\n24 calls\n========= ERROR SUMMARY: 0 errors\n"
HAZARDS = "========= RACECHECK SUMMARY: {} hazards displayed ({} errors, 0 warnings)\n"


@pytest.mark.parametrize(
    ("told", "status", "verdict"),
    [
        (CLEAN, 0, "passed"),
        ("24 calls\n" + HAZARDS.format(0, 0), 0, "passed"),
        (CLEAN.replace("0 errors", "3 errors"), 0, "findings: 3"),
        (CLEAN.replace("0 errors", "1 error"), 1, "findings: 1"),
        ("24 calls\n" + HAZARDS.format(2, 2), 0, "findings: 2"),
        (CLEAN, None, "unavailable: its time was up"),
        (CLEAN + "Segmentation fault\n", 139, "unavailable: Segmentation fault"),
        (CLEAN.replace("24 calls\n", ""), 0, "unavailable: no call was made"),
        (CLEAN.replace("24", "0"), 0, "unavailable: no call was made"),
        ("24 calls\n", 0, "unavailable: it gave no summary"),
        (
            "========= COMPUTE-SANITIZER\n========= Error: Device not supported. See the manual\n",
            255,
            "unavailable: Error: Device not supported. See the manual",
        ),
        ("Traceback\nImportError: no torch\n", 1, "unavailable: ImportError: no torch"),
        ("", 127, "unavailable: exit status 127"),
    ],
)
def test_a_sanitizer_passes_only_if_it_says_so(told: str, status: int | None, verdict: str) -> None:
    assert sanitizers.verdict(told, status) == verdict


def test_the_sanitizer_is_found_in_the_toolkit_and_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    nowhere = {"PATH": "/nowhere"}
    assert sanitizers.find(nowhere | {"CUDA_HOME": str(tmp_path)}) == str(program)
    assert sanitizers.find({"PATH": str(program.parent)}) == str(program)


# The whole check


def test_without_a_gpu_the_check_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(SystemExit) as left:
        gpu_check.main()
    assert left.value.code == 2
    assert capsys.readouterr().out == "gpu-check needs a GPU: torch sees no CUDA device here\n"


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the check with phases that give what it is told; returns the names of those that ran."""

    def check(**outcomes: str) -> list[str]:
        def phase(name: str) -> Callable[[float], Any]:
            def run(seconds: float) -> Any:
                if outcomes.get(name) == "raises":
                    raise OSError("no such file")
                found = Phase(name, outcomes.get(name, "passed"))
                return [found] if name == "sanitize" else found

            return run

        for name in ("build", "run_tests", "sanitize", "benchmark"):
            monkeypatch.setattr(gpu_check, name, phase(name))
        return [f"{x.name}: {x.failed}" for x in gpu_check.check(Budget(500))]

    return check


def test_a_phase_that_fails_does_not_stop_the_others(phases: Callable[..., list[str]]) -> None:
    good = ["build: False", "run_tests: False", "sanitize: False", "benchmark: False"]
    assert phases() == good
    assert phases(run_tests="failed: 1 test") == [good[0], "run_tests: True", *good[2:]]
    assert phases(sanitize="raises") == [*good[:2], "sanitizers: True", good[3]]
    assert phases(sanitize="unavailable: it is not there") == good
    assert phases(sanitize="findings: 2") == [*good[:2], "sanitize: True", good[3]]
    assert phases(build="failed: status 1") == ["build: True"]


def test_a_command_has_its_time_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os; print(os.environ['EMERGENCE_UNTESTED_CUDA'], os.environ['MORE'])"
    assert gpu_check._run([sys.executable, "-c", code], log, 60, {"MORE": "more"}) == 0
    assert log.read_text() == "1 more\n"
    code = "import time; print('begun'); time.sleep(600)"
    assert gpu_check._run([sys.executable, "-c", code], log, 2, {}) is None
    assert gpu_check._end_of(log) == ["begun"]
