"""The Mind's Eye (Stergiou, ICIP 2021): images of what a set of images has in common in a layer."""

from emergence_ext.mindseye.eye import (
    FacetObjective,
    MindsEye,
    facet_objective,
    layer_rows,
    minds_eye,
)
from emergence_ext.mindseye.facets import Facet, Facets, find_facets
from emergence_ext.mindseye.objective import alignment, distance, previous_layer, top_channels
from emergence_ext.mindseye.robust import AdaptiveRobust, log_normaliser, robust
from emergence_ext.mindseye.schedule import Preprocess, Schedule
from emergence_ext.mindseye.score import Score, logits_of, score

__all__ = [
    "AdaptiveRobust",
    "Facet",
    "FacetObjective",
    "Facets",
    "MindsEye",
    "Preprocess",
    "Schedule",
    "Score",
    "alignment",
    "distance",
    "facet_objective",
    "find_facets",
    "layer_rows",
    "log_normaliser",
    "logits_of",
    "minds_eye",
    "previous_layer",
    "robust",
    "score",
    "top_channels",
]
