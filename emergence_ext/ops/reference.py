"""The ops in plain torch: names, signatures and results of `emergence_ext.ops`, no compiled code.

Everything is a block of conditioning images at a time: nothing of size N x N x R x S exists;
`max_memory` bounds the block of scores. The arguments, shapes and errors are those of the ops.
Under autocast they compute in float32 as well; leave it before `backward()`, as torch advises.
Wide rows on CUDA are matched as `precision` allows on tensor cores (`tensor_cores`).
They look at values, which `torch.vmap`, `torch.export` and `torch.compile(fullgraph=True)` refuse.
Symbols: `N` scored images j with `R` regions, `B` conditioning images i with `S` regions, `D` the
width of a region's feature.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emergence_ext.ops import packed, tensor_cores
from emergence_ext.ops.autocast import in_float32
from emergence_ext.ops.checks import checked, checked_scale, checked_targets, refuse_gradients
from emergence_ext.ops.matches import matches_of
from emergence_ext.ops.ragged import Ragged
from emergence_ext.ops.tensor_cores import Products

BLOCK_BYTES: Final = 8 << 20
"""Scores held at once when `max_memory` is not given; they should stay in a cache."""

GATHER_WIDTH: Final = 32
"""Up to this D gradients gather the winners; above it a product with a sparse matrix is faster."""


@in_float32
def maxsim(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.maxsim`; on the CPU in float32 or float64, whatever the precision.

    Examples:
        >>> from emergence_ext import reference
        >>> q, d = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.0], [0.9, 0.1]]])
        >>> reference.maxsim(q, d)
        tensor([[0.9000]])
    """
    lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
    options: dict[str, Any] = {
        "empty_score": empty_score,
        "precision": precision,
        "max_memory": max_memory,
    }
    return maxsim_indices(q, d, a, **lengths, **options)[0]


@in_float32
def maxsim_indices(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
    index_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `maxsim`, with the matches: `(T [B, N], argmax [B, N, R])`, without gradient.

    Examples:
        >>> from emergence_ext import reference
        >>> q, d = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.0], [0.9, 0.1]]])
        >>> reference.maxsim_indices(q, d)
        (tensor([[0.9000]]), tensor([[[1]]]))
    """
    matches = matches_of(q, d, a, index_dtype, out)
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    given, (q, d, a) = q, checked("maxsim", q, d, a, precision, ragged=ragged)
    products = tensor_cores.products_for(q, given.dtype, precision)
    best_in = _matcher(q, products)
    (N, R, _), B = q.shape, len(d)
    rows, indices = [], []
    length = _pairs_at_once(q, d, products, max_memory) // max(1, N)
    for images in _slices(B, length) or [slice(0, 0)]:  # nothing has a gradient as well
        block = d[images]
        best, places = best_in(block)
        rows.append((a * best.view(N, R, len(block)).permute(2, 0, 1)).sum(-1))
        indices.append(places.view(N, R, len(block)).permute(2, 0, 1))
    return matches.kept(ragged.scores(torch.cat(rows)), torch.cat(indices))


def maxsim_packed(
    q: Tensor | np.ndarray,
    cu_q: Tensor | np.ndarray,
    d: Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray],
    cu_d: Tensor | np.ndarray | None = None,
    *,
    d_scale: Tensor | np.ndarray | float | None = None,
    pairs: Tensor | np.ndarray | None = None,
    topk: int | None = None,
    prepare: Callable[[Tensor, int], Tensor] | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Any:
    """As `emergence_ext.ops.maxsim_packed`, the sets padded for as long as the call lasts.

    Examples:
        >>> from emergence_ext import reference
        >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
        >>> queries, documents = torch.tensor([0, 1, 3]), torch.tensor([0, 2, 3])
        >>> reference.maxsim_packed(tokens, queries, tokens, documents)
        tensor([[1.0000, 1.5000],
                [0.5000, 1.0000]])
    """
    options = {"empty_score": empty_score, "precision": precision}
    matcher = packed.Matcher(ops=sys.modules[__name__], compiled=None, options=options)
    return packed.maxsim_packed(
        matcher, q, cu_q, d, cu_d, d_scale, pairs, topk, prepare, max_memory
    )


@in_float32
def match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.match_kl`; on the CPU in float32 or float64 at any precision.

    Examples:
        >>> from emergence_ext import reference
        >>> q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> reference.match_kl(q, q, torch.ones(2, 1), torch.zeros(2), torch.full((2, 2), 0.5))
        tensor(0.1201)
    """
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    given, (q, d, a) = q, checked("match_kl", q, d, a, precision, ragged=ragged)
    products = tensor_cores.products_for(q, given.dtype, precision)
    b, P = checked_targets("match_kl", q, d, b, P, exclude, over)
    b = ragged.bias(b, over)
    needs = tuple(torch.is_grad_enabled() and x.requires_grad for x in (q, d, a, b))
    return _MatchKL.apply(q, d, a, b, P, exclude, over, needs, products, max_memory)[0]


@in_float32
def match_kl_scaled(
    f: Tensor,
    v: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.match_kl_scaled`; on the CPU in float32 or float64 always.

    Examples:
        >>> from emergence_ext import reference
        >>> f = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> P = torch.full((2, 2), 0.5)
        >>> reference.match_kl_scaled(f, torch.ones(2, 2), f, torch.ones(2, 1), torch.zeros(2), P)
        tensor(0.1201)
    """
    refuse_gradients("match_kl_scaled", f=f, d=d)
    v = checked_scale("match_kl_scaled", f, v)
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    f, d, a = checked("match_kl_scaled", f, d, a, precision, first="f", ragged=ragged)
    b, P = checked_targets("match_kl_scaled", f, d, b, P, exclude, over)
    b = ragged.bias(b, over)
    products = tensor_cores.products_for(f, f.dtype, precision)  # v f has the bits of float32
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in (v, a, b)]
    needs = (wanted[0], False, *wanted[1:])
    return _MatchKLScaled.apply(f, v, d, a, b, P, exclude, over, needs, products, max_memory)[0]


class _MatchKL(torch.autograd.Function):
    """The loss, and its gradients for (q, d, a, b) as `needs` says."""

    @staticmethod
    def forward(q, d, a, b, P, exclude, over, needs, products, max_memory):  # type: ignore[no-untyped-def]
        given = (q, d, a, b, P, exclude)
        loss, grads = _loss_and_gradients(*given, over, needs, products, max_memory)
        return loss, *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *grads = output
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(*(g for g in grads if g is not None))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any):  # type: ignore[no-untyped-def]
        return *(None if g is None else grad * g for g in ctx.saved_tensors), *(None,) * 6


class _MatchKLScaled(_MatchKL):
    """The same of v f: gradients for (v, a, b), f and d having none."""

    @staticmethod
    def forward(f, v, d, a, b, P, exclude, over, needs, products, max_memory):  # type: ignore[no-untyped-def,override]
        given = (v[:, None, :] * f, d, a, b, P, exclude)
        loss, grads = _loss_and_gradients(*given, over, needs, products, max_memory)
        dq, dd, da, db = grads
        dv = None if dq is None else torch.einsum("nrd,nrd->nd", f, dq)
        return loss, None, dv, dd, da, db


def _loss_and_gradients(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    over: str,
    needs: tuple[bool, ...],
    products: Products | None,
    max_memory: int | None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss of `match_kl` and its gradients for (q, d, a, b) where `needs` says so."""
    (N, R, _), B = q.shape, len(d)
    dq, dd, da, db = (
        x.new_zeros(x.shape) if need else None for x, need in zip((q, d, a, b), needs, strict=True)
    )
    loss = q.new_zeros(())
    pairs = _pairs_at_once(q, d, products, max_memory)
    # Over q a block of images of d is complete in itself, over d one of images of q.
    for scored in [slice(0, N)] if over == "q" else _slices(N, pairs // max(1, B)):
        best_in = _matcher(q[scored], products)
        n = scored.stop - scored.start
        pieces = _slices(B, pairs // max(1, n))
        for images in pieces if over == "q" else [slice(0, B)]:
            rows = images if over == "q" else scored
            best, places = _best_of(best_in, d, [images] if over == "q" else pieces)
            m = best.view(n, R, images.stop - images.start)
            T = torch.einsum("nr,nrk->kn" if over == "q" else "nr,nrk->nk", a[scored], m) + b
            excluded = None if exclude is None else exclude[rows]
            row_loss, G = _row_losses(T, P[rows], excluded, len(P))
            loss += row_loss
            if db is not None:
                db += G.sum(0)
            G = G.t() if over == "q" else G  # dloss/dT of pairs [n, images]
            if da is not None:
                da[scored] += torch.einsum("nk,nrk->nr", G, m)
            if dq is None and dd is None:
                continue
            coef = (G[:, None, :] * a[scored][:, :, None]).flatten(0, 1)[..., None]
            of_q = None if dq is None else dq[scored]
            for piece in [images] if over == "q" else pieces:
                at = slice(piece.start - images.start, piece.stop - images.start)
                of_d = None if dd is None else dd[piece]
                _add_gradients(q[scored], d[piece], coef[:, at], places[:, at], of_q, of_d)
    return loss, (dq, dd, da, db)


def _row_losses(T: Tensor, P: Tensor, exclude: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The rows' share of the mean of `KL(P || softmax(T))` over `count` rows, and dloss/dT."""
    if exclude is not None:
        T, P = _without(T, P, exclude)
    log_q = torch.log_softmax(T, dim=1)
    cross = torch.where(P > 0, P * log_q, 0)  # 0 * -inf of an excluded column is 0
    G = (log_q.exp() * P.sum(1, keepdim=True) - P) / count
    if exclude is not None:
        G = torch.where(T.isneginf(), 0, G)  # a row without any column left has no gradient
    return (torch.xlogy(P, P) - cross).sum() / count, G


def _add_gradients(
    q: Tensor, d: Tensor, coef: Tensor, winner: Tensor, dq: Tensor | None, dd: Tensor | None
) -> None:
    """Add `coef * d[i, winner]` to dq and `coef * q` to `dd[i, winner]`, always in the same order.

    Args:
        q: `[N, R, D]`; dq likewise.
        d: `[n, S, D]`, a block; dd likewise.
        coef: `a[j, r] * dloss/dT[i, j]`, `[N R, n, 1]`.
        winner: best match, `[N R, n]`.
    """
    (n, S, D), rows = d.shape, len(coef)
    if D <= GATHER_WIDTH and q.device.type == "cpu":  # index_add_ on CUDA has no fixed order
        flat = winner + S * torch.arange(n)
        if dq is not None:
            dq.view(rows, D).add_((coef * d.reshape(-1, D)[flat]).sum(1))
        if dd is not None:
            items = (coef * q.reshape(rows, 1, D)).reshape(-1, D)
            dd.view(-1, D).index_add_(0, flat.reshape(-1), items)
        return
    W = coef.new_zeros(rows, n, S).scatter_(2, winner[..., None], coef).flatten(1)
    if dq is not None:
        dq.view(rows, D).addmm_(W, d.reshape(-1, D))
    if dd is not None:
        dd.add_((W.t() @ q.reshape(rows, D)).view_as(dd))


def _matcher(q: Tensor, products: Products | None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What finds the best product of every region in each image of a block, and its place.

    Both are `[N R, n]`, for a block `[n, S, D]`; of equal products the lowest place wins.
    """
    if products is not None:
        return tensor_cores.Matcher(q, products)

    def best_in(d: Tensor) -> tuple[Tensor, Tensor]:
        best = _scores(q, d).max(dim=2)
        return best.values, best.indices

    return best_in


def _best_of(
    best_in: Callable[[Tensor], tuple[Tensor, Tensor]], d: Tensor, pieces: list[slice]
) -> tuple[Tensor, Tensor]:
    """What `_matcher` gives for images that do not fit into memory at once."""
    found = [best_in(d[piece]) for piece in pieces or [slice(0, 0)]]
    return torch.cat([best for best, _ in found], 1), torch.cat([at for _, at in found], 1)


def _scores(q: Tensor, d: Tensor) -> Tensor:
    """`<q[j, r], d[i, s]>` as `[N R, B, S]`."""
    N, R, D = q.shape
    return (q.reshape(N * R, D) @ d.reshape(-1, D).t()).view(N * R, *d.shape[:2])


def _without(T: Tensor, P: Tensor, exclude: Tensor) -> tuple[Tensor, Tensor]:
    """`T` at minus infinity and `P` at 0 in column `exclude[i]` of row i."""
    column = torch.arange(T.shape[1], device=T.device) == exclude[:, None]
    return T.masked_fill(column, -torch.inf), P.masked_fill(column, 0)


def _pairs_at_once(q: Tensor, d: Tensor, products: Products | None, max_memory: int | None) -> int:
    """How many pairs of images a block may hold; at least one."""
    if max_memory is not None and max_memory <= 0:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory}")
    R, S = q.shape[1], d.shape[1]
    if products is not None:
        S = max(S, tensor_cores.SLICE)  # what scoring the matches again takes
    # Scores, their maxima, and the coefficient matrix of the backward pass: three of this size.
    each = 3 * max(1, R * S * q.element_size())
    return max(1, (max_memory or 3 * BLOCK_BYTES) // each)


def _slices(count: int, length: int) -> list[slice]:
    """Cut `count` images into blocks of `length`, at least of one."""
    length = max(1, length)
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]
