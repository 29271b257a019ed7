"""The command that asks whether knowledge points lie on the objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emergence_ext.cli.common import RunDir, app, echo_written, reported, with_interval
from emergence_ext.cli.terminal import echo


@app.command()
def foreground(
    run_dir: RunDir,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="CSV file: name, left, top, right, bottom, the latter in shares of the image."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks (PNG), named as the images; what is not 0 is the object."
        ),
    ] = None,
) -> None:
    """Count the knowledge points of held-out images that lie on the object, by layer.

    Beside their share stands that of the image's area, which is chance. The table goes into
    foreground/ of the run, and into its report (the paper's Fig. 6, 14).

    Example: emergence foreground runs/demo --boxes boxes.csv
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies import foreground as study

        run = FinishedRun.open(run_dir)
        objects = study.find_objects(run.emergence, boxes=boxes, masks=masks)
        with run.held():
            run.keep(objects, study.NAME)
        last = study.share_of_points(run.emergence, objects)
        if last.points is not None:
            echo(
                f"{run.emergence.layers[-1]}: {with_interval(last.points, '.0%')} of the points "
                f"and {last.area:.0%} of the area of {last.images} images lie on the object"
            )
        page = report.update(run, study.NAME)
        echo_written(run.inside.experiment(study.NAME), page)
