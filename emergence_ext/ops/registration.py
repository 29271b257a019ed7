"""What torch has to know of the compiled ops: shapes for fake tensors, gradients, batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_COMPACT_LIMIT: Final = 256  # kCompactLimit of csrc/maxsim.h


def register(namespace: str = "emergence_ext") -> None:
    """Give the ops of a loaded library their shapes, gradients and the way `torch.vmap` goes.

    Args:
        namespace: the library's; its gradients are computed by its own ops.
    """
    library, ops = torch.library, getattr(torch.ops, namespace)
    for name, fake in (
        ("maxsim", _fake_scores),
        ("maxsim_indices", _fake_matches),
        ("maxsim_backward", _fake_gradients),
        ("match_kl", _fake_match_kl),
        ("match_kl_scaled", _fake_match_kl_scaled),
        ("scale_gradient", _fake_scaled),
    ):
        library.register_fake(f"{namespace}::{name}", fake)
        # Torch's stable ABI has had tags since 2.12 only.
        if (tag := torch.Tag.pt2_compliant_tag) not in (tags := getattr(ops, name).default.tags):
            tags.append(tag)
    for name, (backward, setup) in DERIVATIVES.items():
        library.register_autograd(
            f"{namespace}::{name}", partial(backward, ops), setup_context=setup
        )
        library.register_vmap(f"{namespace}::{name}", partial(_one_by_one, getattr(ops, name)))


def compact_type(S: int) -> torch.dtype:
    """The dtype of matches among S candidates that stay inside."""
    return torch.uint8 if S <= _COMPACT_LIMIT else torch.int32


def _compute_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_scores(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    **options: Any,
) -> Tensor:
    torch._check(
        q.dim() == 3 and d.dim() == 3, lambda: "maxsim: q and d must be [N, R, D], [B, S, D]"
    )
    torch._check(q.shape[2] == d.shape[2], lambda: "maxsim: q and d must have one width D")
    return q.new_empty((d.shape[0], q.shape[0]), dtype=_compute_type(q))


def _fake_matches(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    *,
    compact: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    T = _fake_scores(q, d, a)
    shape = (d.shape[0], q.shape[0], q.shape[1])
    return T, q.new_empty(shape, dtype=compact_type(d.shape[1]) if compact else torch.int64)


def _fake_gradients(
    G: Tensor,
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    argmax: Tensor,
    needs: list[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    shapes = (q.shape, d.shape, q.shape[:2])
    return tuple(
        q.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs, strict=True)
    )


def _fake_loss(wanted: list[Tensor], needs: list[bool]) -> tuple[Tensor, ...]:
    dtype = _compute_type(wanted[0])
    grads = (
        x.new_empty(x.shape if need else (0,), dtype=dtype)
        for x, need in zip(wanted, needs, strict=True)
    )
    return wanted[0].new_empty((), dtype=dtype), *grads


def _fake_match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    needs: list[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    return _fake_loss([q, d, a, b.to(q.dtype)], needs)


def _fake_match_kl_scaled(
    f: Tensor,
    v: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    needs: list[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    return _fake_loss([v, a, b.to(v.dtype)], needs)


def _save_inputs(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)
    ctx.number = len(inputs)
    ctx.options = keyword_only_inputs


def _save_matches(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[1], *inputs)
    ctx.number = len(inputs)
    ctx.mark_non_differentiable(output[1])


def _gradients_of_scores(ops: Any, ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
    """The matches were not kept: find them again."""
    saved = ctx.saved_tensors
    _, argmax = ops.maxsim_indices(*saved, **ctx.options, compact=True)
    return _gradients(ops, ctx, G, argmax, *saved)


def _gradients_of_matched(ops: Any, ctx: Any, G: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return _gradients(ops, ctx, G, *ctx.saved_tensors)


def _gradients(
    ops: Any,
    ctx: Any,
    G: Tensor,
    argmax: Tensor,
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    *lengths: Tensor | None,
) -> tuple[Tensor | None, ...]:
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    grads = ops.maxsim_backward(G, q, d, a, argmax, needs, *lengths)
    found = tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))
    return found + (None,) * (ctx.number - 3)


def _keeper(needs: int, *places: int) -> Callable[..., None]:
    """Keep the gradients that were formed with the loss, of the inputs at `places`.

    Which of them were, the input at `needs` says.
    """

    def save(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
        ctx.places, ctx.number, ctx.formed = places, len(inputs), inputs[needs]
        ctx.save_for_backward(*(inputs[place] for place in places), *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    return save


def _gradients_of_loss(ops: Any, ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: a checkpoint unpacks them no second time
    inputs, formed = saved[: len(ctx.places)], saved[len(ctx.places) :]
    grads: list[Tensor | None] = [None] * ctx.number
    for place, x, gradient, known in zip(ctx.places, inputs, formed, ctx.formed, strict=True):
        if not ctx.needs_input_grad[place]:
            continue
        if not known:
            raise RuntimeError("match_kl: a gradient is wanted that `needs` did not ask for")
        grads[place] = ops.scale_gradient(grad, gradient, x)
    return tuple(grads)


def _fake_scaled(grad: Tensor, gradient: Tensor, of: Tensor) -> Tensor:
    return torch.empty_like(gradient, dtype=of.dtype)


def _no_second_derivative(op: str, instead: str) -> Callable[..., None]:
    def backward(ops: Any, ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"{op}: there is no second derivative; "
            f"call backward() without create_graph=True{instead}"
        )

    return backward


def _one_by_one(op: Any, info: Any, dims: tuple[Any, ...], *inputs: Any, **options: Any) -> Any:
    """What `torch.vmap` does with an op: a call for each entry of the batch."""
    if info.batch_size == 0:
        raise ValueError(f"{op.__name__}: torch.vmap needs a batch of at least one, got 0")
    results = [
        op(
            *(
                x.select(dim, k) if isinstance(dim, int) else x
                for x, dim in zip(inputs, dims, strict=True)
            ),
            **options,
        )
        for k in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(map(torch.stack, zip(*results, strict=True)))
    return stacked, (0,) * len(stacked)


class Derivative(NamedTuple):
    """The gradients of an op from (ops, ctx, *grads), and what they keep of the call."""

    backward: Callable[..., Any]
    setup: Callable[..., None] | None


DERIVATIVES: Final = {
    "maxsim": Derivative(_gradients_of_scores, _save_inputs),
    "maxsim_indices": Derivative(_gradients_of_matched, _save_matches),
    "match_kl": Derivative(_gradients_of_loss, _keeper(6, 0, 1, 2, 3)),
    "match_kl_scaled": Derivative(_gradients_of_loss, _keeper(7, 1, 3, 4)),
    "maxsim_backward": Derivative(
        _no_second_derivative("maxsim", ", or use emergence_ext.reference.maxsim"), None
    ),
    "scale_gradient": Derivative(_no_second_derivative("match_kl", ""), None),
}
"""The ops that have a gradient, and those that say that there is no second one."""
