"""One command for every experiment: what it calls, and what it does with those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from emergence_ext import cli
from emergence_ext.cli import reproduce


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """Experiments that only note how they were called; the attack cannot be done."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    def stand_in(name: str) -> Any:
        def experiment(where: Any, **options: Any) -> None:
            calls.append((name, where, options))
            if name == "attack":
                typer.echo("error: no gradient", err=True)
                raise typer.Exit(2)

        return experiment

    for name in reproduce.EXPERIMENTS:
        monkeypatch.setattr(reproduce, name, stand_in(name))
    return calls


def test_every_experiment_of_every_run_is_done_even_after_one_fails(
    called: list[tuple[str, Any, dict[str, Any]]],
) -> None:
    done = CliRunner().invoke(cli.app, ["reproduce", "a", "b", "--seed", "3", "--device", "cpu"])
    assert [name for name, _, _ in called] == [*2 * reproduce.EXPERIMENTS]
    assert called[0][1] == [Path("a")] and called[6][1] == [Path("b")]
    assert [where for name, where, _ in called if name != "tables"] == (
        5 * [Path("a")] + 5 * [Path("b")]
    )
    assert all(options.get("seed", 3) == 3 for _, _, options in called)
    assert called[4][2] == {"at": "conv,fc", "epochs": 4, "device": "cpu", "seed": 3}
    assert done.exit_code == 1
    assert "not done: attack of a, attack of b" in done.output


def test_experiments_can_be_chosen(called: list[tuple[str, Any, dict[str, Any]]]) -> None:
    done = CliRunner().invoke(cli.app, ["reproduce", "a", "--only", "shapley, tables"])
    assert done.exit_code == 0
    assert [name for name, _, _ in called] == ["tables", "shapley"]
    assert "all of it took" in done.output


def test_an_unknown_experiment_is_wrong_use(
    called: list[tuple[str, Any, dict[str, Any]]],
) -> None:
    done = CliRunner().invoke(cli.app, ["reproduce", "a", "--only", "shaply"])
    assert done.exit_code == 2
    assert not called
    assert "no experiment shaply; there are tables, controls" in done.output
