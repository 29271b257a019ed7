"""Figures: arrays or tensors in, `matplotlib.figure.Figure` out; no files, no models."""

from .ablation import ablation
from .attack import attack_curves, attack_images, attack_utility
from .attack_space import attack_paths, attack_types
from .compare import layer_differences, moved_images, moved_regions
from .contour import confidence_map, contour_grid
from .correlation import importance_strength, strength_entropy
from .distill import student_regions
from .images import importance_maps, point_regions
from .knowledge import Band, knowledge_curves, tau_curve
from .losses import losses
from .methods import methods
from .regions import regions_through_epochs, regions_through_layers
from .samples import samples, samples_through_epochs
from .shapley import shapley_correlations, shapley_maps
from .similarity import category_similarity

__all__ = [
    "Band",
    "ablation",
    "attack_curves",
    "attack_images",
    "attack_paths",
    "attack_types",
    "attack_utility",
    "category_similarity",
    "confidence_map",
    "contour_grid",
    "importance_maps",
    "importance_strength",
    "knowledge_curves",
    "layer_differences",
    "losses",
    "methods",
    "moved_images",
    "moved_regions",
    "point_regions",
    "regions_through_epochs",
    "regions_through_layers",
    "samples",
    "samples_through_epochs",
    "shapley_correlations",
    "shapley_maps",
    "strength_entropy",
    "student_regions",
    "tau_curve",
]
