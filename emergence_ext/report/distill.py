"""Students beside their teacher: the section of the report, its tables and figures (Fig. 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.report import learning
from emergence_ext.report.emergence import knowledge_rows
from emergence_ext.report.emergence_figures import knowledge_bands
from emergence_ext.report.files import Drawings, Row, Tables, interval
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun
from emergence_ext.studies.distill import NAME, Distillation

SECTION: Final = SectionText(
    NAME,
    "Experiment: distillation",
    "Students that learned the features of this network, seen in its frame "
    "(emergence distill; Fig. 9).",
    (
        FigureText(
            "knowledge",
            "Knowledge points of teacher and students",
            "Points, reliable ones and their ratio by layer, on held-out images with 95 % "
            "intervals over them.",
            "A student below the teacher lacks what the teacher knows in that layer.",
        ),
        FigureText(
            "regions",
            "Regions of the students beside the teacher's",
            "Difference in direction and in strength, region by region of the held-out "
            "images, in one layer.",
            "At 0 the student's region says what the teacher's says. What the teacher fitted "
            "again differs by, fits alone make.",
        ),
        learning.FIGURE,
    ),
    (
        TableText("networks", "Teacher and students", "On all images of the run."),
        TableText(
            "knowledge",
            "Knowledge points by layer",
            "With 95 % intervals over images; on held-out and on fitted ones.",
        ),
        TableText(
            "regions",
            "Differences of regions",
            "Student less teacher, on held-out images, with 95 % intervals over them.",
        ),
        learning.TABLE,
    ),
)


def tables(d: Distillation, run: FinishedRun) -> Tables:
    """Students and teacher as classifiers, their knowledge points, and differences of regions."""
    courses = {"learning": learning.rows(d.courses)} if d.courses else {}
    knowledge = [
        {"network" if name == "checkpoint" else name: value for name, value in row.items()}
        for row in knowledge_rows(d.networks)
    ]
    return {"networks": _networks(d), "knowledge": knowledge, "regions": _regions(d), **courses}


def figures(d: Distillation, run: FinishedRun) -> Drawings:
    """Knowledge points of all networks, and where the students' regions differ."""
    e = d.networks

    def regions() -> Figure:
        layer = e.layers.index(d.layer or e.layers[-1])
        differences = [d.difference(s, layer) for s in range(len(d.students))]
        return draw.student_regions(
            torch.stack([x.orientation for x in differences]),
            torch.stack([x.strength for x in differences]),
            d.students,
            e.layers[layer],
        )

    def knowledge() -> Figure:
        bands = knowledge_bands([(e, t) for t in range(len(e.labels))])
        counts = (bands["total"], bands["reliable"], bands["ratio"])
        return draw.knowledge_curves(*counts, e.labels, e.layers, along="layers", lines="network")

    drawings: dict[str, Callable[[], Figure]] = {"knowledge": knowledge, "regions": regions}
    if d.courses:
        drawings[learning.FIGURE.name] = lambda: learning.figure(d.courses)
    return dict(drawings)


def _networks(d: Distillation) -> list[Row]:
    """Students and, last, their teacher as classifiers, a row each."""
    e = d.networks
    return [
        {
            "network": label,
            "epochs": e.epochs[t],
            "missed share of the teacher's features": d.missed[t] if t < len(d.missed) else None,
            "accuracy": e.accuracy(t),
            "says what the teacher says": d.agreement(t) if t < len(d.missed) else None,
            "images": len(e.y),
        }
        for t, label in enumerate(e.labels)
    ]


def _regions(d: Distillation) -> list[Row]:
    """How far students' regions are from the teacher's on held-out images, a row a layer."""
    rows: list[Row] = []
    for s, student in enumerate(d.students):
        for k, layer in enumerate(d.networks.layers):
            x = d.difference(s, k)
            turned, longer = x.mean("orientation"), x.mean("strength")
            rows.append(
                {
                    "student": student,
                    "layer": layer,
                    **interval("mean of 1 - cos", turned, "no direction"),
                    "median of 1 - cos": float(x.orientation.nanmedian()),
                    **interval("mean of |h student| - |h teacher|", longer),
                    "standard deviation": float(x.strength.std()),
                    "the mean over the teacher's mean strength": (
                        longer.value / x.teacher_strength if x.teacher_strength else None
                    ),
                    "regions": int(x.orientation.isfinite().sum()),
                }
            )
    return rows
