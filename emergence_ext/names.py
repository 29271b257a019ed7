"""Names that users' folders, files, networks and columns bring, where they leave the program."""

from __future__ import annotations

import re
from typing import Final

# What spreadsheets take for the beginning of a formula (full-width signs too), behind what some of
# them pass over: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA: Final = re.compile(
    r"'*(?:[\t\r\n]|[\s\x00-\x1f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]*"
    r"[=+@\-\uff1d\uff0b\uff20\uff0d])"
)
NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""A plain decimal."""


def printable(text: object) -> str:
    r"""Return text on one line that a terminal can only show, not obey.

    Control characters, marks of direction, lone surrogates and line breaks stand as their codes,
    as Python writes them in a string: `\x1b`, `\u202e`, `\n`.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def to_cell(text: str) -> str:
    """Return text as a cell of a table that no spreadsheet runs: with an apostrophe before it.

    Only what could be a formula gets one; a plain number is none. `from_cell` takes it off again.
    """
    risky = _FORMULA.match(text) and not NUMBER.fullmatch(text)
    return f"'{text}" if risky else text


def from_cell(cell: str) -> str:
    """Return what `to_cell` was given."""
    return cell[1:] if cell.startswith("'") and to_cell(cell[1:]) != cell[1:] else cell
