"""From a finished run alone to everything that people look at: no network, no images needed."""

from __future__ import annotations

import logging
from pathlib import Path

from emergence_ext.report import emergence
from emergence_ext.report.experiments import COMPARISON, EXPERIMENTS
from emergence_ext.report.files import write_results
from emergence_ext.report.headline import headline, warnings
from emergence_ext.report.html.write import write_page
from emergence_ext.run import FinishedRun
from emergence_ext.store import exists

logger = logging.getLogger(__name__)


def write(run: FinishedRun | Path | str) -> Path:
    """Make tables, figures and page of a run, and of the experiments that were done with it.

    Args:
        run: a finished run, or its directory.

    Returns:
        The page, `report.html` in the run directory.

    Raises:
        FileNotFoundError: no finished run there.
        StoreError: a stored result is damaged.
        ImportError: jinja2 is not installed.
    """
    run = run if isinstance(run, FinishedRun) else FinishedRun.open(run)
    for text in warnings(run):
        logger.warning(text)
    write_results(run.folder, emergence.tables(run), emergence.figures(run))
    for experiment in EXPERIMENTS:
        path = run.inside.result(experiment.section.anchor)
        if exists(path):
            experiment.write(run, path)
    name = COMPARISON.section.anchor
    for folder in sorted(run.inside.experiment(name).glob("*/")):
        if exists(folder / name):
            write_comparison(run, folder)
    return _page(run)


def update(run: FinishedRun, name: str) -> Path:
    """Make tables and figures of one experiment anew, and the page with them.

    Args:
        run: a finished run.
        name: of the experiment, as its folder in the run is called.

    Returns:
        The page.

    Raises:
        ValueError: no such experiment.
        StoreError: it was not done with this run, or its result is damaged.
        ImportError: jinja2 is not installed.
    """
    known = {experiment.section.anchor: experiment for experiment in EXPERIMENTS}
    if name not in known:
        raise ValueError(f"name: no experiment {name!r}; there are {', '.join(known)}")
    known[name].write(run, run.inside.result(name))
    return _page(run)


def write_comparison(run: FinishedRun, folder: Path) -> None:
    """Make tables and figures of a comparison with another run, in its folder."""
    COMPARISON.write(run, folder / COMPARISON.section.anchor)


def _page(run: FinishedRun) -> Path:
    return write_page(run.folder, headline=headline(run), warnings=warnings(run))
