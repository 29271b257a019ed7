"""Similarity between images as the network sees it (Sec. 3.2 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Final

import torch
from scipy.optimize import brentq
from torch import Tensor

from emergence_ext import parallel
from emergence_ext.method.blocks import is_of_all
from emergence_ext.method.frame import unit_rows
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.settings import Settings

BLOCK_BYTES: Final = 4 << 20
"""Scores in float64 that are held at once."""


Similarity = Tensor | Callable[[Tensor], Tensor]
"""P of all images, `[N, N]`; or from indices of some, `[n]`, to P among these, `[n, n]`."""


def among(P: Similarity, images: Tensor) -> Tensor:
    """P among some of the images, by indices or mask, `[n, n]`; rows sum to 1."""
    if not isinstance(P, Tensor):
        return P(images)
    part = P[images][:, images].float()
    return part / part.sum(1, keepdim=True).clamp_min(1e-30)


def require_similarity(P: Similarity, count: int, pairs: int | None) -> None:
    """Refuse a P that is not of so many images.

    Raises:
        ValueError: another shape, or no array where all pairs are scored.
    """
    if isinstance(P, Tensor):
        if P.shape != (count, count):
            raise ValueError(f"P must be {[count, count]} for {count} images, got {list(P.shape)}")
    elif not callable(P):
        raise TypeError(f"P: expected a tensor [N, N], got {type(P).__name__}")
    elif is_of_all(pairs, count):
        raise ValueError("P must be [N, N] where all pairs are scored, got a function")


@takes_numpy
def image_similarity(
    z: Tensor, kappa_p: float, *, include_self: bool = Settings.include_self
) -> Tensor:
    """`P[i, j] = softmax_j(kappa_p cos(z_i, z_j))`, the probability of image j given image i.

    Args:
        z: logits, `[N, C]`; a zero row is similar to nothing.
        kappa_p: concentration, from `solve_kappa_p` on the final checkpoint.
        include_self: whether the pair i = j takes part.

    Returns:
        `P`, `[N, N]`, rows sum to 1; the diagonal is 0 without `include_self`.

    Raises:
        ValueError: fewer than two images, logits that are not finite, or kappa_p below 0.

    Examples:
        >>> import emergence_ext as ee
        >>> z = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> ee.image_similarity(z, kappa_p=1.0).round(decimals=2)
        tensor([[0.0000, 0.7300, 0.2700],
                [0.7300, 0.0000, 0.2700],
                [0.5000, 0.5000, 0.0000]])
    """
    _require_concentration(kappa_p)
    unit = _unit(z)
    P = unit.new_empty(len(z), len(z))
    for rows in _blocks(len(z)):
        P[rows] = _softmax(kappa_p * (unit[rows] @ unit.t()), rows, include_self)
    return P


@takes_numpy
def similarity_with(z: Tensor, others: Tensor, kappa_p: float) -> Tensor:
    """`softmax_j(kappa_p cos(z_i, others_j))`: image j given an image i that is none of them.

    Args:
        z: logits, `[n, C]`.
        others: logits of other images, `[N, C]`.
        kappa_p: as for `image_similarity`.

    Returns:
        `[n, N]`, rows sum to 1.

    Raises:
        ValueError: logits of other categories, or kappa_p below 0.

    Examples:
        >>> from emergence_ext import method
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> method.similarity_with(z[:1], z, kappa_p=2.0)
        tensor([[0.8808, 0.1192]])
    """
    _require_concentration(kappa_p)
    if z.ndim != 2 or others.ndim != 2 or z.shape[1] != others.shape[1]:
        raise ValueError(
            "z and others must be [n, C] and [N, C], logits of the same categories; got "
            f"{tuple(z.shape)} and {tuple(others.shape)}"
        )
    return torch.softmax(kappa_p * (unit_rows(z.float()) @ unit_rows(others.float()).t()), dim=1)


def similarity_for(
    z: Tensor, kappa_p: float, pairs: int | None, *, include_self: bool = Settings.include_self
) -> Similarity:
    """Give P to a fit with `pairs`: as a whole where all are scored, else among some images.

    Args:
        z, kappa_p, include_self: as for `image_similarity`.
        pairs: of the fit.

    Examples:
        >>> from emergence_ext import method
        >>> z = torch.randn(6, 3)
        >>> P = method.similarity_for(z, 4.0, pairs=None)
        >>> P.shape
        torch.Size([6, 6])
    """
    if is_of_all(pairs, len(z)):
        return image_similarity(z, kappa_p, include_self=include_self)
    return lambda images: image_similarity(z[images], kappa_p, include_self=include_self)


@takes_numpy
def solve_kappa_p(z: Tensor, *, include_self: bool = Settings.include_self) -> float:
    """Find the `kappa_p` for which a row of P spreads over as many images as one category has.

    Solves `mean_i exp(entropy(P[i])) = N / C`. The paper gives no value. Solve it once, on the
    final checkpoint and the full set, and use it everywhere: solving it anew for another checkpoint
    would sharpen an untrained network's P and hide the emergence. It takes 4 bytes of memory for
    each pair of images, as much as P, and computes in float64. The processes of a job, which call
    this together, share the rows.

    Args:
        z: logits, `[N, C]`.
        include_self: whether the pair i = j takes part.

    Raises:
        ValueError: one category, fewer images than twice the categories, or logits so alike that
            no value does it.

    Examples:
        >>> import emergence_ext as ee
        >>> noise = torch.rand(15, 3, generator=torch.Generator().manual_seed(0))
        >>> z = 2 * torch.eye(3).repeat(5, 1) + noise  # fifteen images of three categories
        >>> P = ee.image_similarity(z, ee.solve_kappa_p(z))
        >>> round(float(torch.special.entr(P).sum(1).exp().mean()), 1)  # that a row spreads over
        5.0
    """
    unit = _unit(z.double())
    N, C = z.shape
    if C < 2:
        raise ValueError("z: one category has no others to differ from; give two or more logits")
    if N < 2 * C:
        raise ValueError(
            f"z: {N} images are too few to solve kappa_p for {C} categories; give at least {2 * C}"
        )

    # A softmax of -kappa (1 - cosine) is that of kappa cosine; this way float32 does, at any kappa.
    blocks = list(_blocks(N))
    each = -(-len(blocks) // parallel.world())
    own = blocks[parallel.rank() * each :][:each]
    length = blocks[0].stop
    distances = unit.new_empty(sum(len(unit[x]) for x in own), N, dtype=torch.float32)
    parts = distances.split(length)
    for part, rows in zip(parts, own, strict=False):
        part.copy_(1 - unit[rows] @ unit.t())

    def excess(log_kappa: float) -> float:
        kappa_p = math.exp(log_kappa)
        spread = unit.new_zeros(each * length)
        for k, rows in enumerate(own):
            P = _softmax(parts[k].double().mul_(-kappa_p), rows, include_self)
            spread[k * length :][: len(P)] = torch.special.entr(P).sum(1).exp()
        return float(torch.cat([*parallel.gathered(spread)])[:N].mean()) - N / C

    low, high = -7.0, 14.0
    if excess(low) < 0 or excess(high) > 0:
        raise ValueError(
            "z: no kappa_p makes a row of P spread over N / C images: the logits of the images are "
            "(nearly) all alike. Was the network trained, and are these its logits?"
        )
    return math.exp(brentq(excess, low, high, xtol=1e-10))


def _blocks(N: int) -> Iterator[slice]:
    """Rows of P by the few MiB, which pass through a cache one after the other."""
    length = max(1, min(N, BLOCK_BYTES // (8 * N)))
    return (slice(start, start + length) for start in range(0, N, length))


def _softmax(scores: Tensor, rows: slice, include_self: bool) -> Tensor:
    if not include_self:
        scores.diagonal(rows.start).fill_(-torch.inf)
    return torch.softmax(scores, dim=1)


def _require_concentration(kappa_p: object) -> None:
    if not isinstance(kappa_p, Real | Tensor) or not 0 <= float(kappa_p) < math.inf:
        raise ValueError(f"kappa_p must be a finite number, at least 0, got {kappa_p!r}")


def _unit(z: Tensor) -> Tensor:
    if z.ndim != 2 or z.shape[0] < 2:
        raise ValueError(f"z must be [N, C] with at least two images, got {tuple(z.shape)}")
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z)).any(1).nonzero()[0])
        raise ValueError(f"z: the logits of image {bad} are not finite")
    return unit_rows(z)
