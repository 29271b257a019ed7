"""One phase of a check: a process group of its own, with a limit of time and a log.

Whatever happens in it - a crash, an instruction that the device does not know, a hang - ends with
it: the phases beside it and behind it go on. What is being done when a phase ends is told by its
log, in lines that start with "begin: ".
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.budget import Budget
from benchmarks.results import ROOT

BEGIN: Final = "begin: "
PASSED: Final = "passed"
TOLD: Final = 20
"""Lines of a log that are told where something failed."""

DYING: Final = 5
"""Seconds in which a process that is killed has to be gone; one that hangs in a driver may stay."""


@dataclass(frozen=True)
class Ended:
    """How a phase came to its end: exit status (None: its `limit` in seconds was up) and log."""

    status: int | None
    limit: float
    log: str

    @property
    def lines(self) -> list[str]:
        """The last lines of the log."""
        return self.log.splitlines()[-TOLD:]

    @property
    def begun(self) -> str | None:
        """What had begun last, as the log has it."""
        begun = [line for line in self.log.splitlines() if line.startswith(BEGIN)]
        return begun[-1].removeprefix(BEGIN) if begun else None

    def how(self, during: str | None = None) -> str:
        """Say how it ended, and during what: what the log says where it is left out."""
        if self.status is None:
            how = f"not done in {self.limit:.3g} s"
        elif self.status < 0:
            how = f"ended by {signal.Signals(-self.status).name}"
        else:
            how = f"status {self.status}"
        during = during or self.begun
        return f"failed: {how}" + (f", in {during}" if during else "")


@dataclass(frozen=True)
class Verdict:
    """What came of a phase, what there is to tell, and what it found."""

    outcome: str
    told: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


def by_status(ended: Ended) -> Verdict:
    """Judge by the exit status alone."""
    return Verdict(PASSED) if ended.status == 0 else Verdict(ended.how(), ended.lines)


@dataclass(frozen=True)
class Phase:
    """What is to be run.

    Attributes:
        name: how it is called, and its log.
        command: the command line, from the seconds that it has.
        seconds: what it is planned to take.
        judge: tells what came of it.
        env: variables beside those of the check.
        needs: a phase that must have passed before, where it is among those that are run.
        unavailable: why it cannot be run here; it is not started then, and does not fail.
        helper: ends with the others of its step, and never fails.
    """

    name: str
    command: Callable[[float], Sequence[str]]
    seconds: float
    judge: Callable[[Ended], Verdict] = by_status
    env: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None
    unavailable: str | None = None
    helper: bool = False

    @property
    def file(self) -> str:
        """The name of its log."""
        return f"{self.name.replace(', ', '-').replace(' ', '-')}.log"


@dataclass
class Outcome:
    """What came of a phase."""

    name: str
    outcome: str
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the check fails by it; by a tool that is not available here it does not."""
        return not self.outcome.startswith((PASSED, "unavailable"))

    def __str__(self) -> str:
        """Give a line."""
        return f"{self.name}: {self.outcome} ({self.seconds:.0f} s)"


Step = Sequence[Phase]
"""Phases that run side by side."""


def run(
    steps: Sequence[Step], budget: Budget, folder: Path, env: Mapping[str, str]
) -> Iterator[list[Outcome]]:
    """Run steps one after the other and yield what came of each.

    Each has what it is planned to take, and what those before it left over.
    """
    waiting = {phase.name for step in steps for phase in step}
    for place, step in enumerate(steps):
        limit = budget.at_most(math.inf, keep=sum(map(planned, steps[place + 1 :])))
        outcomes = run_step(step, limit, folder, env, waiting)
        waiting -= {outcome.name for outcome in outcomes if outcome.outcome.startswith(PASSED)}
        yield outcomes


def planned(step: Step) -> float:
    """Seconds that a step is planned to take."""
    return max((phase.seconds for phase in step if phase.unavailable is None), default=0.0)


def run_step(
    step: Step, limit: float, folder: Path, env: Mapping[str, str], waiting: Collection[str]
) -> list[Outcome]:
    """Run the phases of a step side by side; `waiting` are names of those that have not passed."""
    outcomes, running = [], []
    for phase in step:
        why_not = _why_not(phase, waiting, limit)
        if why_not is not None:
            outcomes.append(Outcome(phase.name, why_not))
            continue
        try:
            running.append(_Running(phase, limit, folder / phase.file, env))
        except Exception as error:
            outcomes.append(Outcome(phase.name, f"failed: {type(error).__name__}: {error}"))
    try:
        _wait(running, Budget(limit))
    finally:
        for child in running:
            child.end()
    outcomes += [child.outcome() for child in running]
    order = [phase.name for phase in step]
    return sorted(outcomes, key=lambda outcome: order.index(outcome.name))


def _why_not(phase: Phase, waiting: Collection[str], limit: float) -> str | None:
    if phase.unavailable is not None:
        return f"unavailable: {phase.unavailable}"
    if phase.needs in waiting:
        return f"failed: not run, as {phase.needs} did not pass"
    return "failed: not run, as no time was left" if limit <= 0 else None


def _wait(running: Sequence[_Running], budget: Budget) -> None:
    # Each is asked each time, so that its end is noted when it comes.
    while any([x.runs() for x in running if not x.phase.helper]) and not budget.spent:
        time.sleep(0.02)


class _Running:
    """A phase that was started."""

    def __init__(self, phase: Phase, limit: float, log: Path, env: Mapping[str, str]) -> None:
        self.phase, self._limit, self._log = phase, limit, log
        self._status: int | None = None
        self._start = time.monotonic()
        self._end: float | None = None
        with log.open("w") as out:
            # A group, so that what it starts ends with it; no session, so that it ends with ours.
            self._child = subprocess.Popen(
                list(phase.command(limit)),
                cwd=ROOT,
                env=os.environ | dict(env) | dict(phase.env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def runs(self) -> bool:
        """Whether it is still running."""
        if self._end is None and (status := self._child.poll()) is not None:
            self._status, self._end = status, time.monotonic()
        return self._end is None

    def end(self) -> None:
        """End it, with whatever it started."""
        self.runs()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(DYING)

    def outcome(self) -> Outcome:
        """Say what came of it."""
        seconds = round((self._end or time.monotonic()) - self._start, 1)
        try:
            log = self._log.read_text(errors="replace")
            ended = Ended(self._status, self._limit, log)
            helped = Verdict(f"{PASSED}, as far as it came")
            verdict = helped if self.phase.helper else self.phase.judge(ended)
        except Exception as error:
            verdict = Verdict(f"failed: {type(error).__name__}: {error}")
        return Outcome(self.phase.name, verdict.outcome, verdict.told, seconds, verdict.found)
