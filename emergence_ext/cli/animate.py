"""The command that makes a film of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import RunDir, reported
from emergence_ext.cli.terminal import closing, echo


@command()
def animate(
    run_dir: RunDir,
    fps: Annotated[int, typer.Option(help="Frames a second.")] = 24,
    seconds: Annotated[float, typer.Option(help="Length of the film.")] = 12.0,
) -> None:
    """Make a film of the regions, through training and through the layers.

    It goes into animate/ of the run, and its report has a link: MP4, or GIF where imageio-ffmpeg is
    absent.

    Example: emergence animate runs/demo --seconds 8
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import FinishedRun

        run = FinishedRun.open(run_dir)
        with run.held():
            film = report.animate(run, fps=fps, seconds=seconds)
            page = report.refresh(run)
        echo(f"film: {film}")
        closing(page or film)
