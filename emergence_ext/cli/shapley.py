"""The command that holds w against Shapley values: shapley."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import (
    Device,
    RunDir,
    Seed,
    device_name,
    reported,
    with_interval,
)
from emergence_ext.cli.terminal import closing, echo
from emergence_ext.settings import ShapleySettings


@command()
def shapley(
    run_dir: RunDir,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers by the names of the run, comma between; default: its last."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Images at most, of those that w was learned on; default: all."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Permutations of an image at most.")
    ] = ShapleySettings.samples,
    error: Annotated[
        float,
        typer.Option(help="Standard error to reach, as a share of the spread over regions."),
    ] = ShapleySettings.error,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Shapley values of regions beside their importance w (the paper's Fig. 5, 16).

    How w, raw strength |F|, Grad-CAM and a random w go with them, as a table and a figure; maps of
    Shapley values and w on images. All of it goes into shapley/ of the run, and into its report.

    Example: emergence shapley runs/demo --layer conv4_1,conv5_1 --images 50
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.method import mean_interval
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies import shapley as study

        run = FinishedRun.open(run_dir)
        subject = run.subject(device_name(device))
        # It was loaded for this command alone, so nobody misses it where it was.
        subject.module.to(subject.device)
        layers = None if layer is None else [name.strip() for name in layer.split(",")]
        with run.held():
            result = study.shapley(
                subject, run.emergence, layers, images,
                samples=samples, error=error, random_state=seed,
            )  # fmt: skip
            run.keep(result, study.NAME)
        missed = int((~result.reached).sum())
        if missed:
            echo(
                f"{missed} of {result.reached.numel()} standard errors are above {error:g} of the "
                f"spread after {samples} permutations; give more --samples",
                err=True,
            )
        for k, name in enumerate(result.layers):
            for measure, r in result.spearman().items():
                mean = with_interval(mean_interval(r[k]), ".2f")
                echo(f"{name}, {measure}: Spearman {mean}")
        page = report.update(run, study.NAME)
        echo(f"tables and figures: {run.inside.experiment(study.NAME)}")
        closing(page)
