"""The command `attack`: what an adversarial attack does to regions."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    RunDir,
    Seed,
    app,
    device_name,
    echo_written,
    reported,
)
from emergence_ext.cli.terminal import echo
from emergence_ext.settings import Attacked, AttackSettings, words


@app.command()
def attack(
    run_dir: RunDir,
    eps: Annotated[
        float,
        typer.Option(
            help="Most that a pixel in 0..1 may change; default: 1/255.", show_default=False
        ),
    ] = AttackSettings.eps,
    step: Annotated[
        float | None, typer.Option(help="Change of a pixel in a step; default: a tenth of eps.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = AttackSettings.steps,
    images: Annotated[
        str, typer.Option(help=f"{words(Attacked)}, or a number: so many of the held-out ones.")
    ] = AttackSettings.images,
    tau: Annotated[
        float | None, typer.Option(help="Threshold of important regions; default: the run's.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Attack a run's network by PGD and follow its regions: what changes, in which layer.

    Images that are right before and wrong after are followed (the paper's Fig. 7, 8, 15). Tables
    and figures go into attack/ of the run, in place of an earlier attack's, and into its report.

    Example: emergence attack runs/demo --eps 0.1
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies import attack as study

        settings = AttackSettings(eps, step, steps, tau, images, seed)
        run = FinishedRun.open(run_dir)
        with run.held():
            result = study.attack(
                run.subject(device_name(device)), run.emergence, run.learned(), settings
            )
            run.keep(result, study.NAME)
        rate = result.success()
        echo(
            f"{len(result.astray)} of {len(result.names)} images that were right are wrong after "
            f"the attack: {rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
        )
        if not len(result.astray):
            echo(
                f"no adversarial success: the network withstands eps = {255 * eps:g}/255 in "
                f"{steps} steps, so there are no regions to compare and no figures. Give a larger "
                "--eps or more --steps.",
                err=True,
            )
        elif not bool((result.p > result.tau).any()):
            echo(
                f"no knowledge points at all: no region has p > {result.tau:g} for the category "
                "before or after, in any layer; lower --tau",
                err=True,
            )
        page = report.update(run, study.NAME)
        echo_written(run.inside.experiment(study.NAME), page)
