"""Writing the report of a run."""

from __future__ import annotations

import logging
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from .pictures import Picture, read_pictures
from .run import Table, read_run, read_table
from .sections import IMAGES_TABLE, SECTIONS, FigureText, SectionText, TableText

logger = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Section:
    """A section with what of it the run holds."""

    text: SectionText
    figures: list[tuple[FigureText, Picture]]
    tables: list[tuple[TableText, Table]]
    missing: list[str]


def write_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run directory: one file with all figures and tables, for offline.

    The page requests nothing from the network, its content-security policy forbids it, and every
    name that comes from the run is escaped. Absent or unreadable figures and tables are named.

    Args:
        run_dir: a folder with `config.json`, `figures/*.png|svg` and `tables/*.csv`.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: no `config.json` there.
        ValueError: a damaged `config.json`, or one of a newer format.
        ImportError: jinja2 is not installed.
    """
    folder = Path(run_dir)
    run = read_run(folder)
    pictures = read_pictures(folder / "figures")
    tables = {p.stem: t for p in sorted((folder / "tables").glob("*.csv")) if (t := read_table(p))}
    sections = [_section(text, pictures, tables) for text in SECTIONS]
    further = _further(pictures, tables)
    if further.figures or further.tables:
        sections.append(further)
    page = _render(
        run=run,
        sections=[s for s in sections if s.figures or s.tables],
        absent=[s.text.title for s in sections if not s.figures and not s.tables],
        images=tables.get(IMAGES_TABLE.name),
        images_text=IMAGES_TABLE,
    )
    path = folder / "report.html"
    # Names may hold bytes that are no text, shown by their codes, and characters that no page may.
    _replace(path, _CONTROL.sub("\ufffd", page).encode("utf-8", "backslashreplace"))
    logger.info("report: wrote %s", path)
    return path


def _section(text: SectionText, pictures: dict[str, Picture], tables: dict[str, Table]) -> Section:
    return Section(
        text,
        [(f, pictures[f.name]) for f in text.figures if f.name in pictures],
        [(t, tables[t.name]) for t in text.tables if t.name in tables],
        [f.title for f in text.figures if f.name not in pictures]
        + [t.title for t in text.tables if t.name not in tables],
    )


def _further(pictures: dict[str, Picture], tables: dict[str, Table]) -> Section:
    """Return the figures and tables of the run that no section of the report speaks of."""
    known_figures = {f.name for s in SECTIONS for f in s.figures}
    known_tables = {t.name for s in SECTIONS for t in s.tables} | {IMAGES_TABLE.name}
    text = SectionText("further", "Further results", "Written by this run beside the usual ones.")
    return Section(
        text,
        [
            (FigureText(name, name.replace("_", " "), "", ""), picture)
            for name, picture in pictures.items()
            if name not in known_figures
        ],
        [
            (TableText(name, name.replace("_", " "), ""), table)
            for name, table in tables.items()
            if name not in known_tables
        ],
        [],
    )


def _render(**context: Any) -> str:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError(
            "report: jinja2 is not installed. Install it with: pip install 'emergence_ext[report]'"
        ) from error
    source = files(__package__)
    style = source.joinpath("page.css").read_text(encoding="utf-8")
    script = source.joinpath("page.js").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(source.joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(style=Markup(style), script=Markup(script), policy=policy, **context)


def _digest(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    return f"sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
