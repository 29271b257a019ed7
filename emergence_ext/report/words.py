"""What the words around figures and tables of a report consist of."""

from __future__ import annotations

from dataclasses import dataclass

from emergence_ext.report.files import FIGURES, TABLES


@dataclass(frozen=True)
class FigureText:
    """The words around one figure; a name `maps_*` stands for one of each layer."""

    name: str
    title: str
    caption: str
    reading: str

    @property
    def file(self) -> str:
        """The file for print, from the run directory."""
        return _file(self.name, FIGURES, "svg")


@dataclass(frozen=True)
class TableText:
    """The words around one table."""

    name: str
    title: str
    caption: str

    @property
    def file(self) -> str:
        """The file, from the run directory."""
        return _file(self.name, TABLES, "csv")


@dataclass(frozen=True)
class SectionText:
    """One section: an introduction, then its figures and tables.

    The anchor of an experiment's section is the name of its folder in the run, and the names of
    its figures and tables are those of files in there.
    """

    anchor: str
    title: str
    intro: str
    figures: tuple[FigureText, ...] = ()
    tables: tuple[TableText, ...] = ()


def _file(name: str, kind: str, ending: str) -> str:
    """Where a figure or table lies: those of an experiment are named `EXPERIMENT/NAME`."""
    folder, slash, own = name.rpartition("/")
    return f"{folder}{slash}{kind}/{own}.{ending}"
