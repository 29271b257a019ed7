"""The command that looks at new images through the fits of a finished run: apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import Device, app, device_name, echo_written, reported, with_interval
from emergence_ext.cli.terminal import echo

if TYPE_CHECKING:
    from emergence_ext.studies.apply import Applied


@app.command()
def apply(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run directory, or RUN_DIR@CHECKPOINT.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="A folder of images: one folder per category, or any images at all."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the result; default: that of the folder."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Look at new images in the frame of a run: points, similar regions, what is unlike it.

    Nothing is fitted. Tables and figures go into apply/NAME of the run, in place of an earlier
    result of that name, and into its report.

    Example: emergence apply runs/demo --data photos
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import open_at
        from emergence_ext.studies import apply as study

        finished, checkpoint = open_at(run)
        place = study.place(finished, name or data.absolute().name, checkpoint)
        subject, said = study.open_folder(finished, data, checkpoint, device_name(device))
        with finished.held():
            result = study.apply(finished, subject, said, checkpoint)
            finished.keep(result, place, {"new images": subject.dataset.digest()})
        _tell(result)
        echo_written(finished.inside.experiment(place), report.update(finished, place))


def _tell(a: Applied) -> None:
    """Print what was found."""
    known, unlike = int(a.known.sum()), int(a.unlike.sum())
    echo(f"{len(a.names)} new images, {known} of a category of the run, at {a.checkpoint}")
    if known:
        echo(f"accuracy {with_interval(a.accuracy(), '.1%')}")
    for k, layer in enumerate(a.layers):
        points, reliable = a.points_of_an_image(k)
        line = f"{layer}: {with_interval(points, '.1f')} knowledge points of an image"
        more = f"; {with_interval(reliable, '.1f')} reliable ones where its category is known"
        echo(line + more if known else line)
    held_out = a.limit.below[:, 0]
    echo(
        f"{unlike} of {len(a.names)} images are unlike anything in the run "
        f"({unlike / len(a.names):.1%}; expected of images like the run's: {a.limit.expected:.1%}, "
        f"found of its {len(held_out)} held-out ones: {float(held_out.double().mean()):.1%})"
    )
    for i in a.ranked()[: min(unlike, 5)].tolist():
        echo(f"  {a.names[i]}, in {a.layers[int(a.scores[1][i])]}")
