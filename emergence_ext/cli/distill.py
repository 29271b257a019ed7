"""The command that distils students from the network of a run and shows both in one frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    RunDir,
    Seed,
    app,
    device_name,
    numbers,
    reported,
    update_report,
)

if TYPE_CHECKING:
    from emergence_ext.studies.distill import Distillation


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
        from emergence_ext.run import FinishedRun, settings_of
        from emergence_ext.studies import distill as study
        from emergence_ext.training import RECIPES, Recipe

        run = FinishedRun.open(run_dir)
        shown = run.found.layers[-1] if layer is None else layer
        settings = settings_of(run.config)
        subject = run.subject(device_name(device))
        places = study.find_places(subject, [name.strip() for name in at.split(",")], shown)
        train_set = study.training_images(subject)
        recipe = RECIPES.get(run.config["subject"]["model"], Recipe())
        recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
        students = [
            study.train_student(
                subject,
                place,
                train_set,
                recipe,
                folder=study.student_folder(run, place),
                grid=run.found.grid,
                checkpoints=numbers(keep, int, "keep") if keep else None,
                random_state=seed,
            )
            for place in places
        ]
        students.append(study.fitted_again(run))
        found = study.distillation(run.found, run.learned().samples, students, settings)
        _write(found, run_dir / "distill", shown)
        update_report(run_dir)
        typer.echo(run_dir / "distill")


def _write(found: Distillation, out: Path, layer: str) -> None:
    """Write the result with its tables and figures."""
    from emergence_ext.report import drawing, tables

    found.save(out / "distill")
    rows = {
        "networks": tables.distilled_networks(found),
        "knowledge": tables.distilled_knowledge(found),
        "regions": tables.distilled_regions(found),
    }
    for name, table in rows.items():
        tables.write(out / "tables" / f"{name}.csv", table)
    drawing.draw_distillation(out / "figures", found, layer)
