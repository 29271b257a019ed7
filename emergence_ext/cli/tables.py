"""The command that makes the paper's two tables, with what the second depends on."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    RunDirs,
    Seed,
    app,
    device_name,
    echo_written,
    numbers,
    reported,
    with_interval,
)
from emergence_ext.cli.terminal import echo

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
        from emergence_ext import report
        from emergence_ext.method import student_interval
        from emergence_ext.studies import paper_tables as study

        runs = study.open_runs(run_dirs)
        first = next(iter(runs.values()))
        with ExitStack() as held:
            for each in runs.values():
                held.enter_context(each.held())
            result = study.paper_tables(
                runs,
                list(dict.fromkeys(numbers(temperatures, float, "temperatures"))),
                seeds=seeds,
                with_ablation=with_ablation,
                images=images,
                device=device_name(device),
                random_state=seed,
            )
            others = {f"emergence of {n}": r.made_from["emergence"] for n, r in runs.items()}
            first.keep(result, study.NAME, others)
        for network, outcomes in result.methods.items():
            for o in outcomes:
                echo(
                    f"{network}, temperature {o.temperature:g}, {o.mean_entropy:.2f} nats, "
                    f"{o.method}: {with_interval(student_interval(o.r), '+.3f')}, "
                    f"{o.configuration}, images {'not fitted' if o.left_out else 'fitted'}"
                )
        page = report.update(first, study.NAME)
        echo_written(first.inside.experiment(study.NAME), page)
