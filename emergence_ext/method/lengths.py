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


def to_front(mask: Tensor, F: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where regions are that are to come first, and how many each image has.

    Args:
        mask: which rows of F are regions, `[N, R]` bool; in any order, at least one of each image.
        F: `[N, R, K]`.
        lengths: what was given beside, which must be nothing.

    Returns:
        Index of the rows in their new order, `[N, most]`, and lengths `[N]`.

    Raises:
        ValueError, TypeError: a mask that is not `[N, R]`, bool, an image without a region, or
            lengths as well.
    """
    if lengths is not None:
        raise ValueError("mask: give either lengths or a mask, not both")
    if mask.dtype != torch.bool or mask.device != F.device:
        raise TypeError(f"mask must be bool on {F.device}, got {mask.dtype} on {mask.device}")
    if mask.shape != F.shape[:2]:
        raise ValueError(
            f"mask must be {list(F.shape[:2])} for F {list(F.shape)}, got {list(mask.shape)}"
        )
    lengths = mask.sum(1)
    none = (lengths == 0).nonzero().flatten()
    if len(none):
        raise ValueError(f"mask: no region of image {int(none[0])} counts; leave the image out")
    most = int(lengths.max()) if len(lengths) else 0
    return (~mask).int().argsort(dim=1, stable=True)[:, :most], lengths


def in_order(F: Tensor, order: Tensor) -> Tensor:
    """The rows of F `[N, R, K]` in another order `[N, most]`, `[N, most, K]`."""
    return F.gather(1, order[..., None].expand(-1, -1, F.shape[-1]))
