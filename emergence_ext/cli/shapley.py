"""The command that holds w against Shapley values: shapley."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from emergence_ext.cli.common import (
    Device,
    RunDir,
    Seed,
    app,
    device_name,
    reported,
    update_report,
    with_interval,
    without_old,
)

if TYPE_CHECKING:
    from emergence_ext.data import Samples
    from emergence_ext.figures import Band
    from emergence_ext.report.tables import Row
    from emergence_ext.studies.shapley import Shapley

SHOWN = 18
"""Images on a sheet of maps."""


@app.command()
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
    samples: Annotated[int, typer.Option(help="Permutations of an image at most.")] = 400,
    error: Annotated[
        float,
        typer.Option(help="Standard error to reach, as a share of the spread over regions."),
    ] = 0.1,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Shapley values of regions beside their importance w (the paper's Fig. 5, 16).

    How w, raw strength |F|, Grad-CAM and a random w go with them, as a table and a figure; maps of
    Shapley values and w on images. All of it goes into shapley/ of the run, and into its report.

    Example: emergence shapley runs/demo --layer conv4_3,conv5_3 --images 50
    """
    with reported():
        from emergence_ext.report import tables
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies.shapley import shapley as study

        run = FinishedRun.open(run_dir)
        subject = run.subject(device_name(device))
        # It was loaded for this command alone, so nobody misses it where it was.
        subject.module.to(subject.device)
        layers = None if layer is None else [name.strip() for name in layer.split(",")]
        result = study(
            subject, run.found, layers, images, samples=samples, error=error, random_state=seed
        )
        folder = without_old(run_dir / "shapley")
        rows = tables.shapley(result)
        tables.write(folder / "tables" / "shapley.csv", rows)
        tables.write(folder / "tables" / "shapley_images.csv", tables.shapley_images(result))
        _draw(result, subject.dataset, folder / "figures")
        result.save(folder / "shapley")
        missed = int((~result.reached).sum())
        if missed:
            typer.echo(
                f"{missed} of {result.reached.numel()} standard errors are above {error:g} of the "
                f"spread after {samples} permutations; give more --samples",
                err=True,
            )
        for row in rows:
            typer.echo(f"{row['layer']}, {row['importance']}: Spearman {_told(row)}")
        update_report(run_dir)
        typer.echo(folder)


def _told(row: Row) -> str:
    mean, low, high = (row[f"Spearman, mean{end}"] for end in ("", ", low", ", high"))
    if isinstance(mean, str):
        return mean
    return with_interval(mean, low, high, ".2f")


def _draw(result: Shapley, dataset: Samples, folder: Path) -> None:
    from emergence_ext import figures
    from emergence_ext.report.drawing import save
    from emergence_ext.run import file_name

    spearman, pearson = result.spearman(), result.pearson()
    save(
        figures.shapley_correlations(
            {name: (r, _band(r)) for name, r in spearman.items()},
            {name: (r, _band(r)) for name, r in pearson.items()},
            result.layers,
        ),
        folder / "correlations",
    )
    order = torch.argsort(result.y, stable=True)
    count = min(SHOWN, len(order))
    shown = order[torch.arange(count) * len(order) // count]
    pixels = torch.stack([dataset[int(i)][0] for i in result.index[shown]])
    for k, layer in enumerate(result.layers):
        save(
            figures.shapley_maps(
                pixels,
                result.values[k, shown],
                result.w[k, shown],
                spearman["w"][k, shown],
                result.grid,
                result.y[shown],
                result.categories,
            ),
            folder / f"maps_{file_name(layer)}",
        )


def _band(r: torch.Tensor) -> Band:
    """Means and intervals of coefficients `[L, n]`, NaN where there is none."""
    from emergence_ext.figures import Band
    from emergence_ext.method import mean_interval

    nan = float("nan")
    found = [mean_interval(row) for row in r]
    return Band(
        *(
            [nan if x is None else getattr(x, end) for x in found]
            for end in ("value", "low", "high")
        )
    )
