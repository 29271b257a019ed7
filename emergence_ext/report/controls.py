"""A network beside its controls: the section of the report, its table and figure."""

from __future__ import annotations

from typing import Final

from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.report.emergence_figures import knowledge_bands
from emergence_ext.report.files import Drawings, Row, Tables, interval
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun
from emergence_ext.studies.controls import NAME, Controls

SECTION: Final = SectionText(
    NAME,
    "Experiment: controls",
    "The same fits for a network with random weights, and for outputs that belong to other "
    "images (emergence controls). What they show too is no finding.",
    (
        FigureText(
            "controls",
            "The network beside its controls",
            "Knowledge points, reliable ones and their ratio on held-out images, by layer, "
            "with 95 % intervals over images.",
            "The distance between the network's line and those of the controls is what the "
            "network adds to what fits can make of noise.",
        ),
    ),
    (
        TableText(
            "controls",
            "Controls",
            "On held-out images, with 95 % intervals over them; but accuracy is of all images, "
            "and the correlation of |h| with w of those that w was learned on.",
        ),
    ),
)


def tables(controls: Controls, run: FinishedRun) -> Tables:
    """Numbers of a network and its controls on held-out images, a row a layer of each.

    But for two: the accuracy, which no fit has a part in, is of all images, and the correlation of
    `|h|` with w of those that have a w.
    """
    rows: list[Row] = []
    for control in controls.beside(run.emergence):
        e, t = control.emergence, control.checkpoint
        for k, layer in enumerate(e.layers):
            count = e.held_out_counts[t][k]
            rows.append(
                {
                    "network": control.name,
                    "layer": layer,
                    "accuracy": e.accuracy(t),
                    "mean entropy (nats)": float(e.entropy(t)[e.held_out].mean()),
                    "Pearson of |g| with entropy": _correlation(control.strength_entropy()),
                    "points per image": count.total.value / count.images,
                    **interval("ratio", count.ratio),
                    "Pearson of |h| with w, mean": _correlation(control.importance_strength(k)),
                }
            )
    return {"controls": rows}


def figures(controls: Controls, run: FinishedRun) -> Drawings:
    """The points of a network beside those of its controls."""
    networks = controls.beside(run.emergence)

    def knowledge() -> Figure:
        bands = knowledge_bands([(x.emergence, x.checkpoint) for x in networks])
        counts = (bands["total"], bands["reliable"], bands["ratio"])
        names, layers = [x.name for x in networks], run.emergence.layers
        return draw.knowledge_curves(*counts, names, layers, along="layers", lines="network")

    return {"controls": knowledge}


def _correlation(r: float) -> float | str:
    """A cell: outputs that are all alike, as those of random weights, have no correlation."""
    return r if r == r else "undefined"
