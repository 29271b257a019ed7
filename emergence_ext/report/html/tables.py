"""Reading tables for a page; files may be damaged and full of hostile names."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emergence_ext.names import NUMBER, from_cell
from emergence_ext.report.html.numbers import NOTHING, short, shown

ROWS_SHOWN: Final = 500
NO_NUMBER: Final = ("", NOTHING, "no points", "no fit", "undefined")
"""What stands in a column of numbers where there is none."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is shown, and the number it is sorted by, if it is one."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """The shown part of a CSV file."""

    header: list[str]
    rows: list[list[Cell]]
    total: int  # rows in the file
    numeric: list[bool]  # for every column, whether all of its shown cells are numbers


def read_table(path: Path) -> Table | None:
    """Read a CSV file with a header; None where it is absent, empty or no CSV.

    Short rows are filled up, long ones cut, so that a damaged file cannot break the page.
    """
    if not path.is_file():
        return None
    rows: list[list[Cell]] = []
    total = 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.reader(file)
            header = [from_cell(name) for name in next(reader, [])]
            for row in reader:
                if not row:
                    continue
                total += 1
                if total <= ROWS_SHOWN:
                    rows.append([_cell(x) for x in (row + [""] * len(header))[: len(header)]])
    except csv.Error:
        return None
    if not header:
        return None
    header, rows = _with_intervals(header, rows)
    numeric = []
    for k in range(len(header)):
        cells = [row[k] for row in rows]
        filled = all(c.number is not None or c.text in NO_NUMBER for c in cells)
        numeric.append(filled and any(c.number is not None for c in cells))
    return Table(header, rows, total, numeric)


def _with_intervals(
    header: list[str], rows: list[list[Cell]]
) -> tuple[list[str], list[list[Cell]]]:
    """Return the table with "x, low" and "x, high" written into column x; it sorts by x."""
    at = {name: k for k, name in enumerate(header)}
    ends = {
        at[x]: (at[f"{x}, low"], at[f"{x}, high"])
        for x in header
        if {f"{x}, low", f"{x}, high"} <= at.keys()
    }
    gone = {k for pair in ends.values() for k in pair}
    kept = [k for k in range(len(header)) if k not in gone]

    def cell(row: list[Cell], k: int) -> Cell:
        value, low, high = (row[end].number for end in (k, *ends.get(k, (k, k))))
        if k not in ends or value is None or low is None or high is None:
            return row[k]
        return Cell(f"{short(value)} ({short(low)} to {short(high)})", value)

    return [header[k] for k in kept], [[cell(row, k) for k in kept] for row in rows]


def _cell(text: str) -> Cell:
    """Return a cell; only plain decimals are numbers, so a layer "1_2" stays a name."""
    text = from_cell(text).strip()
    if text.lower() == "nan":
        return Cell(NOTHING)
    if not NUMBER.fullmatch(text):
        return Cell(text)
    whole = text.lstrip("+-").isdigit()
    return Cell(text.replace("-", "\u2212") if whole else shown(float(text)), float(text))
