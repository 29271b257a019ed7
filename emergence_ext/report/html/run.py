"""Reading a run directory, which may be incomplete, damaged or full of hostile names."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
ROWS_SHOWN = 500
NOTHING = "\u2013"
_NO_NUMBER = ("", NOTHING, "no points", "no fit", "undefined")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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


@dataclass(frozen=True)
class Run:
    """What `config.json` says; `settings`, `versions` and `hashes` are flattened to lines."""

    command: str
    git: str
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    hashes: list[tuple[str, str]]
    categories: list[str]
    layers: list[str]
    checkpoints: list[dict[str, str]]
    bad_images: list[tuple[str, str]]
    warnings: list[str]
    headline: list[dict[str, str]] = field(default_factory=list)


def read_run(run_dir: Path) -> Run:
    """Read `config.json` of a run directory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON object, a newer format version, or an entry of another kind.
    """
    path = run_dir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"report: {path} is missing. A run directory is what `emergence run --out DIR` writes."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"report: {path} is not valid JSON ({error}). Run again to write it."
        ) from None
    if not isinstance(config, dict):
        raise ValueError(f"report: {path} must hold a JSON object, got {type(config).__name__}")
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"report: {path} has format version {version!r}, this program reads up to "
            f"{FORMAT_VERSION}. Use the version that wrote it, or a newer one."
        )
    entries = _Entries(path, config)
    return Run(
        command=str(config.get("command") or ""),
        git=str(config.get("git") or ""),
        settings=list(_flat(entries.mapping("settings"))),
        versions=list(_flat(entries.mapping("versions"))),
        hashes=list(_flat(entries.mapping("hashes"))),
        categories=[str(x) for x in entries.sequence("categories")],
        layers=[str(x) for x in entries.sequence("layers")],
        checkpoints=[_checkpoint(x) for x in entries.sequence("checkpoints")],
        bad_images=[_pair(x) for x in entries.sequence("bad_images")],
        warnings=[str(x) for x in entries.sequence("warnings")],
        headline=[_headline(k, v) for k, v in entries.mapping("headline").items()],
    )


class _Entries:
    """Entries of the configuration by kind; an absent one is empty."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    def mapping(self, name: str) -> dict[str, Any]:
        return self._of_kind(name, dict, {})

    def sequence(self, name: str) -> list[Any]:
        return self._of_kind(name, list, [])

    def _of_kind(self, name: str, kind: type, absent: Any) -> Any:
        value = self.config.get(name)
        if value is None:
            return absent
        if not isinstance(value, kind):
            raise ValueError(
                f"report: {name!r} in {self.path} must be a {kind.__name__}, "
                f"got {type(value).__name__}"
            )
        return value


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as dotted names and shown values."""
    if isinstance(value, dict) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(shown(x) for x in value) or "none"
    else:
        yield name, shown(value)


def _checkpoint(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {"label": str(entry), "epoch": NOTHING, "accuracy": NOTHING}
    accuracy = entry.get("accuracy")
    known = isinstance(accuracy, int | float) and math.isfinite(accuracy)
    return {
        "label": str(entry.get("label", NOTHING)),
        "epoch": shown(entry.get("epoch")),
        "accuracy": f"{accuracy:.1%}" if known else NOTHING,
    }


def _pair(entry: Any) -> tuple[str, str]:
    if isinstance(entry, list) and len(entry) == 2:
        return str(entry[0]), str(entry[1])
    return str(entry), ""


def _headline(name: str, entry: Any) -> dict[str, str]:
    """Return one headline number as it is shown; anything but a mapping is the value itself."""
    values = entry if isinstance(entry, dict) else {"value": entry}
    percent = values.get("unit") == "%"
    low, high = (values.get(end) for end in ("low", "high"))
    return {
        "name": str(name),
        "value": _short(values.get("value")),
        "unit": "" if values.get("unit") is None else str(values["unit"]),
        "tight": "yes" if percent else "",
        "interval": "" if low is None or high is None else f"{_short(low)} to {_short(high)}",
        "explain": str(values.get("explain") or ""),
    }


def _short(value: Any) -> str:
    """Return a headline's number with three digits, anything else as `shown`."""
    if isinstance(value, float) and 1e-3 <= abs(value) < 1e3:
        value = float(f"{value:.3g}")
    return shown(value)


def shown(value: Any) -> str:
    """Return a value as a reader wants it: few digits, words for truth, a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return NOTHING if math.isnan(value) else f"{value}"
        short = f"{value:.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
        return short.replace("-", "\u2212") if "e" not in short else short
    return str(value)


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
            header = next(reader, [])
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
        filled = all(c.number is not None or c.text in _NO_NUMBER for c in cells)
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
        return Cell(f"{_short(value)} ({_short(low)} to {_short(high)})", value)

    return [header[k] for k in kept], [[cell(row, k) for k in kept] for row in rows]


def _cell(text: str) -> Cell:
    """Return a cell; only plain decimals are numbers, so a layer "1_2" stays a name."""
    text = text.strip()
    if text.lower() == "nan":
        return Cell(NOTHING)
    if not _NUMBER.fullmatch(text):
        return Cell(text)
    whole = text.lstrip("+-").isdigit()
    return Cell(text.replace("-", "\u2212") if whole else shown(float(text)), float(text))
