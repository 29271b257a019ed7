"""The command that writes a run for other programs: export."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext import settings
from emergence_ext.cli.commands import command
from emergence_ext.cli.common import Out, RunDir, reported
from emergence_ext.cli.terminal import echo
from emergence_ext.settings import words


@command()
def export(
    run_dir: RunDir,
    out: Out,
    format: Annotated[
        str, typer.Option(help=f"{words(settings.ExportFormat)}; parquet needs pyarrow.")
    ] = "parquet",
) -> None:
    """Write samples, regions and tables of a run as Parquet or CSV, for other programs.

    The run stays as it is. Columns are called as in the tables of the report.

    Example: emergence export runs/demo --out exported --format csv
    """
    with reported():
        from emergence_ext import report

        for path in report.export(run_dir, out, format):
            echo(path)
