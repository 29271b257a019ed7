"""The processes of a job: the same bits whatever their number; one that dies ends all."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext import parallel
from emergence_ext.store import ShardStore
from tests import members
from tests.members import together
from tests.trust.forked import Ending
from tests.trust.jobs import left


def _values(endings: list[Ending]) -> list[Any]:
    for ending in endings:
        assert ending.error is None and ending.killed_by is None, ending.trace or ending
    return [ending.value for ending in endings]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in folder.iterdir() if x.name != ".lock"}


def test_alone_nothing_waits() -> None:
    with parallel.job():
        assert (parallel.rank(), parallel.world(), parallel.leads()) == (0, 1, True)
        parallel.barrier()
        assert parallel.first(lambda: 3) == 3
        assert torch.equal(parallel.gathered(torch.ones(2))[0], torch.ones(2))
        parallel.require_same({"images": "i"})
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_fits_have_the_same_bits_whatever_the_number_of_processes(tmp_path: Path) -> None:
    (alone,) = _values(together(1, members.fits, tmp_path))
    for world in (2, 4):
        for found in _values(together(world, members.fits, tmp_path)):
            assert found == alone, world


@pytest.mark.slow
def test_shards_are_shared_and_a_job_of_another_size_goes_on(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for each in (whole, folder):
        each.mkdir()
    shares = _values(together(2, members.shards, whole))
    assert sorted(chain(*shares)) == list(range(0, 101, 5)) and min(map(len, shares)) > 9

    ended = together(2, members.shards, folder, 50)
    assert [x.killed_by for x in ended] == [None, 9]
    assert isinstance(ended[0].error, parallel.PeerError), ended[0]
    assert "start the job again, with any number of processes" in str(ended[0].error)
    there = [int(x.stem[-5:]) for x in (folder / "rows").glob("shard-*.json")]
    assert len(there) > 2
    again = _values(together(3, members.shards, folder))
    assert sorted(chain(*again)) == [x for x in range(0, 101, 5) if x // 10 not in there]
    assert _bytes(folder / "rows") == _bytes(whole / "rows")
    ShardStore(folder / "rows").verify()


def test_what_is_not_kept_is_made_by_all_and_kept_once(tmp_path: Path) -> None:
    (alone, _), *_ = _values(together(1, members.make_and_keep, tmp_path))
    (tmp_path / "fit.json").unlink()
    for found, made in _values(together(2, members.make_and_keep, tmp_path)):
        assert made == 1 and found == alone


@pytest.mark.parametrize(
    ("keep_features", "many"),
    [
        (0, 2),
        pytest.param(0, 4, marks=pytest.mark.slow),
        pytest.param(1000, 2, marks=pytest.mark.slow),
    ],
    ids=["streamed by two", "streamed by four", "kept"],
)
def test_a_run_is_the_same_whatever_the_number_of_processes(
    keep_features: int, many: int, image_folder: Path, training: Path, tmp_path: Path
) -> None:
    for world in (1, many):
        given = (str(world), image_folder, training, keep_features)
        _values(together(world, members.analyse, tmp_path, *given))
    assert left(tmp_path / str(many)) == left(tmp_path / "1")


@pytest.mark.parametrize("max_memory", [2**20, 0], ids=["kept", "not kept"])
def test_images_are_checked_together(max_memory: int, image_folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(image_folder, tmp_path / "images"))
    for name in ("red/03.png", "blue/15.png"):
        (root / name).write_bytes(b"no image")
    (alone,) = _values(together(1, members.images, tmp_path, root, max_memory, False))
    assert [name for name, _ in alone[3]] == ["blue/15.png", "red/03.png"] and len(alone[1]) == 46
    for found in _values(together(3, members.images, tmp_path, root, max_memory, False)):
        assert found == alone
    for ending in together(2, members.images, tmp_path, root, max_memory, True):
        assert "process 1 of 2 sees other images than process 0" in str(ending.error)


def test_processes_that_see_other_data_are_refused(tmp_path: Path) -> None:
    for ending in together(3, members.see_others, tmp_path):
        assert isinstance(ending.error, ValueError)
        assert "process 2 of 3 sees other images than process 0" in str(ending.error)


def test_an_error_of_one_ends_all(tmp_path: Path) -> None:
    errors = [ending.error for ending in together(2, members.one_fails, tmp_path)]
    assert isinstance(errors[0], parallel.PeerError) and str(errors[1]) == "only here"
