"""The loss of the projection of regions, with its choices (Sec. 3.2, Eq. 7-10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from emergence_ext.method.blocks import mean_over_blocks, mean_over_groups
from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.similarity import Similarity, among
from emergence_ext.method.vmf import log_mode_density
from emergence_ext.ops import choose
from emergence_ext.settings import Backend, Settings, WeightsOf

AT_ONCE: Final = 64 << 20
"""Bytes of matched rows that are looked up at once."""


def similarity_loss(
    h: Tensor,
    w: Tensor,
    P: Similarity,
    frame: Frame,
    *,
    include_self: bool = Settings.include_self,
    normaliser: bool = Settings.normaliser,
    weights_of: WeightsOf = Settings.weights_of,
    strength_gradient: bool = Settings.strength_gradient,
    matches: Tensor | None = None,
    backend: Backend = "auto",
    groups: Sequence[Tensor] | None = None,
    of_first: bool = False,
    lengths: Tensor | None = None,
) -> Tensor:
    """`L_similarity = mean_i KL(P[i] || softmax_j T[i])` (Eq. 7-9), a scalar.

    Args:
        h: projected regional features, `[N, R, dim]`.
        w: importance of regions, `[N, R]`.
        P: similarity between the images, see `Similarity`.
        frame: gives the concentration of a strength.
        include_self: whether the pair i = j takes part.
        normaliser: whether log C takes part in T.
        weights_of: whose w and strengths weigh a match, see `RegionalProjection`.
        strength_gradient: whether strengths have a gradient; without, they are numbers, in the
            concentrations as in the cosines.
        matches: of each region, see `matches_of`; None: the best ones among h.
        backend: what matches regions, see `backend.choose`.
        groups: indices of images within which P and Q sum to 1; None: all of them.
        of_first: whether the first image of a group alone conditions, in place of each in turn.
        lengths: how many of the R regions each image has, `[N]`; w is 0 beyond.
    """
    strength, orientation = polar(h)
    fixed = strength.detach()
    kappa, slope = frame.kappa.with_slope(fixed)
    if strength_gradient:
        kappa = kappa + slope * (strength - fixed)
    else:
        orientation = h / torch.where(fixed == 0, 1, fixed)[..., None]
    if weights_of == "conditioning":
        bias = h.new_zeros(len(h))  # log C of one image is the same for all others
    else:
        # log C + kappa max cos = (log C + kappa) + kappa (max cos - 1), neither of which cancels
        density = log_mode_density(kappa, frame.dim) if normaliser else kappa
        bias = (w * (density - kappa)).sum(1)
    match_kl = choose(backend, h.device, width=frame.dim).ops.match_kl

    def match(
        block: slice, at: Tensor | None, target: Tensor, n: Tensor | None, *x: Tensor
    ) -> Tensor:
        o, a, b = x
        own = None if n is None else n[block]
        exclude = None if include_self else torch.arange(len(o), device=o.device)[block]
        if at is not None:
            return _row_divergence(_matched(o, a, at, block, weights_of) + b, target, exclude)
        if weights_of == "conditioning":
            return match_kl(
                o[block], o, a[block], b, target, exclude, over="d", q_lengths=own, d_lengths=n
            )
        return match_kl(o, o[block], a, b, target, exclude, q_lengths=n, d_lengths=own)

    def of_block(block: slice, *x: Tensor) -> Tensor:
        at = None if matches is None else matches[block]
        return match(block, at, P[block], lengths, *x)  # type: ignore[index]

    def of_group(images: Tensor, *x: Tensor) -> Tensor:
        block = slice(0, 1) if of_first else slice(None)
        at = None if matches is None else matches[images[block]][:, images]
        own = None if lengths is None else lengths[images]
        return match(block, at, among(P, images)[block], own, *x)

    if groups is None:
        return mean_over_blocks(of_block, len(h), orientation, w * kappa, bias)
    return mean_over_groups(of_group, groups, orientation, w * kappa, bias)


def alignment_loss(h: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """`L_align = -mean_i sum_r w[i, r] cos(g_i, h[i, r])` (Eq. 10), a scalar."""
    cosine = (unit_rows(h) * unit_rows(g)[:, None]).sum(-1)
    return -(w * cosine).sum(1).mean()


def matches_of(
    F: Tensor,
    v: Tensor,
    weights_of: WeightsOf,
    backend: Backend = "auto",
    lengths: Tensor | None = None,
) -> Tensor:
    """Look up the match of every region by raw features, `argmax_s sum_k v_k Fn[r, k] Fn[s, k]`.

    Args:
        F: regional features, `[N, R, K]`.
        v: importance of channels, `[N, K]`.
        weights_of: whose regions look for matches, and with whose v.
        backend: what matches regions, see `backend.choose`.
        lengths: how many of the R regions each image has, `[N]`; rows beyond match nothing.

    Returns:
        Regions, `[N, N, R]`, int16: of the images i and j those of one that match the R of the
        other, which is j where weights are of the scored image and i where of the conditioning one.
    """
    Fn = unit_rows(F)
    indices = choose(backend, F.device, width=F.shape[-1]).ops.maxsim_indices
    found = torch.empty(len(F), len(F), F.shape[1], dtype=torch.int16, device=F.device)
    length = max(1, AT_ONCE // (8 * len(F) * F.shape[1]))
    for start in range(0, len(F), length):
        rows = slice(start, start + length)
        looking = v[rows, None] * Fn[rows]
        own = None if lengths is None else lengths[rows]
        at = indices(looking, Fn, q_lengths=own, d_lengths=lengths)[1]  # [all, rows, R]
        if weights_of == "conditioning":
            found[rows] = at.transpose(0, 1)
        else:
            found[:, rows] = at
    return found


def _matched(o: Tensor, a: Tensor, at: Tensor, block: slice, weights_of: WeightsOf) -> Tensor:
    """`T [B, N]` of the matches `at [B, N, R]` of a block of conditioning images."""
    N, S, dim = o.shape
    looking = o[block]
    images = torch.arange(N, device=o.device)
    length = max(1, AT_ONCE // (4 * dim * at[:1].numel()))
    parts = []
    for own, its_matches in zip(looking.split(length), at.split(length), strict=True):
        if weights_of == "conditioning":
            rows = (images[:, None] * S + its_matches.long()).view(len(own), -1)
            cosine = (o.reshape(-1, dim)[rows].view(*its_matches.shape, dim) * own[:, None]).sum(-1)
        else:
            first = torch.arange(len(own), device=o.device)[:, None, None] * S
            rows = (first + its_matches.long()).view(len(own), -1)
            cosine = (own.reshape(-1, dim)[rows].view(*its_matches.shape, dim) * o).sum(-1)
        parts.append(cosine)
    weights = a[block][:, None] if weights_of == "conditioning" else a
    return (torch.cat(parts) * weights).sum(-1)


def _row_divergence(T: Tensor, P: Tensor, exclude: Tensor | None) -> Tensor:
    """`mean_i KL(P[i] || softmax_j T[i])` of `[B, N]`, a column of each row left out."""
    if exclude is not None:
        out = torch.zeros_like(T, dtype=torch.bool).scatter_(1, exclude[:, None], True)
        T, P = T.masked_fill(out, -1e30), P.masked_fill(out, 0)
    return (torch.xlogy(P, P) - P * torch.log_softmax(T, dim=1)).sum(1).mean()
