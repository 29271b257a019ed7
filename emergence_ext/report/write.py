"""From a finished run alone to everything that people look at: no network, no images needed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from emergence_ext.lookup import require_kind
from emergence_ext.report import emergence
from emergence_ext.report.beside import Experiments
from emergence_ext.report.experiments import experiments
from emergence_ext.report.files import write_results
from emergence_ext.report.findings import findings
from emergence_ext.report.headline import headline, warnings
from emergence_ext.report.html.write import write_page
from emergence_ext.report.receipts import read_receipts
from emergence_ext.report.view import view_data
from emergence_ext.run import FinishedRun
from emergence_ext.store import Saved, StoreError, exists
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.compare import Comparison
from emergence_ext.studies.foreground import Objects
from emergence_ext.studies.shapley import Shapley

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

    Examples:
        >>> import emergence_ext as ee
        >>> ee.report.write("runs/demo").as_posix()
        'runs/demo/report.html'
    """
    run = run if isinstance(run, FinishedRun) else FinishedRun.open(run)
    with run.held():
        return _write(run)


def _write(run: FinishedRun) -> Path:
    for text in warnings(run):
        logger.warning(text)
    write_results(run.folder, emergence.tables(run), emergence.figures(run))
    left_out = foreign(run)
    for experiment in experiments(run.inside):
        if experiment.section.anchor in left_out:
            logger.warning(
                "%s is left out: it was made from other results than this run has now; do "
                "`emergence %s` again",
                run.inside.experiment(experiment.section.anchor),
                experiment.command,
            )
        path = run.inside.result(experiment.section.anchor)
        if exists(path) and experiment.section.anchor not in left_out:
            experiment.write(run, path)
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

    Examples:
        >>> import emergence_ext as ee
        >>> ee.report.update(ee.FinishedRun.open("runs/demo"), "atack")
        Traceback (most recent call last):
        ...
        ValueError: ...
    """
    require_kind(run=(run, FinishedRun))
    known = {experiment.section.anchor: experiment for experiment in experiments(run.inside)}
    if name not in known:
        raise ValueError(f"name: no experiment {name!r}; there are {', '.join(known)}")
    with run.held():
        path = run.inside.result(name)
        if exists(path) and not run.owns(path):
            raise StoreError(
                f"run: {path} was made from other results than {run.folder} has now; do it again"
            )
        known[name].write(run, path)
        return _page(run) if is_current(run) else _write(run)


def refresh(run: FinishedRun) -> Path | None:
    """Make the page of a run anew where there is one, as where a film or a page beside it is new.

    Returns:
        The page; None where none was written yet.

    Raises:
        StoreError: a stored result is damaged.

    Examples:
        >>> import shutil
        >>> import emergence_ext as ee
        >>> _ = shutil.copytree("runs/demo", "runs/new", ignore=shutil.ignore_patterns("*.html"))
        >>> ee.report.refresh(ee.FinishedRun.open("runs/new")) is None  # none was written there
        True
    """
    require_kind(run=(run, FinishedRun))
    if not run.inside.report.exists():
        return None
    with run.held():
        return _page(run) if is_current(run) else _write(run)


def is_current(run: FinishedRun) -> bool:
    """Whether the page that is there, if any, was made of what the run has found now.

    Examples:
        >>> import emergence_ext as ee
        >>> ee.report.is_current(ee.FinishedRun.open("runs/demo"))
        True
    """
    require_kind(run=(run, FinishedRun))
    try:
        told = read_receipts(run.inside.report) or {}
    except (OSError, StoreError):
        return not run.inside.report.exists()
    return told.get("results", {}).get("emergence") == run.made_from["emergence"]


def foreign(run: FinishedRun) -> list[str]:
    """Names of the experiments whose result in the folder was not made from the run as it is."""
    names = [experiment.section.anchor for experiment in experiments(run.inside)]
    paths = {name: run.inside.result(name) for name in names}
    return [name for name, path in paths.items() if exists(path) and not run.owns(path)]


def _page(run: FinishedRun) -> Path:
    left_out = foreign(run)

    def done(kind: type[Saved]) -> list[Any]:
        return [
            kind.load(run.inside.result(each.section.anchor))
            for each in experiments(run.inside)
            if each.kind is kind
            and each.section.anchor not in left_out
            and exists(run.inside.result(each.section.anchor))
        ]

    attack, shapley, objects = (next(iter(done(kind)), None) for kind in (Attack, Shapley, Objects))
    return write_page(
        run.folder,
        headline=headline(run),
        warnings=[
            *warnings(run),
            *(
                f"{name} is left out: it was made from other results of the run; do it again"
                for name in left_out
            ),
        ],
        left_out=left_out,
        view=view_data(run, Experiments(attack, shapley, done(Comparison))),
        findings=findings(run, attack, objects),
    )
