"""The paper's method: from features of images and regions to directions, lengths and points.

Named tensors in, fitted objects out. It knows nothing of networks, folders or figures; what is
fitted can be saved.
"""

from emergence_ext.method.baselines import PCA, Manifold, distance_from_mean
from emergence_ext.method.blocks import is_of_all, parts_of
from emergence_ext.method.correlation import entropy, pearson, spearman, stratified_folds
from emergence_ext.method.frame import Frame, polar
from emergence_ext.method.importance import KAPPA_TILDE, RegionImportance
from emergence_ext.method.intervals import (
    CONFIDENCE,
    Interval,
    bootstrap_ratio,
    mean_interval,
    proportion,
    student_interval,
)
from emergence_ext.method.knowledge import (
    KnowledgePoints,
    PointCount,
    check_tau,
    knowledge_points,
    point_count,
    shared_categories,
    usual_tau,
)
from emergence_ext.method.learning import Learning, learning
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.regional import RegionalProjection, normalise_strengths
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import (
    Similarity,
    image_similarity,
    similarity_for,
    similarity_with,
    solve_kappa_p,
)
from emergence_ext.method.solver import FitStats, evaluations, require_finite
from emergence_ext.method.vmf import ExactKappa, MonteCarloKappa

__all__ = [
    "CONFIDENCE",
    "KAPPA_TILDE",
    "PCA",
    "ExactKappa",
    "FitStats",
    "Frame",
    "Interval",
    "KnowledgePoints",
    "Learning",
    "Manifold",
    "MonteCarloKappa",
    "PointCount",
    "RegionImportance",
    "RegionalProjection",
    "SampleProjection",
    "Similarity",
    "bootstrap_ratio",
    "check_tau",
    "distance_from_mean",
    "entropy",
    "evaluations",
    "image_similarity",
    "is_of_all",
    "knowledge_points",
    "learning",
    "mean_interval",
    "normalise_strengths",
    "parts_of",
    "pearson",
    "point_count",
    "polar",
    "proportion",
    "require_finite",
    "shared_categories",
    "similarity_for",
    "similarity_with",
    "solve_kappa_p",
    "spearman",
    "stratified_folds",
    "student_interval",
    "takes_numpy",
    "usual_tau",
]
