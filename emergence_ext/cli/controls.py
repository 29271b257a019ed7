"""The command that takes a network's controls through the same fits."""

from __future__ import annotations

from emergence_ext.cli.common import Device, RunDir, app, device_name, echo_written, reported


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
        from emergence_ext import report
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies import controls as study

        run = FinishedRun.open(run_dir)
        with run.held():
            run.keep(study.controls(run, run.subject(device_name(device))), study.NAME)
        page = report.update(run, study.NAME)
        echo_written(run.inside.experiment(study.NAME), page)
