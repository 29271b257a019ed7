"""The ops in plain torch: names, signatures and results of `emergence_ext.ops`, no compiled code.

Everything is a block of conditioning images at a time: nothing of size N x N x R x S exists;
`max_memory` bounds the block of scores. The arguments, shapes and errors are those of the ops.
Under autocast they compute in float32 as well; leave it before `backward()`, as torch advises.
They look at values, which `torch.vmap`, `torch.export` and `torch.compile(fullgraph=True)` refuse.
Symbols: `N` scored images j with `R` regions, `B` conditioning images i with `S` regions, `D` the
width of a region's feature.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emergence_ext.ops.autocast import in_float32

PRECISIONS: Final = ("highest", "high", "medium")
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
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.maxsim`, but always in float32 or float64, whatever the precision."""
    return maxsim_indices(q, d, a, precision=precision, max_memory=max_memory)[0]


@in_float32
def maxsim_indices(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    precision: str = "highest",
    max_memory: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `maxsim`, with the matches: `(T [B, N], argmax [B, N, R])`, int64, without gradient."""
    q, d, a = _checked("maxsim", q, d, a, precision)
    (N, R, _), (B, S, _) = q.shape, d.shape
    rows, indices = [], []
    for block in d.split(_block_length(N * R, S, q.element_size(), max_memory)):
        best = _scores(q, block).max(dim=2)
        rows.append((a * best.values.view(N, R, len(block)).permute(2, 0, 1)).sum(-1))
        indices.append(best.indices.view(N, R, len(block)).permute(2, 0, 1))
    if not rows:
        return q.new_zeros(B, N), torch.zeros(B, N, R, dtype=torch.int64, device=q.device)
    return torch.cat(rows), torch.cat(indices)


@in_float32
def match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.match_kl`, but always in float32 or float64, whatever the precision."""
    q, d, a = _checked("match_kl", q, d, a, precision)
    b, P = _checked_targets("match_kl", q, d, b, P, exclude)
    needs = tuple(torch.is_grad_enabled() and x.requires_grad for x in (q, d, a, b))
    return _MatchKL.apply(q, d, a, b, P, exclude, needs, max_memory)[0]


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
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """As `emergence_ext.ops.match_kl_scaled`, but always in float32 or float64."""
    if v.ndim != 2 or f.ndim != 3 or v.shape != (f.shape[0], f.shape[2]):
        raise ValueError(
            f"match_kl_scaled: v must be [N, D] for f [N, R, D]; got v {tuple(v.shape)} "
            f"and f {tuple(f.shape)}"
        )
    if v.dtype != f.dtype or v.device != f.device:
        raise TypeError(
            f"match_kl_scaled: v is {v.dtype} on {v.device}, f is {f.dtype} on {f.device}; "
            "give both the same dtype and device"
        )
    for name, x in (("f", f), ("d", d)):
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"match_kl_scaled: {name} has no gradient here; pass it detached")
    f, d, a = _checked("match_kl_scaled", f, d, a, precision, first="f")
    b, P = _checked_targets("match_kl_scaled", f, d, b, P, exclude)
    v = v.to(f.dtype)
    _require_finite("match_kl_scaled", "v", v)
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in (v, a, b)]
    needs = (wanted[0], False, *wanted[1:])
    return _MatchKLScaled.apply(f, v, d, a, b, P, exclude, needs, max_memory)[0]


class _MatchKL(torch.autograd.Function):
    """The loss, and its gradients for (q, d, a, b) as `needs` says."""

    @staticmethod
    def forward(q, d, a, b, P, exclude, needs, max_memory):  # type: ignore[no-untyped-def]
        loss, grads = _loss_and_gradients(q, d, a, b, P, exclude, needs, max_memory)
        return loss, *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *grads = output
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(*(g for g in grads if g is not None))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any):  # type: ignore[no-untyped-def]
        return *(None if g is None else grad * g for g in ctx.saved_tensors), None, None, None, None


class _MatchKLScaled(_MatchKL):
    """The same of v f: gradients for (v, a, b), f and d having none."""

    @staticmethod
    def forward(f, v, d, a, b, P, exclude, needs, max_memory):  # type: ignore[no-untyped-def,override]
        q = v[:, None, :] * f
        loss, (dq, dd, da, db) = _loss_and_gradients(q, d, a, b, P, exclude, needs, max_memory)
        dv = None if dq is None else torch.einsum("nrd,nrd->nd", f, dq)
        return loss, None, dv, dd, da, db


def _loss_and_gradients(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    needs: tuple[bool, ...],
    max_memory: int | None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss of `match_kl` and its gradients for (q, d, a, b) where `needs` says so."""
    (N, R, _), (B, S, _) = q.shape, d.shape
    dq, dd, da, db = (
        x.new_zeros(x.shape) if need else None for x, need in zip((q, d, a, b), needs, strict=True)
    )
    loss = q.new_zeros(())
    length = _block_length(N * R, S, q.element_size(), max_memory)
    for start in range(0, B, length):
        rows = slice(start, min(start + length, B))
        best = _scores(q, d[rows]).max(dim=2)
        m = best.values.view(N, R, rows.stop - rows.start)  # [N, R, n]
        T = torch.einsum("nr,nrk->kn", a, m) + b
        target = P[rows]
        if exclude is not None:
            T, target = _without(T, target, exclude[rows])
        log_q = torch.log_softmax(T, dim=1)
        cross = torch.where(target > 0, target * log_q, 0)  # 0 * -inf of an excluded column is 0
        loss += (torch.xlogy(target, target) - cross).sum() / B
        if not any(needs):
            continue
        G = (log_q.exp() * target.sum(1, keepdim=True) - target) / B  # dloss/dT, [n, N]
        if exclude is not None:
            G = torch.where(T.isneginf(), 0, G)  # a row without any column left has no gradient
        if db is not None:
            db += G.sum(0)
        if da is not None:
            da += torch.einsum("kn,nrk->nr", G, m)
        if dq is not None or dd is not None:
            coef = (G.t()[:, None, :] * a[:, :, None]).reshape(N * R, m.shape[2], 1)  # [N R, n, 1]
            _add_gradients(q, d[rows], coef, best.indices, dq, None if dd is None else dd[rows])
    return loss, (dq, dd, da, db)


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


def _scores(q: Tensor, d: Tensor) -> Tensor:
    """`<q[j, r], d[i, s]>` as `[N R, B, S]`."""
    N, R, D = q.shape
    return (q.reshape(N * R, D) @ d.reshape(-1, D).t()).view(N * R, *d.shape[:2])


def _without(T: Tensor, P: Tensor, exclude: Tensor) -> tuple[Tensor, Tensor]:
    """`T` at minus infinity and `P` at 0 in column `exclude[i]` of row i."""
    column = torch.arange(T.shape[1], device=T.device) == exclude[:, None]
    return T.masked_fill(column, -torch.inf), P.masked_fill(column, 0)


def _block_length(rows: int, S: int, itemsize: int, max_memory: int | None) -> int:
    if max_memory is not None and max_memory <= 0:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory}")
    # Scores, their maxima, and the coefficient matrix of the backward pass: three of this size.
    return max(1, (max_memory or 3 * BLOCK_BYTES) // (3 * max(1, rows * S * itemsize)))


def _checked(
    op: str, q: Tensor, d: Tensor, a: Tensor | None, precision: str, first: str = "q"
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs in the dtype of the arithmetic, or an error that names what does not fit."""
    if precision not in PRECISIONS:
        raise ValueError(f"{op}: precision must be one of {PRECISIONS}, got {precision!r}")
    if q.ndim != 3 or d.ndim != 3 or q.shape[2] != d.shape[2]:
        raise ValueError(
            f"{op}: {first} must be [N, R, D] and d [B, S, D] with one D; "
            f"got {first} {tuple(q.shape)} and d {tuple(d.shape)}"
        )
    if d.shape[1] == 0 or d.shape[2] == 0:
        raise ValueError(f"{op}: d needs at least one region and one channel, got {tuple(d.shape)}")
    if a is None:
        if op != "maxsim":
            raise TypeError(f"{op}: a must be a tensor, got NoneType")
        a = torch.ones(q.shape[:2], dtype=q.dtype, device=q.device)
    if a.shape != q.shape[:2]:
        raise ValueError(f"{op}: a must be [N, R] = {tuple(q.shape[:2])}, got {tuple(a.shape)}")
    for name, x in (("d", d), ("a", a)):
        if x.dtype != q.dtype or x.device != q.device:
            raise TypeError(
                f"{op}: {name} is {x.dtype} on {x.device}, {first} is {q.dtype} on {q.device}; "
                "give all the same dtype and device"
            )
    if not q.dtype.is_floating_point:
        raise TypeError(f"{op}: {first} must be a floating-point tensor, got {q.dtype}")
    for name, x in ((first, q), ("d", d), ("a", a)):
        _require_finite(op, name, x)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.to(dtype), d.to(dtype), a.to(dtype)


def _checked_targets(
    op: str, q: Tensor, d: Tensor, b: Tensor, P: Tensor, exclude: Tensor | None
) -> tuple[Tensor, Tensor]:
    N, B = q.shape[0], d.shape[0]
    for name, x, shape in (("b", b, (N,)), ("P", P, (B, N))):
        if x.shape != shape:
            raise ValueError(f"{op}: {name} must be {list(shape)}, got {list(x.shape)}")
        if x.device != q.device or not x.is_floating_point():
            raise TypeError(
                f"{op}: {name} must be floating point on {q.device}, got {x.dtype} on {x.device}"
            )
        _require_finite(op, name, x)
    if P.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: P has no gradient here; pass it detached")
    if P.numel() > 0 and P.device.type == "cpu" and float(P.min()) < 0:
        raise ValueError(f"{op}: P must not be negative, its lowest entry is {float(P.min())}")
    if exclude is not None and exclude.shape != (B,):
        raise ValueError(f"{op}: exclude must be [B] = [{B}], got {list(exclude.shape)}")
    if exclude is not None and (exclude.dtype != torch.int64 or exclude.device != q.device):
        raise TypeError(
            f"{op}: exclude must be int64 on {q.device}, got {exclude.dtype} on {exclude.device}"
        )
    if exclude is not None and B > 0 and exclude.device.type == "cpu":
        low, high = int(exclude.min()), int(exclude.max())
        if low < -1 or high >= N:
            raise ValueError(
                f"{op}: exclude must lie in [-1, N) = [-1, {N}), got entries from {low} to {high}"
            )
    return b.to(q.dtype), P.to(q.dtype)


def _require_finite(op: str, name: str, x: Tensor) -> None:
    """On the CPU only: the check would make the host wait for a GPU."""
    if x.device.type != "cpu" or bool(torch.isfinite(x).all()):
        return
    where = (~torch.isfinite(x)).nonzero()[0].tolist()
    second = {"P": "image", "v": "channel"}.get(name, "region")
    place = f"sample {where[0]}" + (f", {second} {where[1]}" if x.ndim > 1 else "")
    raise ValueError(f"{op}: {name} is not finite at {place} (index {where})")
