"""Figures: arrays or tensors in, `matplotlib.figure.Figure` out; no files, no models."""

from .ablation import ablation
from .activations import activation_grid, layer_sparsity
from .annotators import agreement, confusions, seen_apart
from .attack import attack_curves, attack_images, attack_utility
from .attack_space import attack_paths, attack_types
from .attributes import AttributePanel, accuracy_by_attribute
from .codes import code_grid, code_scatter
from .compare import layer_differences, moved_images, moved_regions
from .contour import confidence_map, contour_grid
from .correlation import importance_strength, strength_entropy
from .correspondence import correspondence_scores, correspondences
from .distill import student_regions
from .excite import exciting_images, exciting_patches
from .filters import deep_filters, first_filters
from .fooling import fooling
from .gradients import attributions
from .images import importance_maps, point_regions, shared_regions
from .inversion import inversions
from .knowledge import Band, knowledge_curves, tau_curve
from .losses import losses
from .methods import methods
from .mindseye import facet_embedding, picture_sheet
from .occlusion import occlusion_maps, occlusion_regions
from .regions import regions_through_epochs, regions_through_layers
from .samples import samples, samples_through_epochs
from .shapley import shapley_correlations, shapley_maps
from .similarity import category_similarity

__all__ = [
    "AttributePanel",
    "Band",
    "ablation",
    "accuracy_by_attribute",
    "activation_grid",
    "agreement",
    "attack_curves",
    "attack_images",
    "attack_paths",
    "attack_types",
    "attack_utility",
    "attributions",
    "category_similarity",
    "code_grid",
    "code_scatter",
    "confidence_map",
    "confusions",
    "contour_grid",
    "correspondence_scores",
    "correspondences",
    "deep_filters",
    "exciting_images",
    "exciting_patches",
    "facet_embedding",
    "first_filters",
    "fooling",
    "importance_maps",
    "importance_strength",
    "inversions",
    "knowledge_curves",
    "layer_differences",
    "layer_sparsity",
    "losses",
    "methods",
    "moved_images",
    "moved_regions",
    "occlusion_maps",
    "occlusion_regions",
    "picture_sheet",
    "point_regions",
    "regions_through_epochs",
    "regions_through_layers",
    "samples",
    "samples_through_epochs",
    "seen_apart",
    "shapley_correlations",
    "shapley_maps",
    "shared_regions",
    "strength_entropy",
    "student_regions",
    "tau_curve",
]
