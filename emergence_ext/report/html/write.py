"""Writing the page of a run from the tables and figures that lie in its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emergence_ext.report.emergence_text import IMAGES_TABLE, SECTIONS
from emergence_ext.report.experiments import experiments
from emergence_ext.report.files import FIGURES, TABLES
from emergence_ext.report.findings import Finding
from emergence_ext.report.html.others import eye_section, eyes, others, undone
from emergence_ext.report.html.page import fill_template, page_part, view_script
from emergence_ext.report.html.pictures import Picture, read_pictures
from emergence_ext.report.html.run import describe, shown_number
from emergence_ext.report.html.tables import ROWS_SHOWN, Table, read_table
from emergence_ext.report.receipts import receipts, sealed
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import Config, RunFolder
from emergence_ext.store import write_file

logger = logging.getLogger(__name__)

_FURTHER = SectionText("further", "Further results", "Written by this run beside the usual ones.")


@dataclass(frozen=True)
class Section:
    """A section with what of it the run holds."""

    text: SectionText
    figures: list[tuple[FigureText, Picture]]
    tables: list[tuple[TableText, Table]]
    missing: list[str]


def write_page(
    run_dir: Path | str,
    *,
    headline: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    left_out: Collection[str] = (),
    view: str = "",
    findings: Sequence[Finding] = (),
) -> Path:
    """Write `report.html` into a run directory: one file with all figures and tables, for offline.

    Experiments that were done with the run have sections of their own, behind those of the run.
    The page requests nothing from the network, its content-security policy forbids it, and every
    name that comes from the run is escaped. Absent or unreadable figures and tables are named.

    Args:
        run_dir: a folder with `config.json`, `figures/*.png|svg` and `tables/*.csv`, and the same
            in a folder for each experiment.
        headline: name -> `value`, `explain`, and `low`, `high`, `unit` of the numbers at the top.
        warnings: what to know before believing the numbers.
        left_out: experiments that were made from other results of the run.
        view: what `view_data` gave; nothing for a page without the view.
        findings: what was found, a question and its answer each.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: no `config.json` there.
        StoreError: a damaged `config.json`, or one of a newer format.
    """
    inside = RunFolder(Path(run_dir))
    texts = [e.section for e in experiments(inside) if e.section.anchor not in left_out]
    names = [text.anchor for text in texts]
    seen = [path.relative_to(inside.path).as_posix() for path in eyes(inside)]
    places = {"": inside.path} | {f"{name}/": inside.experiment(name) for name in names + seen}
    pictures = read_pictures(
        {
            prefix + path.stem: path
            for prefix, place in places.items()
            for path in sorted((place / FIGURES).glob("*.png"))
        }
    )
    tables = {
        prefix + path.stem: table
        for prefix, place in places.items()
        for path in sorted((place / TABLES).glob("*.csv"))
        if (table := read_table(path))
    }
    sections = [_section(text, pictures, tables) for text in SECTIONS]
    sections += [_further(_FURTHER, SECTIONS, "", pictures, tables)]
    done = [_experiment(text, pictures, tables) for text in (*texts, *map(eye_section, seen))]
    config = Config.read(inside.config)
    described, beside = describe(config), others(inside)
    page = fill_template(
        "report/html/page.html",
        page_part("report/html/page.css") + page_part("report/html/view.css"),
        page_part("report/html/page.js") + (view_script() if view else ""),
        run=described,
        date=_date(inside),
        view=view,
        findings=findings,
        headline=[shown_number(name, entry) for name, entry in (headline or {}).items()],
        warnings=warnings,
        sections=[s for s in (*sections, *done) if s.figures or s.tables],
        absent=[
            s.text.title
            for s in sections
            if s.text is not _FURTHER and not s.figures and not s.tables
        ],
        others=beside,
        undone=undone(inside, config),
        images=tables.get(IMAGES_TABLE.name),
        images_text=IMAGES_TABLE,
        receipts=json.dumps(receipts(inside, left_out), indent=1),
        rows_shown=ROWS_SHOWN,
    )
    write_file(inside.report, sealed(page))
    if beside:
        style = page_part("report/html/page.css")
        index = fill_template(
            "report/html/index.html",
            style,
            "",
            run=described,
            report=inside.report.name,
            others=beside,
        )
        write_file(inside.index, index)
    return inside.report


def _date(inside: RunFolder) -> str:
    """The day on which the results were written; nothing where there are none."""
    path = inside.emergence.with_suffix(".json")
    if not path.is_file():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%d %B %Y").lstrip("0")


def _section(text: SectionText, pictures: dict[str, Picture], tables: dict[str, Table]) -> Section:
    return Section(
        text,
        [(f, pictures[f.name]) for f in text.figures if f.name in pictures],
        [(t, tables[t.name]) for t in text.tables if t.name in tables],
        [f.title for f in text.figures if f.name not in pictures]
        + [t.title for t in text.tables if t.name not in tables],
    )


def _experiment(
    text: SectionText, pictures: dict[str, Picture], tables: dict[str, Table]
) -> Section:
    """Return the section of an experiment: what the report has words for, then all else of it."""
    prefix = f"{text.anchor}/"
    named = replace(
        text,
        figures=tuple(each for f in text.figures for each in _of_layers(f, prefix, pictures)),
        tables=tuple(replace(t, name=prefix + t.name) for t in text.tables),
    )
    said = _section(named, pictures, tables)
    rest = _further(text, (named,), prefix, pictures, tables)
    return Section(text, said.figures + rest.figures, said.tables + rest.tables, [])


def _of_layers(text: FigureText, prefix: str, pictures: dict[str, Picture]) -> Iterator[FigureText]:
    """Yield the words for a figure, those of `name_*` for every picture that begins so."""
    if not text.name.endswith("*"):
        yield replace(text, name=prefix + text.name)
        return
    start = prefix + text.name.removesuffix("*")
    for name in pictures:
        if name.startswith(start):
            yield replace(text, name=name, title=f"{text.title}, {name.removeprefix(start)}")


def _further(
    text: SectionText,
    known: Sequence[SectionText],
    prefix: str,
    pictures: dict[str, Picture],
    tables: dict[str, Table],
) -> Section:
    """Return the figures and tables in one folder that none of its sections speaks of."""
    known_figures = {f.name for s in known for f in s.figures}
    known_tables = {t.name for s in known for t in s.tables} | {IMAGES_TABLE.name}

    def title(name: str) -> str | None:
        own = name.removeprefix(prefix)
        return own.replace("_", " ") if name.startswith(prefix) and "/" not in own else None

    return Section(
        text,
        [
            (FigureText(name, words, "", ""), picture)
            for name, picture in pictures.items()
            if name not in known_figures and (words := title(name))
        ],
        [
            (TableText(name, words, ""), table)
            for name, table in tables.items()
            if name not in known_tables and (words := title(name))
        ],
        [],
    )
