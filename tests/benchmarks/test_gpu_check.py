"""The check on a GPU, without one: what tools say is read right, and no phase stops the others."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.budget import Budget
from benchmarks.gpu import paths, phase, plan, profiler, pytest_log, sanitized, sanitizers, tools
from benchmarks.gpu.phase import Ended, Outcome, Phase, Step

PROGRAMS: Mapping[str, str | None] = {tools.SANITIZER: "/bin/sanitizer", tools.PROFILER: "/bin/ncu"}
H200 = {"name": "NVIDIA H200", "capability": [9, 0], "cuda": "13.0", "driver": "580.1"}

# What tools say


CALLS = "begin: maxsim, N3\nbegin: match_kl, N3\n24 calls\n"
SILENT = "========= COMPUTE-SANITIZER\n" + CALLS
CLEAN = SILENT + "========= ERROR SUMMARY: 0 errors\n"
HAZARDS = CALLS + "========= RACECHECK SUMMARY: {} hazards displayed ({} errors, 0 warnings)\n"
REFUSED = "========= COMPUTE-SANITIZER\n========= Error: Device not supported. See the manual\n"


@pytest.mark.parametrize(
    ("told", "status", "outcome"),
    [
        (CLEAN, 0, "passed"),
        (HAZARDS.format(0, 0), 0, "passed"),
        (CLEAN.replace("0 errors", "3 errors"), 0, "findings: 3"),
        (CLEAN.replace("0 errors", "1 error"), 1, "findings: 1"),
        (HAZARDS.format(2, 2), 0, "findings: 2"),
        (CLEAN, None, "failed: not done in 9 s, in match_kl, N3"),
        (CALLS, -signal.SIGSEGV, "failed: ended by SIGSEGV, in match_kl, N3"),
        (CLEAN.replace("24 calls\n", ""), 0, "failed: no call was made"),
        (CLEAN.replace("24", "0"), 0, "failed: no call was made"),
        (SILENT, 0, "failed: it gave no summary"),
        (REFUSED, 255, "unavailable: Error: Device not supported. See the manual"),
        (REFUSED + CALLS, 255, "failed: status 255, in match_kl, N3"),
        ("Traceback\nImportError: no torch\n", 1, "failed: status 1"),
    ],
)
def test_a_sanitizer_passes_only_if_it_says_so(told: str, status: int | None, outcome: str) -> None:
    found = sanitizers.judge(Ended(status, 9, told))
    assert found.outcome == outcome
    assert bool(found.told) == (outcome != "passed")


PROFILED = 'begin: D3\n==PROF== Profiling "match_kernel" - 0: 0%....100% - 41 passes\n'
DENIED = "begin: D3\n==ERROR== ERR_NVGPUCTRPERM - no permission to read counters\n"


@pytest.mark.parametrize(
    ("told", "status", "outcome"),
    [
        (PROFILED, 0, "passed: 1 launches"),
        ("begin: D3\n==WARNING== No kernels were profiled.\n", 0, "failed: no launch was profiled"),
        (PROFILED, None, "failed: not done in 9 s, in D3"),
        (PROFILED + "==ERROR== The application crashed\n", 9, "failed: status 9, in D3"),
        (DENIED, 1, "unavailable: ERR_NVGPUCTRPERM - no permission to read counters"),
        ("==ERROR== Failed to initialize\n", 1, "unavailable: Failed to initialize"),
    ],
)
def test_a_profile_passes_only_with_a_launch(told: str, status: int | None, outcome: str) -> None:
    assert profiler.judge(Ended(status, 9, told)).outcome == outcome


def test_a_program_is_found_in_the_toolkit_and_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "some-tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    nowhere = {"PATH": "/nowhere"}
    assert tools.find("some-tool", nowhere) is None
    assert tools.find("some-tool", nowhere | {"CUDA_HOME": str(tmp_path)}) == str(program)
    assert tools.find("some-tool", {"PATH": str(program.parent)}) == str(program)


# Tests, one by one

TESTS = """
import os, sys
from types import SimpleNamespace
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "more\\nlines"
def test_left(): pytest.skip("there is one device")
{last}
def test_after(): pass
"""
CRASHES = "def test_last(): os.kill(os.getpid(), 4)"
LOSES = """
def test_last():
    sys.modules["torch"] = None
    sys.modules["benchmarks.gpu.device"] = SimpleNamespace(is_lost=lambda: True)
    assert False, "illegal memory access"
"""


def of_file(name: str, last: str, folder: Path) -> Phase:
    """A phase that tests a file, as the plan does; the file ends with `last` and one more."""
    file, log = folder / f"test_{name}.py", folder / f"{name}.jsonl"
    file.write_text(TESTS.format(last=last))
    options = ["-p", "benchmarks.gpu.pytest_log", "--test-log", str(log), f"--rootdir={folder}"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(file)]
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return Phase(name, lambda limit: command, 0, lambda ended: plan.judge_tests(log, ended), env)


def test_every_test_is_noted_as_it_ends_and_the_one_that_was_running_is_named(
    tmp_path: Path,
) -> None:
    lasts = {"crashes": CRASHES, "loses": LOSES, "ends": "def test_last(): pass"}
    step = [of_file(name, last, tmp_path) for name, last in lasts.items()]
    crashed, lost, ended = phase.run_step(step, 300, tmp_path, {}, ())
    during = "test_crashes.py::test_last: 1 passed, 1 failed, 1 skipped, 1 not run"
    assert crashed.outcome == f"failed: ended by SIGILL, in {during}"
    told = ["not ended: test_crashes.py::test_last", "test_bad: AssertionError: more"]
    assert crashed.told == told
    hung = plan.judge_tests(tmp_path / "crashes.jsonl", Ended(None, 9, ""))
    assert hung.outcome == f"failed: not done in 9 s, in {during}"
    assert lost.outcome == "failed: status 70: 1 passed, 2 failed, 1 skipped, 1 not run"
    assert lost.told[-1] == "test_last: AssertionError: illegal memory access"
    assert ended.outcome == "failed: 3 passed, 1 failed, 1 skipped"
    assert ended.found["skips"] == {"there is one device": 1}
    assert all(outcome.failed for outcome in (crashed, lost, ended))


def test_what_was_noted_of_tests_is_read_though_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "tests.jsonl"
    assert not pytest_log.read(path).good
    lines = [{"collected": 2}, {"collected": 2}, {"begin": "a.py::b"}]
    lines += [{"end": "a.py::b", "outcome": "passed"}, {"begin": "a.py::c"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"end": "a.py')
    assert str(pytest_log.read(path)) == "1 passed, 0 failed, 0 skipped"
    assert pytest_log.read(path).unfinished == ["a.py::c"]
    path.write_text(text + '{"end": "a.py::c", "outcome": "skipped", "message": "no"}\n')
    assert pytest_log.read(path).good and plan.judge_tests(path, Ended(0, 9, "")).outcome == (
        "passed: 1 passed, 0 failed, 1 skipped"
    )
    assert plan.judge_tests(path, Ended(3, 9, "Traceback\nno plugin")).told == [
        "Traceback",
        "no plugin",
    ]


# Phases


def fake(name: str, script: str, seconds: float = 1, **options: Any) -> Phase:
    return Phase(name, lambda limit: ["sh", "-c", script], seconds, **options)


def ran(steps: Sequence[Step], folder: Path, seconds: float) -> dict[str, Outcome]:
    env = {"CHECKED": "yes"}
    found = phase.run(steps, Budget(seconds), folder, env)
    return {outcome.name: outcome for outcomes in found for outcome in outcomes}


def test_a_phase_that_crashes_or_hangs_stops_no_other(tmp_path: Path) -> None:
    left = tmp_path / "left"
    hangs = f"echo begin: one; echo begin: two; (sleep 1.5; touch {left}) & sleep 600"
    steps = [
        [
            fake("hangs", hangs),
            fake("crashes", "echo begin: three; kill -ILL $$"),
            fake("is not there", "", unavailable="no such tool"),
            replace(fake("cannot start", ""), command=lambda limit: ["/no/such/program"]),
            fake("helps", "sleep 600", helper=True),
        ],
        [fake("goes on", "echo $CHECKED $MORE", env={"MORE": "more"})],
    ]
    found = ran(steps, tmp_path, 2)
    assert list(found) == [phase.name for step in steps for phase in step]
    assert re.fullmatch(r"failed: not done in [\d.]+ s, in two", found["hangs"].outcome)
    assert found["crashes"].outcome == "failed: ended by SIGILL, in three"
    assert found["crashes"].seconds < found["hangs"].seconds
    assert found["is not there"].outcome == "unavailable: no such tool"
    assert found["cannot start"].outcome.startswith("failed: FileNotFoundError")
    assert [name for name, x in found.items() if not x.failed] == [
        *("is not there", "helps", "goes on")
    ]
    assert (tmp_path / "goes-on.log").read_text() == "yes more\n"
    time.sleep(1)
    assert not left.exists()  # what a phase started ended with it


def test_a_helper_ends_with_those_that_it_helps(tmp_path: Path) -> None:
    step = [fake("helps", "sleep 600", helper=True), fake("ends", "exit 3")]
    start = time.monotonic()
    found = ran([step], tmp_path, 60)
    assert time.monotonic() - start < 30
    assert found["ends"].outcome == "failed: status 3" and not found["helps"].failed


def test_what_a_phase_leaves_over_is_the_next_ones(tmp_path: Path) -> None:
    given: dict[str, float] = {}

    def planned(name: str, seconds: float, script: str = "true") -> Phase:
        def command(limit: float) -> list[str]:
            given[name] = limit
            return ["sh", "-c", script]

        return Phase(name, command, seconds)

    steps = [[planned("quick", 4)], [planned("side", 1), planned("by side", 3)], [planned("z", 3)]]
    ran(steps, tmp_path, 10)
    assert given["quick"] == pytest.approx(4, abs=0.5)
    assert given["side"] == given["by side"] == pytest.approx(7, abs=0.5)
    assert given["z"] == pytest.approx(10, abs=1)
    scaled = gpu_check._scaled(steps, gpu_check.CLOSING + 20)
    assert [phase.planned(step) for step in scaled] == [8, 6, 6]


def test_a_phase_waits_for_what_it_needs_where_that_is_run(tmp_path: Path) -> None:
    needs = [fake("needs", "true", needs="build")]
    assert ran([[fake("build", "true")], needs], tmp_path, 9)["needs"].outcome == "passed"
    assert ran([needs], tmp_path, 9)["needs"].outcome == "passed"
    outcome = ran([[fake("build", "false")], needs], tmp_path, 9)["needs"].outcome
    assert outcome == "failed: not run, as build did not pass"
    assert ran([needs], tmp_path, 0)["needs"].outcome == "failed: not run, as no time was left"


# The whole check


def test_each_way_has_its_phases_and_hopper_comes_last(tmp_path: Path) -> None:
    place = plan.Place(H200, tmp_path, PROGRAMS)
    steps = plan.steps("a", place)
    names = [phase.name for step in steps for phase in step]
    own = [f"{kind}, hopper" for kind in ("tests", *sanitizers.TOOLS, "profile")]
    assert names[:3] == ["build", "warm-up", "tests, portable"]
    assert names[-len(own) :] == own
    for way in paths.WAYS:
        assert sum(name.endswith(f", {way}") for name in names) == 6
    assert place.env["EMERGENCE_CUDA"] == "all"
    (build, _), *_ = steps
    assert build.env["TORCH_CUDA_ARCH_LIST"] == "9.0a"
    measured = [phase.name for step in plan.steps("b", place) for phase in step]
    assert measured[-1] == "benchmark, hopper" and "benchmark, split" in measured


def test_what_is_not_there_is_a_line(tmp_path: Path) -> None:
    old = plan.Place(H200 | {"capability": [8, 6]}, tmp_path, dict.fromkeys(PROGRAMS))
    phases = {phase.name: phase for step in plan.steps("a", old) for phase in step}
    assert phases["tests, hopper"].unavailable == "it is for compute capability 9.0"
    assert phases["tests, split"].unavailable is None
    assert "compute-sanitizer is neither" in str(phases["memcheck, portable"].unavailable)
    assert "ncu is neither" in str(phases["profile, portable"].unavailable)
    assert phases["build"].env["TORCH_CUDA_ARCH_LIST"] == "8.6"


def test_the_tests_of_a_way_are_its_own_and_wheels_are_found(tmp_path: Path) -> None:
    (tmp_path / "peer.whl").touch()
    place = plan.Place(H200, tmp_path / "a", PROGRAMS, wheels=tmp_path)
    (wheels,) = plan.steps("a", place)[0]
    assert list(wheels.command(1))[-1] == str(tmp_path / "peer.whl")
    assert place.env["PYTHONPATH"].split(os.pathsep)[0] == str(place.packages)
    split = plan.tests(place, "split")
    assert split.env[paths.VARIABLE] == "split"
    assert "split" in split.command(20)
    assert "portable" not in plan.tests(place, "portable").command(20)


def test_each_way_is_watched_on_what_it_does() -> None:
    names = {way: [name for name, _ in sanitized.calls(way)] for way in paths.WAYS}
    assert all(len(set(calls)) == len(calls) > 0 for calls in names.values())
    assert any("float64" in name for name in names["portable"])
    assert all("float32" in name for name in names["split"])
    assert all(
        "-D3-" not in name and "highest" not in name
        for name in names["hopper"]
        if "float32" in name
    )


def test_the_archive_leaves_out_what_finds_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "logs" / "inner"
    folder.mkdir(parents=True)
    (folder / "small.log").write_text("log")
    (folder.parent / "large.ncu-rep").write_bytes(os.urandom(2000))
    path = tmp_path / "logs.zip"
    assert gpu_check._archive(path, folder.parent) == []
    monkeypatch.setattr(gpu_check, "ARCHIVE", 1000)
    assert gpu_check._archive(path, folder.parent) == ["large.ncu-rep"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["inner/small.log"]


@pytest.fixture
def run_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Runs the command where there is no GPU; returns exit status and lines."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
        with pytest.raises(SystemExit) as left:
            gpu_check.main()
        told = capsys.readouterr()
        return int(left.value.code or 0), (told.out + told.err).splitlines()

    return run


def test_without_a_gpu_the_check_says_so(
    run_check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    told = "gpu-check needs a GPU: torch sees no CUDA device here"
    assert run_check("--out", str(tmp_path / "out")) == (2, [told])
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_a_line(
    run_check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    status, told = run_check("--dry-run", "--wheels", str(tmp_path))
    assert status == 2 and told[-1].endswith(f"--wheels: {tmp_path} holds no wheels (*.whl)")
    status, told = run_check("--dry-run", "--seconds", "0")
    assert status == 2 and told[-1].endswith("--seconds must be positive, got 0")


def test_a_dry_run_starts_ends_and_reports_every_phase(
    run_check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    status, lines = run_check("--dry-run", "--part", "b", "--out", str(tmp_path))
    assert status == 0, lines
    (kept,) = tmp_path.glob("*-dry-run-b.json")
    phases = json.loads(kept.read_text())["phases"]
    names = [x["name"] for x in phases if x["name"] != "warm-up"]
    assert names[-1] == "benchmark, hopper"
    for x in phases:
        assert x["name"] == "warm-up" or x["outcome"].startswith("failed: not done in 0.")
    told = f"dry run: {len(names)} phases of part b began, were ended and reported"
    assert lines[-1] == told
    with zipfile.ZipFile(kept.with_suffix(".zip")) as archive:
        log = archive.read("benchmark-split.log").decode()
    assert "-m benchmarks --device cuda" in log and "--ways split" in log


def test_results_that_cannot_be_kept_stop_no_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any) -> list[str]:
        raise OSError("no space left on device")

    monkeypatch.setattr(gpu_check, "_archive", broken)
    place = plan.Place(H200, tmp_path / "logs", PROGRAMS)
    steps = [[fake("first", "true")], [fake("second", "true")]]
    outcomes = gpu_check.check("a", place, steps, tmp_path / "out")
    told = "results: failed: OSError: no space left on device (0 s)"
    assert [str(x) for x in outcomes if x.failed] == [told] * 2
    assert outcomes[2].outcome == "passed"
    assert capsys.readouterr().out.splitlines()[-1] == told


def test_a_check_that_is_ended_keeps_what_it_knows(tmp_path: Path) -> None:
    place = plan.Place(H200, tmp_path / "logs", PROGRAMS)

    def ended(seconds: float) -> list[str]:
        raise KeyboardInterrupt

    steps = [[fake("ends", "echo log")], [replace(fake("is ended", ""), command=ended)]]
    with pytest.raises(KeyboardInterrupt):
        gpu_check.check("a", place, steps, tmp_path / "out")
    (kept,) = (tmp_path / "out").glob("*-nvidia-h200-a.json")
    phases = {x["name"]: x["outcome"] for x in json.loads(kept.read_text())["phases"]}
    assert phases == {"ends": "passed", "the check": "failed: ended by KeyboardInterrupt"}
    with zipfile.ZipFile(kept.with_suffix(".zip")) as archive:
        assert archive.read("ends.log") == b"log\n"
