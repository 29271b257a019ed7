"""The plan of the house: rooms on floors, imports that run downwards and go through the doors."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import emergence_ext

PACKAGE = Path(emergence_ext.__file__).parent
ROOT = PACKAGE.parent
FLOORS = (
    ("ops", "store", "figures"),
    ("data", "method", "late_interaction"),
    ("network",),
    ("training", "render", "run"),
    ("mindseye", "lookinside"),
    ("studies",),
    ("report",),
    ("notebook",),
    ("cli",),
)
"""From the ground up: a room imports from the floors below its own."""

ROOMS = [room for floor in FLOORS for room in floor]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
NOT = {("data", "figures"), ("network", "figures"), ("run", "figures"), ("studies", "figures")}
"""Pairs that the floors would allow: only reports know figures."""


class Import(NamedTuple):
    """A name that a file takes from another module of the package."""

    file: Path
    line: int
    module: str  # without emergence_ext
    name: str

    def __str__(self) -> str:
        place = self.file.relative_to(ROOT)
        return f"{place}:{self.line} takes {self.name} from emergence_ext.{self.module}"


def _room(file: Path) -> str:
    """The room of a file; nothing for the modules at the top of the package."""
    return file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else ""


def _imports(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "emergence_ext":
                    yield Import(file, node.lineno, alias.name.partition(".")[2], "*")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: a relative import"
            package, _, module = (node.module or "").partition(".")
            if package == "emergence_ext":
                for alias in node.names:
                    yield Import(file, node.lineno, module, alias.name)


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [each for file in FILES for each in _imports(file)]


def _between_rooms() -> Iterator[tuple[str, str, Import]]:
    """Imports of one room from another, as (from, to, import)."""
    for each in IMPORTS:
        here, there = _room(each.file), (each.module or each.name).split(".")[0]
        if here and there in ROOMS and here != there:
            yield here, there, each


def test_every_folder_is_a_room_with_a_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_few_modules_stand_at_the_top_and_know_no_room_but_by_name() -> None:
    top = sorted(path.stem for path in PACKAGE.glob("*.py"))
    assert len(top) <= 8, top
    for each in IMPORTS:
        if _room(each.file) or each.file.stem in ("__init__", "__main__", "reference"):
            continue
        raise AssertionError(f"{each}: what stands at the top is for all rooms and knows none")


def test_imports_run_down() -> None:
    wrong = [
        str(each)
        for here, there, each in _between_rooms()
        if FLOOR[here] <= FLOOR[there] or (here, there) in NOT
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_between_rooms_go_through_the_doors() -> None:
    wrong = []
    for _, there, each in _between_rooms():
        path = [*each.module.split("."), each.name] if each.module else [each.name]
        assert path[0] == there
        # Every package on the way must offer the next part.
        for depth in range(1, len(path)):
            door = importlib.import_module(".".join(["emergence_ext", *path[:depth]]))
            if hasattr(door, "__path__") and path[depth] not in getattr(door, "__all__", ()):
                wrong.append(str(each))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_says_what_the_room_is_for_and_offers_what_is_there(room: str) -> None:
    door = importlib.import_module(f"emergence_ext.{room}")
    purpose = (door.__doc__ or "").split("\n\n")[0]
    assert len(purpose.split()) >= 5 and purpose.endswith("."), f"{room}: no sentence at the door"
    for name in door.__all__:
        offered = hasattr(door, name) or importlib.import_module(f"emergence_ext.{room}.{name}")
        assert offered, f"{room} offers {name}, which is not there"


def test_the_ops_need_torch_alone() -> None:
    ours = {"emergence_ext", "numpy", "torch", *sys.stdlib_module_names}
    for file in [*(PACKAGE / "ops").glob("*.py"), PACKAGE / "settings.py", PACKAGE / "__init__.py"]:
        # The kernels of a way that is taken only where triton is; nothing imports them before.
        allowed = ours | ({"triton"} if file.name == "narrow_kernels.py" else set())
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed, f"{file}:{node.lineno} imports {name}"


def test_rooms_are_there_after_one_import_that_loads_nothing() -> None:
    program = """
import sys
import emergence_ext as ee
assert not {"torch", "numpy", "matplotlib"} & set(sys.modules), "importing the package is light"
q = __import__("torch").ones(1, 1, 1)
assert ee.ops.maxsim(q, q).item() == ee.reference.maxsim(q, q).item() == 1
assert not {"matplotlib", "scipy", "PIL", "triton"} & set(sys.modules), "the ops need torch alone"
print(ee.lookinside.gradients.saliency, ee.mindseye.minds_eye, ee.render.render, ee.figures.samples)
print(ee.studies.attack.attack, ee.report.write, ee.run.run, ee.method.Frame, ee.FinishedRun)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, cwd=ROOT)


def test_help_needs_no_torch() -> None:
    program = "import sys, emergence_ext.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, cwd=ROOT)


def test_the_plan_for_contributors_names_every_room() -> None:
    plan = (ROOT / "CONTRIBUTING.md").read_text()
    assert [room for room in ROOMS if f"`{room}`" not in plan and f"{room}/" not in plan] == []


def test_tests_stand_in_a_folder_for_each_room() -> None:
    for file in (ROOT / "tests").glob("*/test_*.py"):
        assert file.parent.name in {*ROOMS, "benchmarks", "trust"}, file
