"""A network's structure: the same operations made linear with positive coefficients.

Inside `with Structure():` a convolution is a sum over its window, a maximum an average, an
activation or normalisation nothing, a product a sum. Values mean nothing any more; what depends on
what is unchanged, and gradients never cancel. The model and its weights are not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Indicator(torch.autograd.Function):
    """Identity whose gradient is replaced by 0 and 1, so that no depth overflows or underflows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.ne(0).to(grad.dtype)


def _mixed(x: Tensor, groups: int) -> Tensor:
    """Channels `[B, C, H, W]` averaged within their groups, `[B, groups, H, W]`."""
    return _Indicator.apply(x.unflatten(1, (groups, -1)).mean(dim=2))


def _kernel(weight: Tensor, groups: int) -> Tensor:
    return weight.new_ones(groups, 1, *weight.shape[2:]) / weight[0, 0].numel()


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    sums = functional.conv2d(
        _mixed(x, groups), _kernel(weight, groups), None, stride, padding, dilation, groups
    )
    return sums.repeat_interleave(weight.shape[0] // groups, dim=1)


def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    sums = functional.conv_transpose2d(
        _mixed(x, groups),
        _kernel(weight, groups),
        None,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
    )
    return sums.repeat_interleave(weight.shape[1], dim=1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    mean = _Indicator.apply(x.mean(dim=-1, keepdim=True))
    return mean.expand(*x.shape[:-1], weight.shape[0]).clone()


def _max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if dilation not in (1, (1, 1), [1, 1]) or return_indices:
        raise ValueError("module: max pooling with dilation or indices has no receptive field here")
    return functional.avg_pool2d(x, kernel_size, stride or None, padding, ceil_mode)


def _adaptive_max_pool2d(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    return functional.adaptive_avg_pool2d(x, output_size)


def _first(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


def _sum(x: Any, y: Any, **kwargs: Any) -> Any:
    """What a product or difference depends on, without the zeros and cancellations of either."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x + y
    return x if isinstance(x, Tensor) else y


# Each value from the value at its own position.
_UNMIXED = (
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
    *(
        "relu",
        "relu_",
        "relu6",
        "leaky_relu",
        "leaky_relu_",
        "prelu",
        "rrelu",
        "elu",
        "elu_",
        "selu",
    ),
    *(
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardtanh",
        "hardtanh_",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
    ),
    *(
        "sigmoid_",
        "tanh",
        "tanh_",
        "softplus",
        "softsign",
        "logsigmoid",
        "clamp",
        "clamp_",
        "dropout",
    ),
)
_COMBINING = (
    "mul",
    "mul_",
    "__mul__",
    "__rmul__",
    "__imul__",
    "sub",
    "sub_",
    "__sub__",
    "__isub__",
)

_STRUCTURE: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    **dict.fromkeys(_UNMIXED, _first),
    **dict.fromkeys(_COMBINING, _sum),
}


class Structure(TorchFunctionMode):
    """Replaces operations by positive linear ones over the same positions, by name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        replacement = _STRUCTURE.get(getattr(func, "__name__", ""))
        if replacement is None:
            return func(*args, **kwargs)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        return replacement(*args, **kwargs)
