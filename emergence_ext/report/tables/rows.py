"""Rows of tables: how they are written, and the columns of a value with its interval."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emergence_ext.method import Interval
from emergence_ext.store import write_file

Row = Mapping[str, Any]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, all with the same columns, to a CSV file; None and NaN are empty cells."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
    write_file(path, text.getvalue().encode())


def interval(name: str, x: Interval | None, none: str = "no points") -> Row:
    """Columns of a value and the ends of its interval; a value that is not there is named."""
    if x is None or x.value != x.value:
        return {name: none, f"{name}, low": None, f"{name}, high": None}
    return {name: x.value, f"{name}, low": x.low, f"{name}, high": x.high}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else value
