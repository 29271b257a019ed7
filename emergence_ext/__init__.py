"""See what a trained network has learned: where in the image, in which layer, and when in training.

The names below, and the rooms of the package among them, are loaded when they are first used, so
that `emergence_ext.ops` and `emergence_ext.reference` need nothing but torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from emergence_ext._version import __version__

if TYPE_CHECKING:
    from emergence_ext import data as data
    from emergence_ext import figures as figures
    from emergence_ext import late_interaction as late_interaction
    from emergence_ext import lookinside as lookinside
    from emergence_ext import method as method
    from emergence_ext import mindseye as mindseye
    from emergence_ext import network as network
    from emergence_ext import notebook as notebook
    from emergence_ext import ops as ops
    from emergence_ext import reference as reference
    from emergence_ext import render as render
    from emergence_ext import report as report
    from emergence_ext import run as run
    from emergence_ext import store as store
    from emergence_ext import studies as studies
    from emergence_ext import training as training
    from emergence_ext.data import ImageFolder as ImageFolder
    from emergence_ext.data import digits as digits
    from emergence_ext.data import scenes as scenes
    from emergence_ext.method import ExactKappa as ExactKappa
    from emergence_ext.method import Frame as Frame
    from emergence_ext.method import KnowledgePoints as KnowledgePoints
    from emergence_ext.method import MonteCarloKappa as MonteCarloKappa
    from emergence_ext.method import RegionalProjection as RegionalProjection
    from emergence_ext.method import RegionImportance as RegionImportance
    from emergence_ext.method import SampleProjection as SampleProjection
    from emergence_ext.method import image_similarity as image_similarity
    from emergence_ext.method import knowledge_points as knowledge_points
    from emergence_ext.method import solve_kappa_p as solve_kappa_p
    from emergence_ext.network import FeatureSet as FeatureSet
    from emergence_ext.network import extract as extract
    from emergence_ext.network import load_model as load_model
    from emergence_ext.network import preprocess as preprocess
    from emergence_ext.network import suggest_layers as suggest_layers
    from emergence_ext.notebook import Analysis as Analysis
    from emergence_ext.notebook import Watch as Watch
    from emergence_ext.notebook import analyze as analyze
    from emergence_ext.ops import build_info as build_info
    from emergence_ext.ops import maxsim as maxsim
    from emergence_ext.ops import maxsim_indices as maxsim_indices
    from emergence_ext.run import FinishedRun as FinishedRun
    from emergence_ext.run import emergence as emergence

_ROOMS = (
    "data",
    "figures",
    "late_interaction",
    "lookinside",
    "method",
    "mindseye",
    "network",
    "notebook",
    "ops",
    "reference",
    "render",
    "report",
    "run",
    "store",
    "studies",
    "training",
)
_ROOM_OF = {
    "Analysis": "notebook",
    "ExactKappa": "method",
    "FeatureSet": "network",
    "FinishedRun": "run",
    "Frame": "method",
    "ImageFolder": "data",
    "KnowledgePoints": "method",
    "MonteCarloKappa": "method",
    "RegionImportance": "method",
    "RegionalProjection": "method",
    "SampleProjection": "method",
    "Watch": "notebook",
    "analyze": "notebook",
    "build_info": "ops",
    "digits": "data",
    "emergence": "run",
    "extract": "network",
    "image_similarity": "method",
    "knowledge_points": "method",
    "load_model": "network",
    "maxsim": "ops",
    "maxsim_indices": "ops",
    "preprocess": "network",
    "scenes": "data",
    "solve_kappa_p": "method",
    "suggest_layers": "network",
}

__all__ = ["__version__", *_ROOMS, *sorted(_ROOM_OF)]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return _room(name)
    if name in _ROOM_OF:
        return getattr(_room(_ROOM_OF[name]), name)
    raise AttributeError(f"module 'emergence_ext' has no attribute {name!r}")


def _room(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"emergence_ext.{name}")
    except ModuleNotFoundError as error:
        from emergence_ext.lookup import needed

        missing = needed(error)
        if missing is None:
            raise
        raise ModuleNotFoundError(missing, name=error.name) from None


def __dir__() -> list[str]:
    return list(__all__)
