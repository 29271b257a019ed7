"""The ops under `torch.func` and in forward mode, where gradients that are registered do not reach.

`torch.library` gives a registered op gradients for `backward()` and for compiled graphs. Under
`torch.func.grad` they are an error that names neither, and a forward derivative would be zero
without a word. The same gradients as an `autograd.Function` work there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from emergence_ext.ops.registration import DERIVATIVES


def at_work(*tensors: Tensor | None) -> bool:
    """Whether `torch.func` transforms this call, or a tensor carries a tangent."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors
    )


def wants_gradient(x: Tensor | None) -> bool:
    """Whether x asks for a gradient, also where `torch.func` wrapped what asks."""
    if x is None or not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return x.requires_grad
    while not x.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad


class Transformable:
    """The ops of a library, each as an `autograd.Function` that `torch.func` takes.

    Args:
        ops: the library, `torch.ops.NAMESPACE`.
    """

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *inputs: Any, **options: Any) -> Any:
        return _Function.apply(*inputs, _Call(self, name, getattr(self._ops, name), options))


@dataclass(frozen=True)
class _Call:
    """What is called: an op of `ops` by its name, itself, with its options."""

    ops: Transformable
    name: str
    op: Callable[..., Any]
    options: dict[str, Any]


class _Function(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*given: Any) -> Any:
        *inputs, call = given
        return call.op(*inputs, **call.options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *arguments, ctx.call = inputs
        if setup := DERIVATIVES[ctx.call.name].setup:
            setup(ctx, tuple(arguments), ctx.call.options, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *DERIVATIVES[ctx.call.name].backward(ctx.call.ops, ctx, *grads), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(
            f"{ctx.call.name}: there is no derivative in forward mode (jvp, jacfwd, dual numbers); "
            "take one in reverse mode (backward(), torch.func.grad, vjp, jacrev)"
        )
