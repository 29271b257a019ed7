"""Figures: arrays or tensors in, `matplotlib.figure.Figure` out; no files, no models."""

from .correlation import importance_strength, strength_entropy
from .images import importance_maps, point_regions
from .knowledge import Band, knowledge_curves, tau_curve
from .losses import losses
from .regions import regions_through_epochs, regions_through_layers
from .samples import samples, samples_through_epochs
from .similarity import category_similarity

__all__ = [
    "Band",
    "category_similarity",
    "importance_maps",
    "importance_strength",
    "knowledge_curves",
    "losses",
    "point_regions",
    "regions_through_epochs",
    "regions_through_layers",
    "samples",
    "samples_through_epochs",
    "strength_entropy",
    "tau_curve",
]
