"""The command that does every experiment of the paper: reproduce."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from emergence_ext.cli.animate import animate
from emergence_ext.cli.attack import attack
from emergence_ext.cli.commands import command
from emergence_ext.cli.common import Device, RunDirs, Seed, reported
from emergence_ext.cli.controls import controls
from emergence_ext.cli.distill import distill
from emergence_ext.cli.shapley import shapley
from emergence_ext.cli.tables import tables
from emergence_ext.cli.terminal import echo

EXPERIMENTS = ("tables", "controls", "attack", "shapley", "distill", "animate")


@command(goes_on=True)
def reproduce(
    run_dirs: RunDirs,
    only: Annotated[
        str, typer.Option(help="Experiments, comma between; default: all of them.")
    ] = ",".join(EXPERIMENTS),
    at: Annotated[
        str, typer.Option(help="Where students are taught, as of `emergence distill`.")
    ] = "conv,fc",
    epochs: Annotated[int, typer.Option(help="Passes of each student over the images.")] = 4,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Do every experiment of the paper with finished runs, and put them into their reports.

    The film stays beside the report, in animate/. An experiment that cannot be done is told and the
    others go on. `emergence foreground` is not among them: it needs boxes or masks. What is random
    in the controls has the seed of the run.

    Example: emergence reproduce runs/tiny runs/vgg16 --only tables,attack,shapley
    """
    with reported():
        chosen = _chosen(only)
        started, failed = time.perf_counter(), []
        planned: list[tuple[str, Callable[[], None]]] = []
        for run_dir in run_dirs:
            single = {
                "tables": partial(tables, [run_dir], with_ablation=True, device=device, seed=seed),
                "controls": partial(controls, run_dir, device=device),
                "attack": partial(attack, run_dir, device=device, seed=seed),
                "shapley": partial(shapley, run_dir, device=device, seed=seed),
                "distill": partial(
                    distill, run_dir, at=at, epochs=epochs, device=device, seed=seed
                ),
                "animate": partial(animate, run_dir),
            }
            planned += [(f"{n} of {run_dir}", do) for n, do in single.items() if n in chosen]
        for name, do in planned:
            began = time.perf_counter()
            echo(f"--- {name}")
            try:
                do()
            except typer.Exit:  # which has told why
                failed.append(name)
            echo(f"{time.perf_counter() - began:.0f} s")
        echo(f"--- all of it took {time.perf_counter() - started:.0f} s")
        if failed:
            raise RuntimeError(f"not done: {', '.join(failed)}; the reasons are above")


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",")]
    unknown = sorted(set(names) - set(EXPERIMENTS))
    if unknown:
        raise ValueError(
            f"only: no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}"
        )
    return names
