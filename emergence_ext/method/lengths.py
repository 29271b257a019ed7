"""Images with different numbers of regions: how many of its R rows each has."""

from __future__ import annotations

import torch
from torch import Tensor


def real_regions(lengths: Tensor, F: Tensor) -> Tensor:
    """Which rows of F `[N, R, K]` are regions, `[N, R]`.

    Raises:
        ValueError, TypeError: lengths that are not `[N]`, integers, from 1 to R.
    """
    N, R = F.shape[:2]
    if lengths.dtype not in (torch.int64, torch.int32) or lengths.device != F.device:
        raise TypeError(
            f"lengths must be int64 or int32 on {F.device}, got {lengths.dtype} on {lengths.device}"
        )
    if lengths.shape != (N,):
        raise ValueError(f"lengths must be [{N}] for F {list(F.shape)}, got {list(lengths.shape)}")
    if N and (int(lengths.min()) < 1 or int(lengths.max()) > R):
        raise ValueError(
            f"lengths must lie in [1, {R}], as F {list(F.shape)} has room for {R} regions, "
            f"got entries from {int(lengths.min())} to {int(lengths.max())}"
        )
    return torch.arange(R, device=F.device) < lengths[:, None]


def mean_of_regions(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean over regions of x `[N, R]`, which is zero where there is room."""
    return x.mean() if lengths is None else x.sum() / lengths.sum()
