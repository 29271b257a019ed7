"""What the ops take: shapes, dtypes and values, or an error that names what does not fit.

The compiled ops check in C++; this is for those that are written in Python.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from emergence_ext.ops.ragged import Ragged
from emergence_ext.ops.transforms import wants_gradient

PRECISIONS: Final = ("highest", "high", "medium")
OVER: Final = ("q", "d")
"""The images that the softmax of `match_kl` runs over."""
FULL: Final = Ragged()
"""Every image has all of its regions."""


def checked(
    op: str,
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    precision: str,
    first: str = "q",
    *,
    ragged: Ragged = FULL,
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs in the dtype of the arithmetic, or an error that names what does not fit.

    Where images have lengths, their padding is filled.
    """
    for name, x in ((first, q), ("d", d), ("a", a)):
        if not isinstance(x, Tensor) and not (name == "a" and x is None):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(x).__name__}")
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
    ragged.check(op, q, d)
    q, d, a = ragged.filled(q, d, a)
    for name, x in ((first, q), ("d", d), ("a", a)):
        require_finite(op, name, x)
    dtype = _arithmetic(q)
    return q.to(dtype), d.to(dtype), a.to(dtype)


def checked_scale(op: str, f: Tensor, v: Tensor) -> Tensor:
    """Give v in the dtype of the arithmetic, or an error that names what does not fit."""
    if v.ndim != 2 or f.ndim != 3 or v.shape != (f.shape[0], f.shape[2]):
        raise ValueError(
            f"{op}: v must be [N, D] for f [N, R, D]; got v {tuple(v.shape)} and f {tuple(f.shape)}"
        )
    if v.dtype != f.dtype or v.device != f.device:
        raise TypeError(
            f"{op}: v is {v.dtype} on {v.device}, f is {f.dtype} on {f.device}; "
            "give both the same dtype and device"
        )
    require_finite(op, "v", v)
    return v.to(_arithmetic(v))


def checked_targets(
    op: str, q: Tensor, d: Tensor, b: Tensor, P: Tensor, exclude: Tensor | None, over: str
) -> tuple[Tensor, Tensor]:
    """Give b and P in the dtype of q, which is `checked`, or an error that names what is wrong."""
    if over not in OVER:
        raise ValueError(f"{op}: over must be 'q' or 'd', got {over!r}")
    (row, rows), (column, columns) = ("B", d.shape[0]), ("N", q.shape[0])
    if over == "d":
        (row, rows), (column, columns) = (column, columns), (row, rows)
    for name, x, shape in (("b", b, (columns,)), ("P", P, (rows, columns))):
        if x.shape != shape:
            raise ValueError(f"{op}: {name} must be {list(shape)}, got {list(x.shape)}")
        if x.device != q.device or not x.is_floating_point():
            raise TypeError(
                f"{op}: {name} must be floating point on {q.device}, got {x.dtype} on {x.device}"
            )
        require_finite(op, name, x)
    refuse_gradients(op, P=P)
    if P.numel() > 0 and P.device.type == "cpu" and float(P.min()) < 0:
        raise ValueError(f"{op}: P must not be negative, its lowest entry is {float(P.min())}")
    if exclude is not None and exclude.shape != (rows,):
        raise ValueError(f"{op}: exclude must be [{row}] = [{rows}], got {list(exclude.shape)}")
    if exclude is not None and (exclude.dtype != torch.int64 or exclude.device != q.device):
        raise TypeError(
            f"{op}: exclude must be int64 on {q.device}, got {exclude.dtype} on {exclude.device}"
        )
    if exclude is not None and rows > 0 and exclude.device.type == "cpu":
        low, high = int(exclude.min()), int(exclude.max())
        if low < -1 or high >= columns:
            raise ValueError(
                f"{op}: exclude must lie in [-1, {column}) = [-1, {columns}), "
                f"got entries from {low} to {high}"
            )
    return b.to(q.dtype), P.to(q.dtype)


def refuse_gradients(op: str, **tensors: Tensor) -> None:
    """An error that names the first of these inputs, which have no gradient, that asks for one."""
    for name, x in tensors.items():
        if wants_gradient(x):
            raise ValueError(f"{op}: {name} has no gradient here; pass it detached")


def require_finite(op: str, name: str, x: Tensor) -> None:
    """On the CPU only: the check would make the host wait for a GPU."""
    if x.device.type != "cpu" or bool(torch.isfinite(x).all()):
        return
    where = (~torch.isfinite(x)).nonzero()[0].tolist()
    second = {"P": "image", "v": "channel"}.get(name, "region")
    place = f"sample {where[0]}" + (f", {second} {where[1]}" if x.ndim > 1 else "")
    raise ValueError(f"{op}: {name} is not finite at {place} (index {where})")


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
