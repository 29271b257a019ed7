"""The command that makes the paper's two tables, with what the second depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    Seed,
    app,
    device_name,
    numbers,
    reported,
    update_report,
)

if TYPE_CHECKING:
    from emergence_ext.studies.ablation import AblationFit, Choices
    from emergence_ext.studies.finished import FinishedRun
    from emergence_ext.tables import Row


@app.command()
def tables(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="What `emergence run --out` wrote."),
    ],
    seeds: Annotated[
        int, typer.Option(help="Of every method: they move its folds and its start.")
    ] = 5,
    temperatures: Annotated[
        str, typer.Option(help="Of the softmax whose entropy is taken, as 1,2,4.")
    ] = "1,2,4",
    with_ablation: Annotated[
        bool,
        typer.Option(
            "--ablation",
            help="Also learn w, v and Lambda of the first run's last layer under other choices.",
        ),
    ] = False,
    images: Annotated[
        int, typer.Option(help="Images of the ablation, balanced over the categories.")
    ] = 100,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Compare strength with entropy over methods, and with importance (the paper's two tables).

    What finishes is kept in paper_tables/ of each run; tables and figures of all runs go into that
    of the first.

    Example: emergence tables runs/demo runs/tiny --ablation
    """
    with reported():
        from emergence_ext import paper_tables as made
        from emergence_ext.studies.ablation import Choices
        from emergence_ext.studies.methods import compare
        from emergence_ext.tables import write

        at = numbers(temperatures, float, "temperatures")
        where = device_name(device)
        runs = _opened(run_dirs)
        first = next(iter(runs.values()))
        out = first.folder / "paper_tables"
        found = {}
        for name, run in runs.items():
            features = run.features()
            found[name] = compare(
                features.f,
                features.z,
                features.y,
                at,
                seeds=seeds,
                dim=run.found.frame.dim,
                random_state=seed,
                folder=run.folder / "paper_tables" / "fits",
            )
        regions = {
            name: (run.found, float(run.config["settings"]["alpha"])) for name, run in runs.items()
        }
        rows = {
            "methods": made.methods(found),
            "configurations": made.configurations(found),
            "importance": made.networks_importance(regions),
            "paper": made.published(),
        }
        made.draw_methods(out / "figures" / "methods", found)
        drawn = ["methods"]
        if with_ablation:
            default = Choices(alpha=regions[next(iter(runs))][1], images=images)
            varied = _ablation(first, default, where, seed)
            rows["ablation"] = made.ablation(varied, default)
            made.draw_ablation(out / "figures" / "ablation", varied, default)
            drawn.append("ablation")
        for name, table in rows.items():
            write(out / "tables" / f"{name}.csv", table)
        update_report(first.folder)
        for row in rows["methods"]:
            typer.echo(_line(row))
        for name in rows:
            typer.echo(out / "tables" / f"{name}.csv")
        for name in drawn:
            typer.echo(out / "figures" / f"{name}.png")


def _opened(folders: Sequence[Path]) -> dict[str, FinishedRun]:
    """The runs by the names of their folders, with the folder above where two are called alike."""
    from emergence_ext.studies.finished import FinishedRun

    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise ValueError("RUN_DIR: a run was given twice; give each once")
    short = [path.name for path in whole]
    names = short if len(set(short)) == len(short) else [str(path) for path in whole]
    return {name: FinishedRun.open(path) for name, path in zip(names, folders, strict=True)}


def _ablation(
    run: FinishedRun, default: Choices, device: str, seed: int
) -> list[tuple[str, AblationFit]]:
    """Vary the choices on the last layer of the finished network and the images that M has seen."""
    from emergence_ext.studies.ablation import ablation

    found, features = run.found, run.features()
    fitted = ~found.held_out
    return ablation(
        features.layers[found.layers[-1]][fitted].to(device),
        features.z[fitted],
        features.y[fitted],
        found.g[-1, fitted],
        found.frame,
        default,
        random_state=seed,
        folder=run.folder / "paper_tables" / "ablation",
    )


def _line(row: Row) -> str:
    """What is printed of one method at one temperature."""
    r = row["Pearson"]
    told = r if isinstance(r, str) else f"{r:+.3f}"
    low, high = row["Pearson, low"], row["Pearson, high"]
    if low is not None and low == low:
        told += f" ({low:+.3f} to {high:+.3f})"
    return (
        f"{row['network']}, temperature {row['temperature']:g}, "
        f"{row['mean entropy (nats)']:.2f} nats, {row['method']}: {told}, "
        f"{row['best configuration']}, images {row['images']}"
    )
