"""What a report consists of on disk: tables as CSV, figures as PNG and SVG, in a folder of each."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from emergence_ext.method import Interval
from emergence_ext.names import to_cell
from emergence_ext.store import write_file

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]
Drawings = Mapping[str, Callable[[], Figure] | str]
"""Name of a figure -> what draws it, or why there is none."""

TABLES: Final = "tables"
FIGURES: Final = "figures"
NO_IMAGES: Final = "the images of the run are not there"
LARGEST_SVG: Final = 1_000_000  # bytes
PICTURES: Final = "Pictures"
"""What a PNG file says of itself where it holds pictures, whose colours are not to be turned."""
# Coordinates in an SVG file: a hundredth of a point is beyond any printer, matplotlib writes more.
_PLACES: Final = re.compile(rb'\s(?:d|x|y)="[^"]*"')
_DIGITS: Final = re.compile(rb"(\.\d\d)\d+")
_MANY: Final = 20  # marks, or points of a line


def interval(name: str, x: Interval | None, none: str = "no points") -> Row:
    """Columns of a value and the ends of its interval; a value that is not there is named."""
    if x is None or x.value != x.value:
        return {name: none, f"{name}, low": None, f"{name}, high": None}
    return {name: x.value, f"{name}, low": x.low, f"{name}, high": x.high}


def write_results(folder: Path, tables: Tables, drawings: Drawings) -> None:
    """Write tables and figures into a folder; why a figure cannot be drawn is logged."""
    for name, rows in tables.items():
        write_table(folder / TABLES / f"{name}.csv", rows)
    for name, draw in drawings.items():
        if isinstance(draw, str):
            logger.warning("no figure %s: %s", name, draw)
        else:
            save_figure(draw(), folder / FIGURES / name)


def remove_others(folder: Path, tables: Tables, drawings: Drawings) -> None:
    """Remove tables and figures of an earlier call that would stay beside those just written.

    Figures that only want images stay as they were drawn when the images were there.
    """
    kept = {name for name, draw in drawings.items() if draw == NO_IMAGES or callable(draw)}
    for kind, names in ((TABLES, set(tables)), (FIGURES, kept)):
        for old in (folder / kind).glob("*.*"):
            if old.stem not in names:
                old.unlink()


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, all with the same columns, to a CSV file."""
    # Names of files need not be text.
    write_file(path, table_text(rows).encode("utf-8", "backslashreplace"))


def table_text(rows: Sequence[Row]) -> str:
    """Rows, all with the same columns, as CSV; None and NaN are empty cells.

    A name that a spreadsheet would run as a formula has an apostrophe before it, as `to_cell` says.
    """
    text = io.StringIO()
    if rows:
        # Otherwise csv leaves a carriage return bare, which ends a line for every reader.
        plain, quoted = (
            csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=how)
            for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        for row in ({name: name for name in rows[0]}, *rows):
            cells = {name: _cell(value) for name, value in row.items()}
            broken = any("\r" in str(cell) for cell in cells.values())
            (quoted if broken else plain).writerow(cells)
    return text.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as `path.png` (200 dots per inch) and `path.svg`.

    An SVG file beyond `LARGEST_SVG` holds its many marks as pixels instead.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # all stands where it is: no need to find that out again
    write_file(path.with_name(f"{path.name}.png"), _saved(figure, "png", path.name))
    drawn = _saved(figure, "svg", path.name)
    if len(drawn) > LARGEST_SVG:
        for marks in figure.findobj(_many_marks):
            marks.set_rasterized(True)
        drawn = _saved(figure, "svg", path.name)
    write_file(path.with_name(f"{path.name}.svg"), drawn)


def _saved(figure: Figure, kind: str, name: str) -> bytes:
    content = io.BytesIO()
    # Without a date and with a salt of their own, SVG files of equal figures are equal.
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    if kind == "png" and figure.findobj(_is_picture):
        metadata[PICTURES] = "yes"
    with matplotlib.rc_context({"svg.hashsalt": name}):
        # In an SVG file dots are those of marks that became pixels.
        dpi = 200 if kind == "png" else 150
        figure.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    drawn = content.getvalue()
    if kind == "svg":
        drawn = _PLACES.sub(lambda place: _DIGITS.sub(rb"\1", place[0]), drawn)
    return drawn


def _is_picture(artist: Artist) -> bool:
    """Whether colours come from an image rather than from a scale."""
    values = artist.get_array() if isinstance(artist, AxesImage) else None
    return values is not None and values.ndim == 3


def _many_marks(artist: Artist) -> bool:
    if isinstance(artist, Line2D):
        return np.size(artist.get_xdata()) > _MANY
    if isinstance(artist, Collection):
        return max(np.size(artist.get_offsets()) // 2, len(artist.get_paths())) > _MANY
    return False


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    if isinstance(value, str):
        return to_cell(value)
    return "" if value is None else value
