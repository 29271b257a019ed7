"""A run and its report held against the digests of both, and its tables computed again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from emergence_ext.report import emergence
from emergence_ext.report.files import TABLES, table_text
from emergence_ext.report.receipts import compare_receipts
from emergence_ext.run import FinishedRun, RunFolder, Verification, recompute, verify
from emergence_ext.store import StoreError


def verify_run(
    folder: Path | str, report: Path | None = None, *, recompute: bool = False
) -> Verification:
    """Read every file of a run and compare it with what was noted of it.

    Args:
        folder: of the run.
        report: a page to compare; None: the run's, where it has one.
        recompute: also compute results and tables again from features and fits.

    Raises:
        FileNotFoundError: no run, or no such report.

    Examples:
        >>> import emergence_ext as ee
        >>> ee.report.verify_run("runs/demo").wrong
        []
    """
    found = verify(folder)
    inside = RunFolder(Path(folder))
    if report is not None and not report.is_file():
        raise FileNotFoundError(f"report: no file {report}")
    page = report or (inside.report if inside.report.is_file() else None)
    if page is None:
        found.notes.append("there is no report to compare")
    elif not found.wrong:
        found.check("reports", lambda: _compare(inside, page))
    if recompute and not found.wrong:
        found.check("results and tables computed again", lambda: _again(inside.path))
    return found


def _compare(inside: RunFolder, page: Path) -> None:
    wrong = compare_receipts(inside, page)
    if wrong:
        raise StoreError("; ".join(wrong[:6]))


def _again(folder: Path) -> None:
    """Compute the tables of a run from its features and fits, and compare them with its files."""
    run = FinishedRun.open(folder)
    run.__dict__["emergence"] = recompute(run)  # in place of the one that is kept
    for name, rows in emergence.tables(run).items():
        path = folder / TABLES / f"{name}.csv"
        if not path.is_file():
            raise StoreError(f"{path} is not there; make it by `emergence report {folder}`")
        there = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        here = list(csv.reader(io.StringIO(table_text(rows))))
        if len(there) != len(here) or not all(map(_alike, there, here)):
            raise StoreError(f"{path} is another table than the one that is computed again")


def _alike(there: list[str], here: list[str]) -> bool:
    return len(there) == len(here) and all(map(_cell_alike, there, here))


def _cell_alike(there: str, here: str) -> bool:
    if there == here:
        return True
    try:
        a, b = float(there), float(here)
    except ValueError:
        return False
    # Other instruction sets and numbers of threads round otherwise.
    return abs(a - b) <= 1e-4 * max(1.0, abs(a), abs(b))
