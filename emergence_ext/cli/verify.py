"""The command that reads a run whole and compares it with its digests: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import RunDir, echo, reported


@command()
def verify(
    run_dir: RunDir,
    report: Annotated[
        Path | None,
        typer.Option(help="A copy of the report to compare; default: report.html of the run."),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="Also compute results and tables again, from features and fits."
        ),
    ] = False,
) -> None:
    """Read every file of a run, compare it with its digest, and the report with both.

    Nothing that is read can run code. The exit status is 1 where anything is wrong.

    Example: emergence verify runs/demo --recompute
    """
    with reported():
        from emergence_ext.report import verify_run

        found = verify_run(run_dir, report, recompute=recompute)
        for kind, count in found.read.items():
            echo(f"{kind}: {count} as written")
        for note in found.notes:
            echo(f"note: {note}")
        for line in found.wrong:
            echo(f"wrong: {line}", err=True)
    if found.wrong:
        raise typer.Exit(1)
