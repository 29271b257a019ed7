"""The command that asks whether knowledge points lie on the objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import RunDir, reported, with_interval
from emergence_ext.cli.terminal import closing, echo

if TYPE_CHECKING:
    from emergence_ext.run import Emergence
    from emergence_ext.studies.foreground import Objects


@command()
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
        tell_shares(run.emergence, objects)
        page = report.update(run, study.NAME)
        echo(f"tables and figures: {run.inside.experiment(study.NAME)}")
        closing(page)


def tell_shares(e: Emergence, objects: Objects) -> None:
    """Print which share of the points of each layer lies on the object, beside chance."""
    from emergence_ext.studies import foreground as study

    shares = [study.share_of_points(e, objects, k) for k in range(len(e.layers))]
    images, area = shares[-1].images, shares[-1].area
    echo(
        f"knowledge points on the object, in {images} images of which it takes {area:.0%} of the "
        "area (chance):"
    )
    for layer, share in zip(e.layers, shares, strict=True):
        if share.points is None:
            echo(f"  {layer}: no points")
        else:
            right = with_interval(share.reliable, ".0%")
            echo(f"  {layer}: {with_interval(share.points, '.0%')}; of the right ones {right}")
