"""Contact sheets: one function a technique, from a network and its images to what is shown."""

from collections.abc import Callable, Mapping
from typing import Final

from emergence_ext.sheets.activations import activations
from emergence_ext.sheets.annotators import annotators
from emergence_ext.sheets.attributes import attributes
from emergence_ext.sheets.codes import codes
from emergence_ext.sheets.correspondence import correspondence
from emergence_ext.sheets.excite import excite
from emergence_ext.sheets.filters import filters
from emergence_ext.sheets.fooling import fooling
from emergence_ext.sheets.gradients import gradients
from emergence_ext.sheets.inversion import inversion
from emergence_ext.sheets.occlusion import occlusion
from emergence_ext.sheets.sheet import Scene, Sheet

__all__ = ["TECHNIQUES", "Scene", "Sheet"]

TECHNIQUES: Final[Mapping[str, Callable[[Scene], Sheet]]] = {
    "activations": activations,
    "filters": filters,
    "excite": excite,
    "codes": codes,
    "occlusion": occlusion,
    "gradients": gradients,
    "inversion": inversion,
    "correspondence": correspondence,
    "attributes": attributes,
    "fooling": fooling,
    "annotators": annotators,
}
"""Every technique by its name, in the order in which they are shown."""
