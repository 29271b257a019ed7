"""The examples of the public names run as they stand."""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import emergence_ext as ee
from emergence_ext.report.html.write import write_page

SLOW = {
    "data.Scenes",  # as of digits
    "analyze",  # a whole run
    "digits",  # a file of text that takes seconds to read
    "report.animate",
    "report.export",  # every table
    "report.write",
    "run.Forecast",  # all parts of a run are measured
    "run.forecast",
    "run.run",
    "scenes",
}


def _examples() -> Iterator[tuple[str, doctest.DocTest]]:
    """Examples at the top, at the doors of the rooms, and of the modules that these offer."""
    places = [("", ee, sorted(ee._ROOM_OF))]
    rooms = {room: getattr(ee, room) for room in ee._ROOMS}
    places += [(f"{name}.", room, room.__all__) for name, room in rooms.items()]
    for name, room in rooms.items():
        modules = inspect.getmembers(room, inspect.ismodule)
        offered = [(inner, module) for inner, module in modules if inner in room.__all__]
        places += [(f"{name}.{inner}.", module, _own(module)) for inner, module in offered]
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


def _own(module: ModuleType) -> list[str]:
    """Names of what a module defines for others."""
    return [
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


EXAMPLES = dict(_examples())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, finished_run: Path) -> Path:
    """What the examples find beside them: a folder of photos, and a finished run."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(image_folder, folder / "photos")
    shutil.copytree(finished_run, folder / "runs" / "demo")
    return folder


def _lacking(place: Any) -> list[str]:
    """Classes and functions that a door offers without an example."""
    things = {name: inspect.unwrap(getattr(place, name)) for name in place.__all__}
    return [
        name
        for name, thing in things.items()
        if (inspect.isclass(thing) or inspect.isroutine(thing))
        and ">>>" not in (thing.__doc__ or "")
    ]


@pytest.mark.parametrize("room", ["", *ee._ROOMS])
def test_every_class_and_function_has_an_example(room: str) -> None:
    place = getattr(ee, room) if room else ee
    assert not (hasattr(place, "__all__") and _lacking(place))


def _cases(*, figures: bool) -> list[Any]:
    return [
        pytest.param(x, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, x in EXAMPLES.items()
        if name.startswith("figures.") == figures
    ]


@pytest.mark.parametrize("example", _cases(figures=False))
def test_an_example_shows_what_it_says(
    example: doctest.DocTest, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("emergence_ext.report.framed.write", lambda run: write_page(run.folder))
    monkeypatch.setattr("emergence_ext.run.strength.TEMPERATURES", (1.0,))
    assert not any(part.options.get(doctest.SKIP) for part in example.examples)
    said: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("example", _cases(figures=True))
def test_the_example_of_a_figure_draws_it(
    example: doctest.DocTest, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_an_example_shows_what_it_says(example, place, monkeypatch)
