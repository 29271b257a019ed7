"""All contact sheets on one HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emergence_ext.report.html.page import fill_template, page_part
from emergence_ext.report.html.pictures import read_pictures
from emergence_ext.report.html.tables import read_table
from emergence_ext.report.look.sheet import Scene
from emergence_ext.store import write_file

# Characters of all pictures; with the tables the page stays below 25 MB.
_PICTURES: Final = 20_000_000


@dataclass(frozen=True)
class Shown:
    """A contact sheet whose files are written.

    Attributes:
        title, text, notes: as in `Sheet`.
        figures: names of `*.png` and `*.svg` in its folder.
        tables: names of `*.csv` there.
    """

    title: str
    text: str
    notes: Sequence[str]
    figures: Sequence[str]
    tables: Sequence[str]


def write_page(
    out: Path, scene: Scene, sheets: Mapping[str, Shown], refused: Mapping[str, str], command: str
) -> Path:
    """Write `OUT/look.html`: the sheets with their pictures and tables, and what is left out.

    The page requests nothing from the network, its content-security policy forbids it, and every
    name is escaped.

    Args:
        out: folder that holds the files of each technique in a folder of its name.
        scene: what was looked at.
        sheets: technique -> its sheet.
        refused: technique -> why there is none.
        command: how the page was asked for; may be empty.
    """
    files = {
        f"{technique}/{name}": out / technique / f"{name}.png"
        for technique, sheet in sheets.items()
        for name in sheet.figures
    }
    pictures = read_pictures(files, room=_PICTURES)
    tables = {
        f"{technique}/{name}": read_table(out / technique / f"{name}.csv")
        for technique, sheet in sheets.items()
        for name in sheet.tables
    }
    dataset, spec = scene.subject.dataset, scene.subject.spec
    page = fill_template(
        "report/look/look.html",
        page_part("report/html/page.css") + page_part("report/look/look.css"),
        page_part("report/html/page.js"),
        sheets=sheets,
        pictures=pictures,
        tables=tables,
        refused=refused,
        command=command,
        model=type(scene.subject.module).__name__ if spec is None else spec.model,
        layers=list(scene.layers),
        images=[(i, dataset.names[i], dataset.categories[dataset.labels[i]]) for i in scene.images],
        total=len(dataset),
    )
    path = out / "look.html"
    write_file(path, page)
    return path
