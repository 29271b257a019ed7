"""Contact sheets: one function a technique, from a network and its images to what is shown."""

from collections.abc import Callable, Mapping
from typing import Final

from emergence_ext.report.look.activations import activations
from emergence_ext.report.look.annotators import annotators
from emergence_ext.report.look.attributes import attributes
from emergence_ext.report.look.codes import codes
from emergence_ext.report.look.correspondence import correspondence
from emergence_ext.report.look.excite import excite
from emergence_ext.report.look.filters import filters
from emergence_ext.report.look.fooling import fooling
from emergence_ext.report.look.gradients import gradients
from emergence_ext.report.look.inversion import inversion
from emergence_ext.report.look.occlusion import occlusion
from emergence_ext.report.look.sheet import Scene, Sheet

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
