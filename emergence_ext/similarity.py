"""Similarity between images as the network sees it (Sec. 3.2 of the paper)."""

from __future__ import annotations

import torch
from scipy.optimize import brentq
from torch import Tensor

from emergence_ext.frame import unit_rows


def image_similarity(z: Tensor, kappa_p: float, *, include_self: bool = True) -> Tensor:
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
    return torch.log_softmax(kappa_p * _cosines(z, include_self), dim=1).exp()


def solve_kappa_p(z: Tensor, *, include_self: bool = True) -> float:
    """Find the `kappa_p` for which a row of P spreads over as many images as one category has.

    Solves `mean_i exp(entropy(P[i])) = N / C`. The paper gives no value. Solve it once, on the final
    checkpoint and the full set, and use it everywhere: solving it anew for another checkpoint would sharpen an
    untrained network's P and hide the emergence.

    Args:
        z: logits, `[N, C]`.
        include_self: whether the pair i = j takes part.

    Raises:
        ValueError: fewer images than twice the categories, or logits so alike that no value does it.
    """
    N, C = z.shape
    if N < 2 * C:
        raise ValueError(f"z: {N} images are too few to solve kappa_p for {C} categories; give at least {2 * C}")
    cosines = _cosines(z.double(), include_self)

    def excess(log_kappa: float) -> float:
        log_p = torch.log_softmax(float(torch.tensor(log_kappa).exp()) * cosines, dim=1)
        entropy = -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0).sum(1)
        return float(entropy.exp().mean()) - N / C

    low, high = -7.0, 14.0
    if excess(low) < 0 or excess(high) > 0:
        raise ValueError(
            "z: no kappa_p makes a row of P spread over N / C images: the logits of the images are (nearly) all "
            "alike. Was the network trained, and are these its logits?"
        )
    return float(torch.tensor(brentq(excess, low, high, xtol=1e-10)).exp())


def _cosines(z: Tensor, include_self: bool) -> Tensor:
    if z.ndim != 2 or z.shape[0] < 2:
        raise ValueError(f"z must be [N, C] with at least two images, got {tuple(z.shape)}")
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z)).any(1).nonzero()[0])
        raise ValueError(f"z: the logits of image {bad} are not finite")
    unit = unit_rows(z)
    cosines = unit @ unit.t()
    if not include_self:
        cosines.fill_diagonal_(-torch.inf)
    return cosines
