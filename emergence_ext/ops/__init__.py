"""The matching of regions between all pairs of images: compiled, and in plain torch.

It knows tensors only: nothing of networks, images or the method. It and all that it imports need
torch alone.
"""

from emergence_ext.ops import reference
from emergence_ext.ops.backend import BACKENDS, choose, in_words, why_not_fused
from emergence_ext.ops.fused import (
    match_kl,
    match_kl_scaled,
    maxsim,
    maxsim_indices,
    maxsim_packed,
)
from emergence_ext.ops.library import build_info, use_instruction_set
from emergence_ext.ops.packed import as_tensor, require_alike
from emergence_ext.ops.ways import Standing, standings

__all__ = [
    "BACKENDS",
    "Standing",
    "as_tensor",
    "build_info",
    "choose",
    "in_words",
    "match_kl",
    "match_kl_scaled",
    "maxsim",
    "maxsim_indices",
    "maxsim_packed",
    "reference",
    "require_alike",
    "standings",
    "use_instruction_set",
    "why_not_fused",
]
