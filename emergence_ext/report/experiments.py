"""The experiments that a report has a section for, and how each gets into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emergence_ext.report import (
    apply,
    attack,
    compare,
    controls,
    distill,
    foreground,
    paper_tables,
    shapley,
)
from emergence_ext.report.files import Drawings, Tables, remove_others, write_results
from emergence_ext.report.words import SectionText
from emergence_ext.run import FinishedRun, RunFolder
from emergence_ext.store import Saved, exists
from emergence_ext.studies.apply import Applied
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.compare import Comparison
from emergence_ext.studies.controls import Controls
from emergence_ext.studies.distill import Distillation
from emergence_ext.studies.foreground import Objects
from emergence_ext.studies.paper_tables import PaperTables
from emergence_ext.studies.shapley import Shapley


@dataclass(frozen=True)
class Experiment:
    """One experiment that was done with a run and lies in a folder of it.

    Attributes:
        section: the words about it; its anchor names the folder, and the result in there.
        kind: the class of that result.
        tables: the result and the run -> tables.
        figures: the result and the run -> figures.
    """

    section: SectionText
    kind: type[Saved]
    tables: Callable[[Any, FinishedRun], Tables]
    figures: Callable[[Any, FinishedRun], Drawings]

    @property
    def command(self) -> str:
        """The command that does it, called as its folder but for the paper's tables."""
        name = self.section.anchor.partition("/")[0]
        return "tables" if name == paper_tables.SECTION.anchor else name

    def write(self, run: FinishedRun, path: Path) -> None:
        """Write tables and figures beside the saved result at a path of the run."""
        result = self.kind.load(path)
        tables, drawings = self.tables(result, run), self.figures(result, run)
        write_results(path.parent, tables, drawings)
        remove_others(path.parent, tables, drawings)


EXPERIMENTS: Final = (
    Experiment(paper_tables.SECTION, PaperTables, paper_tables.tables, paper_tables.figures),
    Experiment(controls.SECTION, Controls, controls.tables, controls.figures),
    Experiment(attack.SECTION, Attack, attack.tables, attack.figures),
    Experiment(shapley.SECTION, Shapley, shapley.tables, shapley.figures),
    Experiment(distill.SECTION, Distillation, distill.tables, distill.figures),
    Experiment(foreground.SECTION, Objects, foreground.tables, foreground.figures),
)
"""In the order of the report; behind them come comparisons and new images, see `experiments`."""

_MANY: Final[tuple[tuple[str, Callable[[str], SectionText], type[Saved], Any, Any], ...]] = (
    (compare.NAME, compare.section, Comparison, compare.tables, compare.figures),
    (apply.NAME, apply.section, Applied, apply.tables, apply.figures),
)
"""Those that a run may hold any number of, each in a folder of its own."""


def experiments(inside: RunFolder) -> tuple[Experiment, ...]:
    """Every experiment that a run may hold once, and each comparison and set of images it holds."""
    return EXPERIMENTS + tuple(
        Experiment(section(path.name), kind, tables, figures)
        for name, section, kind, tables, figures in _MANY
        for path in sorted(inside.experiment(name).glob("*/"))
        if exists(inside.result(f"{name}/{path.name}"))
    )
