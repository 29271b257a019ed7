"""The command that asks whether knowledge points lie on the objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emergence_ext.cli.common import RunDir, app, existing, reported, update_report, with_interval


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
        from emergence_ext import data
        from emergence_ext.report import tables
        from emergence_ext.run import FinishedRun

        if (boxes is None) == (masks is None):
            raise ValueError("foreground: give either --boxes FILE or --masks DIR")
        existing(boxes=boxes)
        found = FinishedRun.open(run_dir).found
        inside = {}
        if boxes is not None:
            given = data.read_boxes(boxes)
            on_grid = data.boxes_on_grid(list(given.values()), found.grid)
            inside = dict(zip(given, on_grid, strict=True))
        if masks is not None:
            files = data.find_masks(masks, found.names)
            inside = {name: data.mask_on_grid(path, found.grid) for name, path in files.items()}
        rows = tables.foreground(found, inside)
        table = run_dir / "foreground" / "tables" / "foreground.csv"
        tables.write(table, rows)
        last = rows[-1]
        if isinstance(last["points"], float):
            share = with_interval(last["points"], last["points, low"], last["points, high"], ".0%")
            typer.echo(
                f"{last['layer']}: {share} of the points and "
                f"{last['area']:.0%} of the area of {last['images']} images lie on the object"
            )
        update_report(run_dir)
        typer.echo(table)
