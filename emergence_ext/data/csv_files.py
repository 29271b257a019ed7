"""CSV files that users bring: keypoints, boxes, attributes, labels."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from emergence_ext.data.reading import read_bytes
from emergence_ext.names import from_cell

__all__ = ["CsvFile", "read_csv"]


@dataclass(frozen=True)
class CsvFile:
    """What a CSV file holds, without white space around its cells.

    Attributes:
        columns: names in the first line, but for empty ones.
        rows: where a line is, for errors, and its cells by column, empty where it is too short.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, dict[str, str]]]


def read_csv(path: Path | str, argument: str) -> CsvFile:
    r"""Read a CSV file whose first line names its columns, in UTF-8, with or without a BOM.

    The apostrophe that tables of this package have before a name such as `=1` is taken off.

    Args:
        path: the file; empty lines are skipped.
        argument: what to call it in an error.

    Raises:
        ValueError: no regular file, what is no CSV or no UTF-8, a column that is named twice, or a
            line with more cells than columns.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> _ = Path("people.csv").write_text("name,age\nAnn,31\n")
        >>> data.read_csv(Path("people.csv"), "annotators").rows
        [('annotators: line 2 of people.csv', {'name': 'Ann', 'age': '31'})]
    """
    content = read_bytes(path, argument)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{argument}: line {number} of {path} is not in UTF-8; save the file as UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    lines: list[tuple[str, list[str]]] = []
    start, end = f"{argument}: line ", f" of {path}"
    try:
        for row in reader:
            cells = [from_cell(cell.strip()) for cell in row]
            if any(cells):
                lines.append((f"{start}{reader.line_num}{end}", cells))
    except csv.Error as error:
        raise ValueError(f"{start}{reader.line_num}{end} is no CSV ({error})") from None
    if not lines:
        return CsvFile([], [])
    (first, header), *rest = lines
    columns = [column for column in header if column]
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{first} names the column {twice!r} twice")
    rows = []
    for where, cells in rest:
        if any(cells[len(header) :]):
            raise ValueError(
                f"{where} has more cells than the {len(header)} columns; put quotation marks "
                "around a cell that holds a comma"
            )
        named = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
        named.pop("", None)  # a column without a name
        rows.append((where, named))
    return CsvFile(columns, rows)
