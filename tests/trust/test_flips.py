"""One bit of a run is turned over, anywhere: `verify` notices, and no number is made of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from emergence_ext.report.verify import verify_run
from tests.trust import jobs
from tests.trust.forked import forked


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training, its run, an attack and a report, in one folder."""
    out = tmp_path_factory.mktemp("flips") / "run"
    ending = forked(jobs.everything, image_folder, out)
    assert ending.error is None and ending.killed_by is None, ending.trace
    return out


def test_a_whole_run_is_found_whole(run: Path) -> None:
    found = verify_run(run, None, recompute=False)
    assert not found.wrong, found.wrong
    assert sum(found.read.values()) > 20


def test_any_bit_that_is_turned_over_is_noticed(run: Path, cases: int, tmp_path: Path) -> None:
    files = [
        path.relative_to(run)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors", ".csv", ".html")
        and "resume" not in path.parts
    ]  # fmt: skip
    assert {path.suffix for path in files} == {".json", ".safetensors", ".csv", ".html"}
    generator = random.Random(0)
    unnoticed = []
    for case in range(70 * cases):
        copy = tmp_path / str(case)
        shutil.copytree(run, copy, copy_function=_linked)
        # Of every kind equally many, whatever their sizes.
        suffix = generator.choice([".json", ".safetensors", ".csv", ".html"])
        name = generator.choice([path for path in files if path.suffix == suffix])
        content = bytearray((run / name).read_bytes())
        place = generator.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        (copy / name).unlink()
        (copy / name).write_bytes(content)
        if not verify_run(copy, None, recompute=False).wrong:
            unnoticed.append(f"bit {place % 8} of byte {place // 8} of {name}")
        shutil.rmtree(copy)
    assert not unnoticed, unnoticed


def _linked(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target
