"""Points on the object: the section of the report and its table (Fig. 6, 14)."""

from __future__ import annotations

from typing import Final

from emergence_ext.report.files import Drawings, Tables, interval
from emergence_ext.report.words import SectionText, TableText
from emergence_ext.run import FinishedRun
from emergence_ext.studies.foreground import NAME, Objects, share_of_points

SECTION: Final = SectionText(
    NAME,
    "Experiment: points on the object",
    "The share of knowledge points that lie on the annotated object (emergence foreground; "
    "Fig. 6, 14).",
    tables=(
        TableText(
            "foreground",
            "Points on the object",
            "By layer, on the held-out images that have a box or mask, with 95 % intervals "
            "over them; beside it the object's share of the area, which is chance.",
        ),
    ),
)


def tables(objects: Objects, run: FinishedRun) -> Tables:
    """Where the points of held-out images lie, a row a layer; images without objects stay out."""
    shares = {
        layer: share_of_points(run.emergence, objects, k)
        for k, layer in enumerate(run.emergence.layers)
    }
    rows = [
        {
            "layer": layer,
            "images": share.images,
            "area": share.area,
            **interval("points", share.points),
            **interval("reliable", share.reliable),
        }
        for layer, share in shares.items()
    ]
    return {"foreground": rows}


def figures(objects: Objects, run: FinishedRun) -> Drawings:
    """No figure: the table says it all."""
    return {}
