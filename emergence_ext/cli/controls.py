"""The command that takes a network's controls through the same fits."""

from __future__ import annotations

import typer

from emergence_ext.cli.common import Device, RunDir, app, device_name, reported, update_report


@app.command()
def controls(
    run_dir: RunDir,
    device: Device = "auto",
) -> None:
    """Repeat a run's fits for random weights and for outputs of other images.

    What finishes is kept. A table and a figure go into controls/ of the run, and into its report.

    Example: emergence controls runs/demo
    """
    with reported():
        from emergence_ext.report import drawing, tables
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies.controls import controls as compare

        run, out = FinishedRun.open(run_dir), run_dir / "controls"
        found = compare(run, run.subject(device_name(device)), folder=out)
        table, figure = out / "tables" / "controls.csv", out / "figures" / "controls"
        tables.write(table, tables.controls(found))
        drawing.draw_controls(figure, found)
        update_report(run_dir)
        for path in (table, figure.with_suffix(".png"), figure.with_suffix(".svg")):
            typer.echo(path)
