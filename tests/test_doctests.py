"""The examples of the public names run as they stand."""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import emergence_ext as ee
from emergence_ext.report.html.write import write_page

SLOW = {"analyze", "digits", "scenes"}  # a whole run, a file of text that takes seconds to read


def _examples() -> Iterator[tuple[str, doctest.DocTest]]:
    """Examples of the names at the top of the package, and of those at the doors of its rooms."""
    places = [("", ee, sorted(ee._ROOM_OF))]
    rooms = {room: getattr(ee, room) for room in ee._ROOMS}
    places += [(f"{name}.", room, room.__all__) for name, room in rooms.items()]
    seen = set()
    for before, place, names in places:
        for name in names:
            thing = inspect.unwrap(getattr(place, name))
            ours = getattr(thing, "__module__", "").startswith("emergence_ext")
            if not ours or id(thing) in seen:
                continue
            seen.add(id(thing))
            finder = doctest.DocTestFinder(recurse=False)
            for found in finder.find(thing, before + name, globs={"torch": torch}):
                if found.examples:
                    yield before + name, found


EXAMPLES = dict(_examples())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, finished_run: Path) -> Path:
    """What the examples find beside them: a folder of photos, and a finished run."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(image_folder, folder / "photos")
    shutil.copytree(finished_run, folder / "runs" / "demo")
    return folder


@pytest.mark.parametrize("name", sorted(ee._ROOM_OF))
def test_every_name_at_the_top_has_an_example(name: str) -> None:
    assert name in EXAMPLES


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(x, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, x in EXAMPLES.items()
    ],
)
def test_an_example_shows_what_it_says(
    example: doctest.DocTest,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("emergence_ext.report.framed.write", lambda run: write_page(run.folder))
    monkeypatch.setattr("emergence_ext.run.strength.TEMPERATURES", (1.0,))
    assert not any(part.options.get(doctest.SKIP) for part in example.examples)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)
