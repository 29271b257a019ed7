"""What pytest did, test by test: a plugin that appends it to a file, and what that file says.

`pytest -p benchmarks.gpu.pytest_log --test-log FILE` writes a line of JSON as each test begins and
one as it ends, so that a run that was killed, crashed or hung still says what it knew, and which
test it was in. With pytest-xdist the process that hands the tests out writes.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

LOST: Final = 70
"""The exit status of a process whose device is of no more use."""


# The plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--test-log", type=Path, help="file to which each test is appended")


def pytest_configure(config: pytest.Config) -> None:
    """Write where tests are handed out, look after the device where they are run."""
    hands_out = config.pluginmanager.hasplugin("dsession")
    if not hands_out:
        config.pluginmanager.register(_Device())
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Log(config.getoption("--test-log")))


class _Log:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)  # a line at a time
        self._reports: dict[str, list[pytest.TestReport]] = {}

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self._write(collected=len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._write(collected=len(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(begin=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.setdefault(report.nodeid, []).append(report)
        if report.when == "???":  # pytest-xdist, of a process that died
            self.pytest_runtest_logfinish(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        reports = self._reports.pop(nodeid, [])
        worst = next((x for x in reports if x.failed), None)
        worst = worst or next((x for x in reports if x.skipped), None)
        seconds = round(sum(getattr(x, "duration", 0.0) for x in reports), 3)
        outcome = worst.outcome if worst else "passed"
        line = {"end": nodeid, "outcome": outcome, "seconds": seconds}
        self._write(**line, **({"message": _message(worst)} if worst else {}))


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        text = crash.message
    elif isinstance(report.longrepr, tuple):
        text = report.longrepr[2].removeprefix("Skipped: ")
    else:
        text = str(report.longrepr)
    return next(iter(text.strip().splitlines()), "")[:200]


class _Device:
    """Ends this process where a test left the device of no use: every later one would fail."""

    def __init__(self) -> None:
        self._failed = False

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        failed, self._failed = self._failed, False
        if not failed or "torch" not in sys.modules:
            return
        from benchmarks.gpu import device  # which takes seconds where torch was not needed so far

        if device.is_lost():
            print(f"after {nodeid} the device is of no more use", file=sys.stderr, flush=True)
            os._exit(LOST)  # pytest-xdist starts another one


# What was written


@dataclass(frozen=True)
class Tests:
    """How many tests came out how, and how many of those `collected` did not.

    `failures` names those that failed, with the error's line; `unfinished` those that began and did
    not end; `skips` counts the reasons.
    """

    collected: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    skips: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether all ran and none failed; where none passed, nothing was tested."""
        return self.passed > 0 and not (self.failed or self.unfinished or self.not_run)

    @property
    def not_run(self) -> int:
        """How many never began."""
        done = self.passed + self.failed + self.skipped + len(self.unfinished)
        return max(0, self.collected - done)

    def __str__(self) -> str:
        """Say the counts."""
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return counts + (f", {self.not_run} not run" if self.not_run else "")


def read(path: Path) -> Tests:
    """Read what the plugin wrote, a last line that was cut off left out."""
    begun: dict[str, None] = {}
    ended: dict[str, dict[str, Any]] = {}
    collected = 0
    lines = path.read_text().splitlines() if path.exists() else []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        collected = max(collected, line.get("collected", 0))
        if "begin" in line:
            begun[line["begin"]] = None
        elif "end" in line:
            ended.setdefault(line["end"], line)
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    failures, skips = [], dict[str, int]()
    for name, line in ended.items():
        counts[line["outcome"]] += 1
        message = line.get("message", "")
        if line["outcome"] == "failed":
            failures.append(f"{name.rpartition('::')[2]}: {message}")
        elif line["outcome"] == "skipped":
            skips[message] = skips.get(message, 0) + 1
    unfinished = [name for name in begun if name not in ended]
    return Tests(collected, **counts, failures=failures, unfinished=unfinished, skips=skips)
