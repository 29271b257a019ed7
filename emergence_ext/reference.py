"""The ops in plain torch, under the name that users know; the compiled ones are held to them."""

from emergence_ext.ops.reference import (
    match_kl,
    match_kl_scaled,
    maxsim,
    maxsim_indices,
    maxsim_packed,
)

__all__ = ["match_kl", "match_kl_scaled", "maxsim", "maxsim_indices", "maxsim_packed"]
