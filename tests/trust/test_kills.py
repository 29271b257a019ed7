"""Killed at any change of the disk, or told it is full: the next try ends as if nothing was."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trust import jobs
from tests.trust.disk import Trouble
from tests.trust.forked import Ending, forked
from tests.trust.jobs import left

KILLS: tuple[Trouble, ...] = ("kill", "interrupt", "terminate")
FAULTS: tuple[Trouble, ...] = ("no space", "input/output error")


USUAL = {
    ("train", "terminate"), ("stream", "kill"), ("stream", "no space"), ("stream", "another"),
}  # fmt: skip
"""Of every job and trouble those of the default run: making a job ready takes as long as a test."""


def troubles(*kinds: str) -> pytest.MarkDecorator:
    """Every job with every kind of trouble."""
    pairs = [(job, kind) for job in jobs.JOBS for kind in kinds]
    return pytest.mark.parametrize(
        ("job", "kind"),
        [pytest.param(*x, marks=[] if x in USUAL else [pytest.mark.slow]) for x in pairs],
        indirect=["job"],
        scope="module",
    )


@pytest.fixture(scope="module")
def job(
    request: pytest.FixtureRequest, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Job:
    return Job(request.param, image_folder, tmp_path_factory.mktemp(request.param))


class Job:
    """A job that can be begun in any folder, what stands there before, and what it should leave."""

    def __init__(self, name: str, images: Path, folder: Path) -> None:
        self.name, self.images, self.folder = name, images, folder
        self.before = folder / "before"
        self.before.mkdir()
        if name != "train":
            _well(forked(jobs.train, images, self.before))
        if name in ("attack", "distill"):
            self.before = self._begun("run", folder / "before", -1, "kill")[0]
        whole, ending = self._begun(name, folder / "whole", -1, "kill")
        _well(ending)
        self.changes, self.whole = ending.value, left(whole)

    def disturbed(self, out: Path, at: int, kind: Trouble) -> Ending:
        """Begin it in a folder of its own, with trouble at a change."""
        shutil.copytree(self.before, out)
        return self.again(out, at, kind)

    def again(self, out: Path, at: int = -1, kind: Trouble = "kill") -> Ending:
        """Do it in a folder in which it was begun."""
        return forked(jobs.disturbed, self.name, (self.images, out), at, kind)

    def _begun(self, name: str, out: Path, at: int, kind: Trouble) -> tuple[Path, Ending]:
        if out != self.before:
            shutil.copytree(self.before, out)
        ending = forked(jobs.disturbed, name, (self.images, out), at, kind)
        _well(ending)
        return out, ending


def _well(ending: Ending) -> None:
    assert ending.error is None and ending.killed_by is None, ending.trace or ending


def _places(job: Job, kind: Trouble, cases: int) -> list[int]:
    """Changes at which trouble is made."""
    generator = random.Random(f"{job.name} {kind}")
    return sorted(generator.sample(range(job.changes), min(cases, job.changes)))


@troubles(*KILLS)
def test_a_killed_job_goes_on_to_the_same_bytes(
    job: Job, kind: Trouble, cases: int, tmp_path: Path
) -> None:
    for at in _places(job, kind, cases):
        out = tmp_path / str(at)
        ending = job.disturbed(out, at, kind)
        assert ending.killed_by or isinstance(ending.error, KeyboardInterrupt), ending
        _well(job.again(out))
        assert left(out) == job.whole, f"killed at change {at}"
        shutil.rmtree(out)


@troubles(*FAULTS)
def test_a_full_or_failing_disk_is_told_and_costs_nothing(
    job: Job, kind: Trouble, cases: int, tmp_path: Path
) -> None:
    for at in _places(job, kind, cases):
        out = tmp_path / str(at)
        ending = job.disturbed(out, at, kind)
        assert ending.killed_by is None
        # What is only swept or unlocked may fail without harm.
        assert ending.error is None or isinstance(ending.error, OSError), ending.trace
        _well(job.again(out))
        assert left(out) == job.whole, f"failed at change {at}"
        shutil.rmtree(out)


@troubles("another")
def test_two_in_one_folder_take_turns(job: Job, kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(job.before, out)
    ending: Any = forked(jobs.beside_another, job.name, (job.images, out))
    assert isinstance(ending.error, RuntimeError), ending
    assert "another process works in" in str(ending.error)
    _well(job.again(out))
    assert left(out) == job.whole
