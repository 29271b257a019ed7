"""The ops: checked wrappers, shapes for fake tensors, gradients.

Symbols: `N` scored images j with `R` regions, `B` conditioning images i with `S` regions, `D` the
width of a region's feature. The contract is in `csrc/maxsim.h`, plain torch in `reference`.

Under autocast the ops compute in float32: lower-precision inputs are cast up first, float64 stays.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from emergence_ext import _library, reference

_COMPACT_LIMIT = 256  # kCompactLimit of csrc/maxsim.h
_warned = False


def maxsim(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """Score every image j against every image i by the best matches of its regions (Eq. 10, 12).

    `T[i, j] = sum_r a[j, r] * max_s <q[j, r], d[i, s]>`. Differentiable once in q, d and a; a tie
    goes to the lowest s. The same bits for any number of threads.

    Args:
        q: scored regions, `[N, R, D]`, any strides.
        d: conditioning regions, `[B, S, D]`, `S >= 1`, `D >= 1`.
        a: weights of the scored regions, `[N, R]`; ones when left out.
        precision: "highest", "high" or "medium", as torch names them. All three compute in float32
            today (float64 for float64); the lower ones may become faster and less exact.
        max_memory: bytes of working memory beside inputs and results. Neither result needs a block
            of its own, so that the value is only checked to be positive.

    Returns:
        `T`, `[B, N]`, float32 (float64 for float64 inputs). Empty for `N == 0` or `B == 0`.

    Raises:
        ValueError: shapes that do not fit, `S == 0`, `D == 0`, an unknown precision, a non-finite
            value on the CPU (named with its sample and region).
        TypeError: dtypes or devices that differ, a dtype that is not floating point.
        RuntimeError: a CUDA tensor where the library has no CUDA backend, or a second derivative.

    Example:
        >>> q = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> d = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])
        >>> maxsim(q, d)
        tensor([[5.]])
    """
    if not _use_library(q, d, a):
        return _by_reference(reference.maxsim, q, d, a, precision, max_memory)
    # The matches cost N B R bytes, and only a gradient wants them.
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, d, a)):
        matched = torch.ops.emergence_ext.maxsim_indices
        return matched(q, d, a, precision=precision, max_memory=max_memory)[0]
    return torch.ops.emergence_ext.maxsim(q, d, a, precision=precision, max_memory=max_memory)


def maxsim_indices(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    precision: str = "highest",
    max_memory: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `maxsim`, with the matches.

    Args:
        q, d, a, precision, max_memory: as in `maxsim`.

    Returns:
        `T`, `[B, N]`, and the matching s of every region, `[B, N, R]`, int64, not differentiable.

    Raises:
        ValueError, TypeError, RuntimeError: as `maxsim`.
    """
    if not _use_library(q, d, a):
        return _by_reference(reference.maxsim_indices, q, d, a, precision, max_memory)
    matched = torch.ops.emergence_ext.maxsim_indices
    T, argmax = matched(q, d, a, precision=precision, max_memory=max_memory)
    return T, argmax.long()


def _use_library(q: Tensor, d: Tensor, a: Tensor | None) -> bool:
    """Whether the library computes this; False: the reference does, with one warning."""
    global _warned
    for name, x in (("q", q), ("d", d), ("a", a)):
        if not isinstance(x, Tensor) and not (name == "a" and x is None):
            raise TypeError(f"maxsim: {name} must be a tensor, got {type(x).__name__}")
    backend = next((x.device.type for x in (q, d, a) if x is not None and not x.is_cpu), "cpu")
    if backend not in ("cpu", "cuda"):
        raise RuntimeError(f"maxsim: there is no backend for {backend!r}; move to the CPU or CUDA")
    reason = _library.why_not(backend)
    if reason is None:
        return True
    if backend == "cuda":
        raise RuntimeError(f"maxsim: the library has no CUDA backend, {reason}")
    if not _warned:
        _warned = True
        warnings.warn(
            f"emergence_ext runs without its compiled library, many times slower: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
    return False


def _by_reference(
    function: Any, q: Tensor, d: Tensor, a: Tensor | None, precision: str, max_memory: int | None
) -> Any:
    """The reference's answer, with the ops' own behaviour under autocast."""
    if torch.is_autocast_enabled("cpu"):
        q, d = (x if x.dtype == torch.float64 else x.float() for x in (q, d))
        a = a if a is None or a.dtype == torch.float64 else a.float()
    with torch.autocast("cpu", enabled=False):
        return function(q, d, a, precision=precision, max_memory=max_memory)


def _fake_scores(q: Tensor, d: Tensor, a: Tensor | None, **options: Any) -> Tensor:
    torch._check(
        q.dim() == 3 and d.dim() == 3, lambda: "maxsim: q and d must be [N, R, D], [B, S, D]"
    )
    torch._check(q.shape[2] == d.shape[2], lambda: "maxsim: q and d must have one width D")
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((d.shape[0], q.shape[0]), dtype=dtype)


def _fake_matches(q: Tensor, d: Tensor, a: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    T = _fake_scores(q, d, a)
    index = torch.uint8 if d.shape[1] <= _COMPACT_LIMIT else torch.int32
    return T, q.new_empty((d.shape[0], q.shape[0], q.shape[1]), dtype=index)


def _fake_gradients(
    G: Tensor, q: Tensor, d: Tensor, a: Tensor | None, argmax: Tensor, needs: list[bool]
) -> tuple[Tensor, ...]:
    shapes = (q.shape, d.shape, q.shape[:2])
    return tuple(
        q.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs, strict=True)
    )


def _save_inputs(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def _save_matches(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients_of_scores(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
    """The matches were not kept: find them again."""
    q, d, a = ctx.saved_tensors
    _, argmax = torch.ops.emergence_ext.maxsim_indices(q, d, a, **ctx.options)
    return _gradients(ctx, G, q, d, a, argmax)


def _gradients_of_matched(ctx: Any, G: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    q, d, a, argmax = ctx.saved_tensors
    return _gradients(ctx, G, q, d, a, argmax)


def _gradients(
    ctx: Any, G: Tensor, q: Tensor, d: Tensor, a: Tensor | None, argmax: Tensor
) -> tuple[Tensor | None, ...]:
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    found = torch.ops.emergence_ext.maxsim_backward(G, q, d, a, argmax, needs)
    return tuple(grad if need else None for grad, need in zip(found, needs, strict=True))


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "maxsim: there is no second derivative; call backward() without create_graph=True, "
        "or use emergence_ext.reference.maxsim"
    )


def _register() -> None:
    """Give the ops of the loaded library their shapes, gradients and autocast."""
    library = torch.library
    for name, fake in (
        ("maxsim", _fake_scores),
        ("maxsim_indices", _fake_matches),
        ("maxsim_backward", _fake_gradients),
    ):
        library.register_fake(f"emergence_ext::{name}", fake)
    for name, backward, setup in (
        ("maxsim", _gradients_of_scores, _save_inputs),
        ("maxsim_indices", _gradients_of_matched, _save_matches),
    ):
        library.register_autograd(f"emergence_ext::{name}", backward, setup_context=setup)
        for device in ("cpu", "cuda"):
            library.register_autocast(f"emergence_ext::{name}", device, torch.float32)
    library.register_autograd("emergence_ext::maxsim_backward", _no_second_derivative)


if _library.why_not("cpu") is None:
    _register()
