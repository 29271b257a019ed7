"""What a run found as files for other programs: Parquet or CSV, written in blocks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from torch import Tensor

from emergence_ext.lookup import optional
from emergence_ext.method import knowledge_points
from emergence_ext.names import to_cell
from emergence_ext.report import emergence
from emergence_ext.report.experiments import EXPERIMENTS
from emergence_ext.report.files import TABLES, Row, Tables, write_table
from emergence_ext.report.html.tables import NO_NUMBER
from emergence_ext.run import Emergence, FinishedRun, check_place
from emergence_ext.settings import ExportFormat, words
from emergence_ext.store import exists, replace_file

_ROWS: Final = 2**16  # of a block, which is a row group of Parquet
_PROBABILITIES: Final = 2**22  # of a block


@dataclass(frozen=True)
class Named:
    """A column of names: `names[code]` in each row, none where the code is -1."""

    codes: np.ndarray
    names: Sequence[str]


Block = Mapping[str, np.ndarray | Named]
"""Columns of equally many rows: numbers, booleans, names."""


def export(run: FinishedRun | Path | str, out: Path | str, format: str = "parquet") -> list[Path]:
    """Write samples, regions and tables of a run for other programs; the run stays as it is.

    `samples` has a row for each image and checkpoint, `regions` one for each region, image, layer
    and checkpoint, with what it is a knowledge point for, if it is one. The tables are those of the
    report, under the same names. Columns are called alike in all of them. Written in blocks, so
    that beside what the run found itself no memory is needed that grows with it.

    Args:
        run: a finished run, or its directory.
        out: folder for the files; made if it is not there.
        format: "parquet", or "csv", where a name that a spreadsheet would run has an apostrophe
            before it.

    Returns:
        The files.

    Raises:
        ValueError: an unknown format, or `out` is the run's own directory.
        ImportError: pyarrow is not installed.
        FileNotFoundError: no finished run there.
        StoreError: a stored result is damaged.
        OSError: a file cannot be written.

    Examples:
        >>> import emergence_ext as ee
        >>> sorted(path.name for path in ee.report.export("runs/demo", "tables", format="csv"))[-2:]
        ['samples.csv', 'similarity.csv']
    """
    if format not in get_args(ExportFormat):
        raise ValueError(f"format: expected one of {words(ExportFormat)}, got {format!r}")
    if format == "parquet":
        _parquet()
    run = run if isinstance(run, FinishedRun) else FinishedRun.open(run)
    check_place(out)
    out = Path(out)
    if out.resolve() == run.folder.resolve():
        raise ValueError(f"out: {out} is the run itself, which holds its own files; name another")
    e, ending = run.emergence, format
    write_blocks = _write_csv if format == "csv" else _write_parquet
    written = []
    for name, blocks in (("samples", samples(e)), ("regions", regions(e))):
        written.append(out / f"{name}.{ending}")
        replace_file(written[-1], lambda path, blocks=blocks: write_blocks(path, blocks))  # type: ignore[misc]
    for folder, tables in _all_tables(run):
        for name, rows in tables.items():
            written.append(out / folder / TABLES / f"{name}.{ending}")
            if format == "csv":
                write_table(written[-1], rows)
            else:
                replace_file(written[-1], lambda path, rows=rows: _write_rows(path, rows))  # type: ignore[misc]
    return written


def samples(e: Emergence) -> Iterator[Block]:
    """A row for each checkpoint and image: what the network makes of it, and g."""
    for t in range(len(e.labels)):
        says, unsure = e.predicted(t), e.entropy(t)
        for chosen in _blocks(len(e.names), 1, e):
            yield {
                **_of_images(e, t, chosen, 1),
                "network says": Named(says[chosen].numpy(), e.categories),
                "entropy (nats)": unsure[chosen].numpy(),
                **_vectors("g", e.samples(t, chosen)),
            }


def regions(e: Emergence) -> Iterator[Block]:
    """A row for each checkpoint, layer, image and region: h, and what it says of the category.

    A region without strength is no knowledge point, and its p is the prior of the category. One
    that does not count has no row.
    """
    R = e.grid[0] * e.grid[1]
    places = np.arange(R)
    for t in range(len(e.labels)):
        for k in range(len(e.layers)):
            for chosen in _blocks(len(e.names), R, e):
                h, y = e.regions(t, k, chosen), e.y[chosen]
                points = knowledge_points(h, e.frame, y, e.tau)
                p = e.frame.posterior(h).gather(-1, y[:, None, None].expand(-1, R, 1))
                category = torch.where(points.point, points.category, -1)
                count = len(y)
                block: Block = {
                    **_of_images(e, t, chosen, R),
                    "layer": Named(np.full(count * R, k), e.layers),
                    "row": np.tile(places // e.grid[1], count),
                    "column": np.tile(places % e.grid[1], count),
                    **_vectors("h", h.flatten(0, 1)),
                    "p of the true category": p.flatten().numpy(),
                    "knowledge point for": Named(category.flatten().numpy(), e.categories),
                    "reliable": points.reliable.flatten().numpy(),
                }
                yield block if e.mask is None else _rows(block, e.mask[chosen].flatten().numpy())


def _rows(block: Block, kept: np.ndarray) -> Block:
    """Some of the rows of a block, by mask."""
    return {
        name: Named(x.codes[kept], x.names) if isinstance(x, Named) else x[kept]
        for name, x in block.items()
    }


def _blocks(images: int, rows: int, e: Emergence) -> Iterator[slice]:
    """Images in blocks of so many rows each that a block stays small."""
    at_once = min(_ROWS, _PROBABILITIES // len(e.categories))
    size = max(1, at_once // rows)
    return (slice(start, min(start + size, images)) for start in range(0, images, size))


def _of_images(e: Emergence, t: int, chosen: slice, rows: int) -> Block:
    """What is the same in all rows of an image, `rows` times."""
    index = np.arange(chosen.start, chosen.stop).repeat(rows)
    return {
        "checkpoint": Named(np.full(len(index), t), e.labels),
        "epoch": np.full(len(index), e.epochs[t]),
        "image": Named(index - chosen.start, e.names[chosen]),
        "category": Named(e.y.numpy()[index], e.categories),
        "held out": e.held_out.numpy()[index],
    }


def _vectors(symbol: str, x: Tensor) -> Block:
    """Components and length of vectors `[rows, dim]`."""
    parts = {f"{symbol} {axis + 1}": part.numpy() for axis, part in enumerate(x.unbind(1))}
    return {**parts, f"strength |{symbol}|": x.norm(dim=1).numpy()}


def _all_tables(run: FinishedRun) -> Iterator[tuple[str, Tables]]:
    """Tables of the run and of the experiments that were done with it, by their folder in it."""
    yield "", emergence.tables(run)
    for experiment in EXPERIMENTS:
        name = experiment.section.anchor
        path = run.inside.result(name)
        if exists(path) and run.owns(path):
            yield name, experiment.tables(experiment.kind.load(path), run)


def _write_csv(path: Path, blocks: Iterator[Block]) -> None:
    # Names of files need not be text.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        # With quotes around all names no line break in one ends a line, and "3" stays a name.
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for number, block in enumerate(blocks):
            if not number:
                writer.writerow(block)
            writer.writerows(zip(*map(_cells, block.values()), strict=True))


def _cells(column: np.ndarray | Named) -> list[Any]:
    if isinstance(column, Named):
        cells = [*map(to_cell, column.names), ""]
        return [cells[code] for code in column.codes.tolist()]
    if column.dtype == bool:
        return ["yes" if value else "no" for value in column.tolist()]
    # As short as they can be read back: Python's numbers would show 17 digits.
    return list(column)


def _parquet() -> Any:
    try:
        return optional("pyarrow.parquet", "format: parquet")
    except ImportError as error:
        raise ImportError(f"{error}, or give csv (--format csv)") from error


def _write_parquet(path: Path, blocks: Iterator[Block]) -> None:
    first = _arrow(next(blocks))
    with _parquet().ParquetWriter(path, first.schema) as writer:
        for table in chain([first], map(_arrow, blocks)):
            writer.write_table(table, row_group_size=len(table))


def _arrow(block: Block) -> Any:
    """A block as a table of pyarrow."""
    import pyarrow

    columns = {}
    for name, column in block.items():
        if isinstance(column, Named):
            codes = pyarrow.array(column.codes, pyarrow.int32(), mask=column.codes < 0)
            texts = pyarrow.array([*map(_text, column.names)], pyarrow.string())
            columns[name] = pyarrow.DictionaryArray.from_arrays(codes, texts)
        else:
            columns[name] = pyarrow.array(np.ascontiguousarray(column))
    return pyarrow.table(columns)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table of the report as Parquet."""
    import pyarrow

    names = list(rows[0]) if rows else []
    columns = {_text(name): _typed([row[name] for row in rows], name, names) for name in names}
    _parquet().write_table(pyarrow.table(columns), path)


def _typed(values: Sequence[Any], name: str, names: Sequence[str]) -> Any:
    """A column of one type; words that stand for a number that is not there are left out."""
    import pyarrow

    values = [None if isinstance(x, float) and x != x else x for x in values]
    given = [x for x in values if x is not None]
    if f"{name}, low" in names or any(not isinstance(x, str) for x in given):
        values = [None if x in NO_NUMBER else x for x in values]
        given = [x for x in values if x is not None]
    if any(isinstance(x, str) for x in given):
        return pyarrow.array([None if x is None else _text(x) for x in values], pyarrow.string())
    if not given:
        return pyarrow.array(values, pyarrow.float64())
    return pyarrow.array(values)


def _text(value: object) -> str:
    """As text that UTF-8 can hold, which names of files need not be."""
    return str(value).encode("utf-8", "backslashreplace").decode()
