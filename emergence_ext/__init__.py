"""See what a trained network has learned: where in the image, in which layer, and when in training.

The names below are loaded when they are first used, so that `emergence_ext.ops` and
`emergence_ext.reference` need nothing but torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from emergence_ext._version import __version__

if TYPE_CHECKING:
    from emergence_ext import figures as figures
    from emergence_ext._library import build_info as build_info
    from emergence_ext.data import ImageFolder as ImageFolder
    from emergence_ext.data import digits as digits
    from emergence_ext.features import FeatureSet as FeatureSet
    from emergence_ext.features import extract as extract
    from emergence_ext.frame import Frame as Frame
    from emergence_ext.importance import RegionImportance as RegionImportance
    from emergence_ext.knowledge import KnowledgePoints as KnowledgePoints
    from emergence_ext.knowledge import knowledge_points as knowledge_points
    from emergence_ext.models import load_model as load_model
    from emergence_ext.models import suggest_layers as suggest_layers
    from emergence_ext.ops import maxsim as maxsim
    from emergence_ext.ops import maxsim_indices as maxsim_indices
    from emergence_ext.preprocessing import preprocess as preprocess
    from emergence_ext.regional import RegionalProjection as RegionalProjection
    from emergence_ext.sample import SampleProjection as SampleProjection
    from emergence_ext.similarity import image_similarity as image_similarity
    from emergence_ext.similarity import solve_kappa_p as solve_kappa_p
    from emergence_ext.studies.emergence import emergence as emergence
    from emergence_ext.vmf import ExactKappa as ExactKappa
    from emergence_ext.vmf import MonteCarloKappa as MonteCarloKappa

_HOME = {
    "ExactKappa": "vmf",
    "FeatureSet": "features",
    "Frame": "frame",
    "ImageFolder": "data",
    "KnowledgePoints": "knowledge",
    "MonteCarloKappa": "vmf",
    "RegionImportance": "importance",
    "RegionalProjection": "regional",
    "SampleProjection": "sample",
    "build_info": "_library",
    "digits": "data",
    "emergence": "studies.emergence",
    "extract": "features",
    "figures": "",
    "image_similarity": "similarity",
    "knowledge_points": "knowledge",
    "load_model": "models",
    "maxsim": "ops",
    "maxsim_indices": "ops",
    "preprocess": "preprocessing",
    "solve_kappa_p": "similarity",
    "suggest_layers": "models",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'emergence_ext' has no attribute {name!r}")
    if not _HOME[name]:
        return importlib.import_module(f"emergence_ext.{name}")
    return getattr(importlib.import_module(f"emergence_ext.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
