"""Correlation, the entropy it is read against, and the folds that keep it honest."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

from emergence_ext.settings import Settings


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation along the last dimension; NaN where either is constant.

    Args:
        x: `[..., n]`.
        y: `[..., n]`.

    Returns:
        `[...]`, in the dtype of x.

    Raises:
        ValueError: shapes that differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    a, b = x.double(), y.double()
    # By comparison: a constant less its rounded mean is not exactly 0.
    constant = (a == a[..., :1]).all(-1) | (b == b[..., :1]).all(-1)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    r = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return torch.where(constant, torch.nan, r).to(x.dtype)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of the ranks along the last dimension, equal values sharing their mean.

    Args:
        x: `[..., n]`.
        y: `[..., n]`.

    Returns:
        `[...]`, in the dtype of x; NaN where either is constant or not a number.

    Raises:
        ValueError: shapes that differ.
    """
    ranks = [torch.as_tensor(rankdata(v.detach().cpu().double().numpy(), axis=-1)) for v in (x, y)]
    return pearson(*ranks).to(x)


def entropy(z: Tensor, temperature: float = Settings.temperature) -> Tensor:
    """Entropy in nats of `softmax(z / temperature)`, `[N]` for logits `[N, C]`."""
    log_p = torch.log_softmax(z.double() / temperature, dim=1)
    return -(log_p.exp() * log_p).sum(1).to(z.dtype)


def stratified_folds(y: Tensor, folds: int, random_state: int = 0) -> Tensor:
    """The fold of each sample, `[N]` in `[0, folds)`, categories spread evenly over the folds.

    Raises:
        ValueError: more folds than samples, or fewer than two.
    """
    if not 2 <= folds <= len(y):
        raise ValueError(f"folds must be between 2 and the number of samples {len(y)}, got {folds}")
    generator = torch.Generator().manual_seed(random_state)
    order = torch.randperm(len(y), generator=generator)
    order = order[torch.argsort(y[order], stable=True)]  # by category, shuffled within
    fold = torch.empty(len(y), dtype=torch.int64)
    fold[order] = torch.arange(len(y)) % folds
    return fold
