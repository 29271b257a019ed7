"""The command that makes a film of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext.cli.common import RunDir, app, reported, subject_of


@app.command()
def animate(
    run_dir: RunDir,
    fps: Annotated[int, typer.Option(help="Frames a second.")] = 24,
    seconds: Annotated[float, typer.Option(help="Length of the film.")] = 12.0,
) -> None:
    """Make a film of the regions, through training and through the layers.

    It is written to animate/ of the run: MP4, or GIF where imageio-ffmpeg is absent.

    Example: emergence animate runs/demo --seconds 8
    """
    with reported():
        import torch

        from emergence_ext.report import film as animation
        from emergence_ext.run import FinishedRun

        run = FinishedRun.open(run_dir)
        subject = subject_of(run)
        images = None
        if subject is not None:
            chosen = animation.shown_samples(run.found).tolist()
            images = torch.stack([subject.dataset[index][0] for index in chosen])
        path = run_dir / "animate" / "emergence"
        typer.echo(animation.animate(run.found, path, images, fps=fps, seconds=seconds))
