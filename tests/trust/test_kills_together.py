"""A job of several processes that are killed: the next, of any number, ends as if nothing was."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.trust import jobs
from tests.trust.elastic import ALL, launched
from tests.trust.forked import Ending, forked
from tests.trust.jobs import left


@pytest.fixture(scope="module")
def before(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training, which jobs begin with."""
    folder = tmp_path_factory.mktemp("before")
    _well(forked(jobs.train, image_folder, folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["one", "all"])
@pytest.mark.parametrize("job", ["run", "stream"])
def test_killed_it_goes_on_with_any_number_of_processes(
    job: str, victims: str, cases: int, before: Path, image_folder: Path, tmp_path: Path
) -> None:
    work, struck = jobs.JOBS[job], 0
    alone, beside = (Path(shutil.copytree(before, tmp_path / name)) for name in ("1", "2"))
    _well(forked(work, image_folder, alone))
    whole, ending = left(alone), launched(2, work, image_folder, beside)
    _well(ending)
    assert left(beside) == whole
    draw = random.Random(f"{job} {victims}")
    for case in range(cases):
        out = Path(shutil.copytree(before, tmp_path / f"case {case}"))
        world, again, after = draw.choice([2, 3]), draw.choice([1, 2, 4]), draw.random()
        victim = ALL if victims == "all" else draw.randrange(world)
        killed = launched(world, work, image_folder, out, victim=victim, after=after * ending.value)
        struck += killed.error is not None or killed.killed_by is not None
        there = _shards(out)
        _well(launched(again, work, image_folder, out))
        assert left(out) == whole, f"{victim} of {world} killed after {after:.2f} of the time"
        assert there.items() <= _shards(out).items(), "a full shard was lost"
        shutil.rmtree(out)
    assert struck or cases < 5


def _shards(folder: Path) -> dict[Path, int]:
    """When each shard was finished."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("shard-*.json")}


def _well(ending: Ending) -> None:
    assert ending.error is None and ending.killed_by is None, ending.trace or ending
