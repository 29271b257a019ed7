"""The command that asks whether knowledge points lie on the objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emergence_ext.cli.common import app, reported


@app.command()
def foreground(
    run_dir: Annotated[Path, typer.Argument(help="What `emergence run --out` wrote.")],
    boxes: Annotated[
        Path,
        typer.Option(
            help="CSV file: name, left, top, right, bottom, the latter in shares of the image."
        ),
    ],
) -> None:
    """Count the knowledge points of held-out images that lie on the object, by layer.

    Example: emergence foreground runs/demo --boxes boxes.csv
    """
    with reported():
        from emergence_ext import tables
        from emergence_ext.studies.finished import FinishedRun
        from emergence_ext.studies.foreground import read_boxes

        run = FinishedRun.open(run_dir)
        rows = tables.foreground(run.found, read_boxes(boxes))
        table = run_dir / "foreground" / "tables" / "foreground.csv"
        tables.write(table, rows)
        last = rows[-1]
        if isinstance(last["points"], float):
            typer.echo(
                f"{last['layer']}: {last['points']:.0%} of the points and "
                f"{last['area']:.0%} of the area of {last['images']} images lie inside of boxes"
            )
        typer.echo(table)
