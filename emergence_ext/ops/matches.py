"""What the matches of `maxsim_indices` are kept as: a dtype, or memory that is there already."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from emergence_ext.ops.registration import compact_type
from emergence_ext.ops.transforms import wants_gradient

_DTYPES: Final = (torch.uint8, torch.int32, torch.int64)


class Matches(NamedTuple):
    """How they are kept: in `out`, or else as `dtype`."""

    dtype: torch.dtype
    out: Tensor | None

    def fits_compact(self, d: Tensor) -> bool:
        """Whether the smallest dtype that holds places in d is as good as int64."""
        return self.out is not None or self.dtype == compact_type(d.shape[1])

    def kept(self, T: Tensor, argmax: Tensor) -> tuple[Tensor, Tensor]:
        """The scores, and the matches as they are to be kept."""
        if self.out is None:
            return T, argmax.to(self.dtype)
        return T, self.out.copy_(argmax)


def matches_of(
    q: Tensor, d: Tensor, a: Tensor | None, index_dtype: torch.dtype | None, out: Tensor | None
) -> Matches:
    """How the matches of `maxsim_indices` are kept, or an error that names what cannot hold them.

    What is wrong with q and d themselves, the op says.
    """
    op = "maxsim_indices"
    if index_dtype is not None and out is not None:
        raise ValueError(f"{op}: give index_dtype or out, not both")
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"{op}: out must be a tensor, got {type(out).__name__}")
    name = "index_dtype" if out is None else "out"
    dtype = out.dtype if out is not None else index_dtype or torch.int64
    if dtype not in _DTYPES:
        raise TypeError(f"{op}: {name} must be uint8, int32 or int64, got {dtype}")
    sets = isinstance(q, Tensor) and isinstance(d, Tensor) and q.ndim == d.ndim == 3
    if sets and dtype == torch.uint8 and compact_type(d.shape[1]) != torch.uint8:
        raise ValueError(
            f"{op}: {name} uint8 holds the places of up to 256 candidates, d has {d.shape[1]}; "
            "take int32 or int64"
        )
    if sets and out is not None:
        shape = (d.shape[0], *q.shape[:2])
        if out.shape != shape or not out.is_contiguous() or out.device != q.device:
            raise ValueError(
                f"{op}: out must be contiguous {list(shape)} on {q.device}, "
                f"got {list(out.shape)} on {out.device}"
            )
        if any(wants_gradient(x) for x in (q, d, a)):
            raise ValueError(f"{op}: out does not go together with gradients; leave it out")
    return Matches(dtype, out)
