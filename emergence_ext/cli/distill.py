"""The command that distils students from the network of a run and shows both in one frame."""

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
    numbers,
    reported,
)


@app.command()
def distill(
    run_dir: RunDir,
    at: Annotated[
        str,
        typer.Option(
            help="Where features are regressed, a student each, comma between: conv (the last "
            "analysed layer), fc (the input of the last fully connected layer), or layers."
        ),
    ] = "conv,fc",
    layer: Annotated[
        str | None, typer.Option(help="Whose regions are drawn; default: the last analysed one.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images; default: the network's.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Epochs to keep, as 0,1,4,16; default: the last.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Distil students from a run's network by feature regression and analyse them in its frame.

    Their training goes on where it was. Tables and figures go into distill/ of the run, and into
    its report (the paper's Fig. 9).

    Example: emergence distill runs/demo --at conv,fc --epochs 4
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies import distill as study

        run = FinishedRun.open(run_dir)
        with run.held():
            result = study.distill(
                run,
                run.subject(device_name(device)),
                [name.strip() for name in at.split(",")],
                layer,
                epochs=epochs,
                checkpoints=numbers(keep, int, "keep") if keep else None,
                random_state=seed,
            )
            run.keep(result, study.NAME)
        page = report.update(run, study.NAME)
        echo_written(run.inside.experiment(study.NAME), page)
