"""The command that makes the paper's two tables, with what the second depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    RunDirs,
    Seed,
    app,
    device_name,
    numbers,
    reported,
    update_report,
    with_interval,
)

if TYPE_CHECKING:
    from emergence_ext.report.tables import Row
    from emergence_ext.run import FinishedRun
    from emergence_ext.studies.ablation import AblationFit, Choices
    from emergence_ext.studies.methods import Outcome


Seeds = Annotated[int, typer.Option(help="Of every method: they move its folds and its start.")]
Temperatures = Annotated[str, typer.Option(help="Of the softmax whose entropy is taken, as 1,2,4.")]
WithAblation = Annotated[
    bool,
    typer.Option(
        "--ablation",
        help="Also learn w, v and Lambda of the first run's last layer under other choices.",
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        help="With --ablation: its images, balanced over the categories; default: 100, or as many "
        "as the frame was fitted to."
    ),
]


@app.command()
def tables(
    run_dirs: RunDirs,
    seeds: Seeds = 5,
    temperatures: Temperatures = "1,2,4",
    with_ablation: WithAblation = False,
    images: Images = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Compare strength with entropy over methods, and with importance (the paper's two tables).

    What finishes is kept in paper_tables/ of each run; tables and figures of all runs go into that
    of the first, and into its report.

    Example: emergence tables runs/demo runs/tiny --ablation
    """
    with reported():
        from emergence_ext.report import paper_tables as made
        from emergence_ext.report.tables import write

        if images is not None and not with_ablation:
            raise ValueError("images: --images is of use only with --ablation")
        at = list(dict.fromkeys(numbers(temperatures, float, "temperatures")))
        where = device_name(device)
        runs = _opened(run_dirs)
        first = next(iter(runs.values()))
        # Before the long work, so that what cannot be done is refused at once.
        default = _default(first, images) if with_ablation else None
        out = first.folder / "paper_tables"
        found = _methods(runs, at, seeds, seed)
        rows = {
            "methods": made.methods(found),
            "configurations": made.configurations(found),
            "importance": made.networks_importance(
                {name: (run.found, _alpha(run)) for name, run in runs.items()}
            ),
            "paper": made.published(),
        }
        made.draw_methods(out / "figures" / "methods", found)
        drawn = ["methods"]
        if default is not None:
            varied = _ablation(first, default, where, seed)
            rows["ablation"] = made.ablation(varied, default)
            made.draw_ablation(out / "figures" / "ablation", varied, default)
            drawn.append("ablation")
        for name, table in rows.items():
            write(out / "tables" / f"{name}.csv", table)
        update_report(first.folder)
        for row in rows["methods"]:
            typer.echo(_line(row))
        written = [f"tables/{name}.csv" for name in rows] + [f"figures/{x}.png" for x in drawn]
        for path in written:
            typer.echo(out / path)


def _alpha(run: FinishedRun) -> float:
    return float(run.config["settings"]["alpha"])


def _default(run: FinishedRun, images: int | None) -> Choices:
    """What the choices are varied around: the method's defaults, on images that the run has."""
    from emergence_ext.studies.ablation import Choices

    there = int((~run.found.held_out).sum())
    if images is not None and not 8 <= images <= there:
        raise ValueError(
            f"images: expected 8 to {there}, as many as the frame was fitted to, got {images}"
        )
    usual = Choices(alpha=_alpha(run))
    return replace(usual, images=min(usual.images, there) if images is None else images)


def _methods(
    runs: Mapping[str, FinishedRun], temperatures: Sequence[float], seeds: int, seed: int
) -> dict[str, list[Outcome]]:
    """Strength against entropy of every run, by ours and by other methods."""
    from emergence_ext.studies.methods import compare

    found = {}
    for name, run in runs.items():
        features = run.features()
        found[name] = compare(
            features.f,
            features.z,
            features.y,
            temperatures,
            seeds=seeds,
            dim=run.found.frame.dim,
            random_state=seed,
            folder=run.folder / "paper_tables" / "fits",
        )
    return found


def _opened(folders: Sequence[Path]) -> dict[str, FinishedRun]:
    """The runs by the names of their folders, with the folder above where two are called alike."""
    from emergence_ext.run import FinishedRun

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
    low, high = row["Pearson, low"], row["Pearson, high"]
    told = r if isinstance(r, str) else with_interval(r, low, high, "+.3f")
    return (
        f"{row['network']}, temperature {row['temperature']:g}, "
        f"{row['mean entropy (nats)']:.2f} nats, {row['method']}: {told}, "
        f"{row['best configuration']}, images {row['images']}"
    )
