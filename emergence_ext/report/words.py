"""What the words around figures and tables of a report consist of."""

from __future__ import annotations

from dataclasses import dataclass

from emergence_ext.report.files import TABLES


@dataclass(frozen=True)
class FigureText:
    """The words around one figure; a name `maps_*` stands for one of each layer."""

    name: str
    title: str
    caption: str
    reading: str


@dataclass(frozen=True)
class TableText:
    """The words around one table."""

    name: str
    title: str
    caption: str

    @property
    def file(self) -> str:
        """The file, from the run directory."""
        folder, slash, name = self.name.rpartition("/")
        return f"{folder}{slash}{TABLES}/{name}.csv"


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
