"""MaxSim in the words of late-interaction retrieval: queries, documents, masks, the best k.

Scores are `[queries, documents]`, exact, and differentiable; a document's padding is never a match.
What it takes besides torch is NumPy. docs/retrieval.md tells how the field's packages use it.
"""

from emergence_ext.late_interaction.scores import (
    colbert_kd_scores,
    colbert_scores,
    colbert_scores_pairwise,
    maxsim,
    pairwise,
)
from emergence_ext.late_interaction.search import topk

__all__ = [
    "colbert_kd_scores",
    "colbert_scores",
    "colbert_scores_pairwise",
    "maxsim",
    "pairwise",
    "topk",
]
