"""What the command line says of errors: one line, the exit status, and options that are there."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import emergence_ext
from emergence_ext.cli import app, common
from emergence_ext.lookup import UserCodeError

PACKAGE = Path(emergence_ext.__file__).parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {name for command in COMMANDS.values() for p in command.params for name in p.opts}


def _texts() -> Iterator[tuple[str, str]]:
    """Every text that is raised, as (place, text); what is filled in is left out."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    parts = [
                        part.value
                        for part in ast.walk(argument)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    ]
                    yield f"{file.relative_to(PACKAGE)}:{node.lineno}", "".join(parts)


TEXTS = list(_texts())


def test_no_message_names_an_argument_in_a_way_that_the_command_line_cannot_put() -> None:
    assert len(TEXTS) > 300
    wrong = [x for x in TEXTS if re.search(r"[a-z]_?[a-z]+=(\.\.\.|\[|'|$|[.;,)] )", x[1])]
    assert not wrong, wrong


def test_every_option_in_a_message_is_one() -> None:
    named = [(place, x) for place, text in TEXTS for x in re.findall(r"(?<![\w-])--[a-z-]+", text)]
    build = {"--no-build-isolation", "--no-deps", "--force-reinstall"}
    assert not [each for each in named if each[1] not in OPTIONS | build]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_are_told_as_options_of_the_command(command: str) -> None:
    there = common._options(command)
    assert set(there.values()) <= OPTIONS
    for name, option in there.items():
        assert common.in_options(f"{name}: expected more", command) == f"{option}: expected more"
        assert common.in_options(f"{name} must be more", command) == f"{option} must be more"
        assert common.in_options(f"Lower `{name}`.", command) == f"Lower {option}."
    assert common.in_options("xs: it is. Give `no_such_one`. Done.", command) == "xs: it is. Done."


def test_what_the_command_line_calls_something_else() -> None:
    assert common.in_options("random_state: no", "run") == "--seed: no"
    assert common.in_options("root: no folder x", "run") == "--data: no folder x"
    assert (
        common.in_options("ab: no. Say it by `outputs`.", "run") == "ab: no. Say it by --class-map."
    )
    assert common.in_options("module: no map", "run") == "--model: no map"
    assert common.in_options("images: no folder x", "apply") == "--data: no folder x"
    assert common.in_options("checkpoints: no epoch 7", "train") == "--keep: no epoch 7"
    assert common.in_options("layers: no 'a'", "run") == "--layers: no 'a'"
    assert common.in_options("layers: no 'a'", "shapley") == "--layer: no 'a'"
    assert common.in_options("z: collapsed. Raise `strength_prior`.", "run") == "collapsed."


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (ValueError("a\nb"), "error: a b", 2),
        (UserCodeError("model: mine.py:1 in f: KeyError: `x`"), "mine.py:1 in f: KeyError: `x`", 2),
        (KeyError("k"), "in test_an_error_is_one_line: KeyError: 'k'", 2),
        (SystemExit(3), "in test_an_error_is_one_line: SystemExit: 3", 2),
        (MemoryError(), "error: MemoryError. There is not enough memory", 1),
        (OSError("disk\nfull"), "error: OSError: disk full", 1),
        (OSError(errno.ENOSPC, "No space left", "a/b"), "'a/b'. Make room there, and give", 1),
        (RuntimeError("run: not finished"), "error: run: not finished", 1),
        (RuntimeError("Expected all tensors"), "error: RuntimeError: Expected all tensors", 1),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, line: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as told, common.reported():
        raise error
    said = capsys.readouterr().err
    assert told.value.exit_code == status and line in said and said.count("\n") == 1


def test_an_interrupt_is_nobodys_error() -> None:
    with pytest.raises(KeyboardInterrupt), common.reported():
        raise KeyboardInterrupt


def test_what_torchrun_does_not_share_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    answer = CliRunner().invoke(app, ["report", "no-such-run"])
    assert answer.exit_code == 2
    assert "emergence run alone is shared among them: call report without" in answer.stderr
