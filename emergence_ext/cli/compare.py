"""The command that compares two runs, or two checkpoints of one."""

from __future__ import annotations

from typing import Annotated

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import reported, with_interval
from emergence_ext.cli.terminal import closing, echo

_Name = Annotated[str, typer.Argument(help="A run directory, or RUN_DIR@CHECKPOINT.")]


@command()
def compare(a: _Name, b: _Name) -> None:
    """Say what moved from A to B: two runs of the same regions, or two checkpoints of one.

    Tables and figures go into compare/ of A, and into its report.

    Example: emergence compare runs/demo@epoch1 runs/demo@epoch8
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import FinishedRun, split_address
        from emergence_ext.studies import compare as study

        comparison, run, folder = study.compare_runs(a, b)
        other = FinishedRun.open(split_address(b)[0])
        if run.config.hashes.get("images") != other.config.hashes.get("images"):
            echo(f"{run.folder} and {other.folder} looked at other images", err=True)
        with run.held():
            made_from = {**run.made_from, "emergence of B": other.made_from["emergence"]}
            comparison.save(folder / study.NAME, made_from)
        page = report.update(run, f"{study.NAME}/{folder.name}")
        images = int(comparison.held_out.sum())
        echo(f"from {comparison.a} to {comparison.b}, {images} held-out images, 95 % intervals")
        for line in study.comparable(comparison):
            echo(line)
        for row in study.differences(comparison):
            if row.category is None:
                turned, stronger, reliable = (
                    with_interval(x, "+.2f") for x in (row.turned, row.stronger, row.reliable)
                )
                moved = (
                    with_interval(row.reweighed, "+.2f") if row.reweighed else "in no image of both"
                )
                echo(
                    f"{row.layer}: 1 - cos {turned}, |h| {stronger}, "
                    f"reliable points of an image {reliable}, w moved {moved}"
                )
        echo(f"tables and figures: {folder}")
        closing(page)
