"""Figures: arrays or tensors in, `matplotlib.figure.Figure` out; no files, no models."""

from emergence_ext.figures.ablation import ablation
from emergence_ext.figures.activations import activation_grid, layer_sparsity
from emergence_ext.figures.annotators import agreement, confusions, seen_apart
from emergence_ext.figures.apply import new_samples, similar_regions, unlike_images
from emergence_ext.figures.attack import attack_curves, attack_images, attack_utility
from emergence_ext.figures.attack_space import attack_paths, attack_types
from emergence_ext.figures.attributes import AttributePanel, accuracy_by_attribute
from emergence_ext.figures.codes import code_grid, code_scatter
from emergence_ext.figures.compare import layer_differences, moved_images, moved_regions
from emergence_ext.figures.contour import confidence_map, contour_grid
from emergence_ext.figures.correlation import importance_strength, strength_entropy
from emergence_ext.figures.correspondence import correspondence_scores, correspondences
from emergence_ext.figures.distill import student_regions
from emergence_ext.figures.excite import exciting_images, exciting_patches
from emergence_ext.figures.film import SAMPLES, Moment, Stage
from emergence_ext.figures.filters import deep_filters, first_filters
from emergence_ext.figures.fooling import fooling
from emergence_ext.figures.gradients import attributions
from emergence_ext.figures.images import importance_maps, point_regions, shared_regions
from emergence_ext.figures.inputs import Band
from emergence_ext.figures.inversion import inversions
from emergence_ext.figures.knowledge import knowledge_curves, tau_curve
from emergence_ext.figures.learning import learning_speed
from emergence_ext.figures.losses import losses
from emergence_ext.figures.methods import methods
from emergence_ext.figures.mindseye import facet_embedding, picture_sheet
from emergence_ext.figures.occlusion import occlusion_maps, occlusion_regions
from emergence_ext.figures.regions import regions_through_epochs, regions_through_layers
from emergence_ext.figures.samples import drawable, samples, samples_through_epochs
from emergence_ext.figures.shapley import shapley_correlations, shapley_maps
from emergence_ext.figures.similarity import category_similarity
from emergence_ext.figures.space import strength_reach
from emergence_ext.figures.style import (
    category_style,
    display_name,
    distinct_names,
    literal_name,
    noted,
    signed_text,
)

__all__ = [
    "SAMPLES",
    "AttributePanel",
    "Band",
    "Moment",
    "Stage",
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
    "category_style",
    "code_grid",
    "code_scatter",
    "confidence_map",
    "confusions",
    "contour_grid",
    "correspondence_scores",
    "correspondences",
    "deep_filters",
    "display_name",
    "distinct_names",
    "drawable",
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
    "learning_speed",
    "literal_name",
    "losses",
    "methods",
    "moved_images",
    "moved_regions",
    "new_samples",
    "noted",
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
    "signed_text",
    "similar_regions",
    "strength_entropy",
    "strength_reach",
    "student_regions",
    "tau_curve",
    "unlike_images",
]
