"""Training of a network, by labels or by the features of another; checkpoints out.

It knows nothing of what is analysed afterwards.
"""

from emergence_ext.training.distilling import FeaturePlace, distil
from emergence_ext.training.log import TrainingLog
from emergence_ext.training.loop import evaluate, train
from emergence_ext.training.recipes import RECIPES, Recipe

__all__ = [
    "RECIPES",
    "FeaturePlace",
    "Recipe",
    "TrainingLog",
    "distil",
    "evaluate",
    "train",
]
