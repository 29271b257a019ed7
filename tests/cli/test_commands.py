"""How commands are listed, heard and stopped."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from emergence_ext import settings
from emergence_ext.cli import app
from emergence_ext.cli.commands import GROUPS, INTERRUPTED
from emergence_ext.run import Config, FinishedRun, RunFolder

COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def _call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(x) for x in arguments])


def test_every_command_is_listed_once_in_its_group_and_in_the_order_of_use() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(COMMANDS)
    said = _call("--help").stdout
    places = [said.index(f"\n{group}:") for group in GROUPS]
    places += [said.index(f"\n  {name} ") for name in names]
    assert places[: len(GROUPS)] == sorted(places[: len(GROUPS)])
    assert places[len(GROUPS) :] == sorted(places[len(GROUPS) :])
    assert "..." not in said.partition("Start:")[2], "sentences stand whole"


@pytest.mark.parametrize("option", ["--checkpoints", "--data"])
def test_a_pattern_that_the_shell_took_apart_is_asked_about(option: str) -> None:
    given = ["run", "--data", "d", "--model", "m", "--out", "o", option, "e_0.pt", "e_1.pt"]
    done = _call(*given)
    assert done.exit_code == 2 and "(e_1.pt). Is the pattern in quotes, as --" in done.stderr


def test_look_asks_first_for_what_it_is_to_look_at() -> None:
    done = _call("look")
    assert done.exit_code == 2 and "the folder of a run, or --data and --model" in done.stderr


def test_there_is_nothing_to_open_where_there_is_no_run(tmp_path: Path) -> None:
    done = _call("open", tmp_path)
    assert done.exit_code == 2 and "holds no finished run" in done.stderr


def test_help_loads_no_more_than_it_needs() -> None:
    program = (
        "import sys\n"
        "from emergence_ext.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, capture_output=True)


def test_the_package_is_the_command() -> None:
    said = [
        subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, timeout=300)
        for module in ("emergence_ext", "emergence_ext.cli")
    ]
    assert said[0].returncode == 0 and said[0].stdout == said[1].stdout


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["-q", "verify", "x"], logging.ERROR),
        (["verify", "-q", "x"], logging.ERROR),
        (["verify", "x", "--quiet"], logging.ERROR),
        (["verify", "x"], logging.INFO),
        (["verify", "x", "-v"], logging.DEBUG),
        (["-q", "verify", "x", "-v"], logging.DEBUG),
    ],
)
def test_how_much_is_said_may_stand_anywhere(arguments: list[str], level: int) -> None:
    assert _call(*arguments).exit_code
    assert logging.getLogger("emergence_ext").level == level


@pytest.mark.parametrize(
    ("command", "said"),
    [("run", "stopped; run again to go on"), ("plan", "stopped")],
)
def test_an_interrupt_says_whether_the_command_can_go_on(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emergence_ext.cli.network.analysis", interrupted)
    monkeypatch.setattr("emergence_ext.cli.plan.analysis", interrupted)
    result = _call(command, "--data", "x", "--model", "small_vgg28", "--out", "y")
    assert result.exit_code == INTERRUPTED
    assert result.stderr.splitlines() == [said] and not result.stdout


def test_an_interrupt_ends_all_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FinishedRun, "open", interrupted)
    result = _call("reproduce", "a", "b")
    assert result.exit_code == INTERRUPTED
    assert result.stdout.count("---") == 1


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    Config(command="emergence run --data photos --out x").write(RunFolder(tmp_path).config)
    result = _call("report", tmp_path)
    assert result.exit_code == 1
    assert "is not finished" in result.stderr
    assert "`emergence run --data photos --out x` goes on where it was" in result.stderr
    assert result.stderr.count("\n") == 1


def test_every_choice_of_words_is_in_the_help_of_an_option() -> None:
    options = [option for command in COMMANDS.values() for option in command.params]
    said = " ".join(option.help or "" for option in options)
    for name, choices in vars(settings).items():
        if re.match(r"[A-Z][a-z]", name) and get_args(choices) and name != "Any":
            assert all(re.search(rf"\b{word}\b", said) for word in get_args(choices)), name


def test_the_shell_is_told_how_to_complete() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [sys.executable, "-m", "emergence_ext"],
            env={"_EMERGENCE_COMPLETE": f"source_{shell}", "PATH": "", **_environment()},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "_EMERGENCE_COMPLETE" in done.stdout, done.stderr


def _environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if k in ("PYTHONPATH", "HOME")}


def test_torch_that_is_not_installed_is_named_in_a_line() -> None:
    said = "emergence_ext needs torch, which is not installed here: pip install torch"
    without = "import sys; sys.modules['torch'] = None; "
    program = without + "from emergence_ext.cli import app; app(['doctor'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    program = without + "import emergence_ext as ee; ee.data"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.endswith(f"ModuleNotFoundError: {said}\n")
