"""Correlation, the entropy it is read against, and the folds that keep it honest."""

from __future__ import annotations

from numbers import Integral

import torch
from scipy.stats import rankdata
from torch import Tensor

from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.settings import Settings, require_real


@takes_numpy
def pearson(x: Tensor, y: Tensor, where: Tensor | None = None) -> Tensor:
    """Pearson correlation along the last dimension; NaN where either is constant.

    Args:
        x: `[..., n]`.
        y: `[..., n]`.
        where: pairs that count, `[..., n]` bool; None: all.

    Returns:
        `[...]`, in the dtype of x; of whole numbers in torch's default.

    Raises:
        ValueError: shapes that differ.

    Examples:
        >>> from emergence_ext import method
        >>> method.pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0]))
        tensor(1.)
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    if where is not None and (where.shape != x.shape or where.dtype != torch.bool):
        raise ValueError(
            f"where must be bool {tuple(x.shape)}, got {where.dtype} {tuple(where.shape)}"
        )
    a, b = x.double(), y.double()
    if where is not None:
        first = where.int().argmax(-1, keepdim=True)  # the others are like the first that counts
        a, b = (torch.where(where, v, v.gather(-1, first)) for v in (a, b))
    # By comparison: a constant less its rounded mean is not exactly 0.
    constant = (a == a[..., :1]).all(-1) | (b == b[..., :1]).all(-1)
    a, b = (v - _mean(v, where) for v in (a, b))
    if where is not None:
        a, b = a * where, b * where
    r = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return torch.where(constant, torch.nan, r).to(_dtype(x))


def _dtype(x: Tensor) -> torch.dtype:
    """Of a result that is no whole number, whatever x is of."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _mean(x: Tensor, where: Tensor | None) -> Tensor:
    """The mean along the last dimension of what counts, `[..., 1]`."""
    if where is None:
        return x.mean(-1, keepdim=True)
    return (x * where).sum(-1, keepdim=True) / where.sum(-1, keepdim=True)


@takes_numpy
def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of the ranks along the last dimension, equal values sharing their mean.

    Args:
        x: `[..., n]`.
        y: `[..., n]`.

    Returns:
        `[...]`, in the dtype of x, of whole numbers in torch's default; NaN where either is
        constant or not a number.

    Raises:
        ValueError: shapes that differ.

    Examples:
        >>> from emergence_ext import method
        >>> method.spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([5.0, 6.0, 7.0]))
        tensor(1.)
    """
    ranks = [torch.as_tensor(rankdata(v.detach().cpu().double().numpy(), axis=-1)) for v in (x, y)]
    return pearson(*ranks).to(x.device, _dtype(x))


@takes_numpy
def entropy(z: Tensor, temperature: float = Settings.temperature) -> Tensor:
    """Entropy in nats of `softmax(z / temperature)`, `[N]` for logits `[N, C]`.

    Raises:
        ValueError: another shape, or a temperature that is not positive.

    Examples:
        >>> from emergence_ext import method
        >>> method.entropy(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
        tensor([0.6931, 0.0012])
    """
    if z.ndim != 2:
        raise ValueError(f"z must be [N, C], got {tuple(z.shape)}")
    require_real("temperature", temperature)
    log_p = torch.log_softmax(z.double() / temperature, dim=1)
    return -(log_p.exp() * log_p).sum(1).to(_dtype(z))


@takes_numpy
def stratified_folds(y: Tensor, folds: int, random_state: int = 0) -> Tensor:
    """The fold of each sample, `[N]` in `[0, folds)`, categories spread evenly over the folds.

    Raises:
        ValueError: more folds than samples, or fewer than two.

    Examples:
        >>> from emergence_ext import method
        >>> method.stratified_folds(torch.tensor([0, 0, 1, 1]), folds=2).bincount()
        tensor([2, 2])
    """
    if y.ndim != 1:
        raise ValueError(f"y must be [N], got {tuple(y.shape)}")
    if not isinstance(folds, Integral):
        raise TypeError(f"folds: expected a whole number, got {folds!r}")
    if not 2 <= folds <= len(y):
        raise ValueError(f"folds must be between 2 and the number of samples {len(y)}, got {folds}")
    generator = torch.Generator().manual_seed(random_state)
    order = torch.randperm(len(y), generator=generator)
    order = order[torch.argsort(y[order], stable=True)]  # by category, shuffled within
    fold = torch.empty(len(y), dtype=torch.int64)
    fold[order] = torch.arange(len(y)) % folds
    return fold
