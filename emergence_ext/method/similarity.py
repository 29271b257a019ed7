"""Similarity between images as the network sees it (Sec. 3.2 of the paper)."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from emergence_ext.method.frame import unit_rows
from emergence_ext.settings import Settings


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
        ValueError: fewer than two images, or logits that are not finite.
    """
    return _softmax(_cosines(z), kappa_p, include_self)


def solve_kappa_p(z: Tensor, *, include_self: bool = Settings.include_self) -> float:
    """Find the `kappa_p` for which a row of P spreads over as many images as one category has.

    Solves `mean_i exp(entropy(P[i])) = N / C`. The paper gives no value. Solve it once, on the
    final checkpoint and the full set, and use it everywhere: solving it anew for another checkpoint
    would sharpen an untrained network's P and hide the emergence.

    Args:
        z: logits, `[N, C]`.
        include_self: whether the pair i = j takes part.

    Raises:
        ValueError: one category, fewer images than twice the categories, or logits so alike that
            no value does it.
    """
    cosines = _cosines(z.double())
    N, C = z.shape
    if C < 2:
        raise ValueError("z: one category has no others to differ from; give two or more logits")
    if N < 2 * C:
        raise ValueError(
            f"z: {N} images are too few to solve kappa_p for {C} categories; give at least {2 * C}"
        )

    def excess(log_kappa: float) -> float:
        P = _softmax(cosines, math.exp(log_kappa), include_self)
        return float(torch.special.entr(P).sum(1).exp().mean()) - N / C

    low, high = -7.0, 14.0
    if excess(low) < 0 or excess(high) > 0:
        raise ValueError(
            "z: no kappa_p makes a row of P spread over N / C images: the logits of the images are "
            "(nearly) all alike. Was the network trained, and are these its logits?"
        )
    return math.exp(brentq(excess, low, high, xtol=1e-10))


def _softmax(cosines: Tensor, kappa_p: float, include_self: bool) -> Tensor:
    scores = kappa_p * cosines
    if not include_self:
        scores.fill_diagonal_(-torch.inf)
    return torch.softmax(scores, dim=1)


def _cosines(z: Tensor) -> Tensor:
    if z.ndim != 2 or z.shape[0] < 2:
        raise ValueError(f"z must be [N, C] with at least two images, got {tuple(z.shape)}")
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z)).any(1).nonzero()[0])
        raise ValueError(f"z: the logits of image {bad} are not finite")
    unit = unit_rows(z)
    return unit @ unit.t()
