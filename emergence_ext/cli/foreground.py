"""The command that asks whether knowledge points lie on the objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emergence_ext.cli.common import app, reported, update_report


@app.command()
def foreground(
    run_dir: Annotated[Path, typer.Argument(help="What `emergence run --out` wrote.")],
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

    Example: emergence foreground runs/demo --boxes boxes.csv
    """
    with reported():
        from emergence_ext import tables
        from emergence_ext.studies import foreground as study
        from emergence_ext.studies.finished import FinishedRun

        found = FinishedRun.open(run_dir).found
        if boxes is not None and masks is None:
            given = study.read_boxes(boxes)
            on_grid = study.boxes_on_grid(list(given.values()), found.grid)
            inside = dict(zip(given, on_grid, strict=True))
        elif masks is not None and boxes is None:
            files = study.find_masks(masks, found.names)
            inside = {name: study.mask_on_grid(path, found.grid) for name, path in files.items()}
        else:
            raise ValueError("foreground: give either --boxes FILE or --masks DIR")
        rows = tables.foreground(found, inside)
        table = run_dir / "foreground" / "tables" / "foreground.csv"
        tables.write(table, rows)
        last = rows[-1]
        if isinstance(last["points"], float):
            typer.echo(
                f"{last['layer']}: {last['points']:.0%} of the points and "
                f"{last['area']:.0%} of the area of {last['images']} images lie on the object"
            )
        update_report(run_dir)
        typer.echo(table)
