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


def _convolved(
    convolve: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    groups: int,
    width: int,
    **places: Any,
) -> Tensor:
    """Means over the windows of a convolution; a group gives `width` channels, all alike."""
    kernel = weight.new_ones(groups, 1, *weight.shape[2:]) / weight[0, 0].numel()
    means = convolve(_mixed(x, groups), kernel, groups=groups, **places)
    return means.repeat_interleave(width, dim=1)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    places = {"stride": stride, "padding": padding, "dilation": dilation}
    width = weight.shape[0] // groups
    return _convolved(functional.conv2d, x, weight, groups, width, **places)


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
    places = {"stride": stride, "padding": padding, "dilation": dilation}
    places["output_padding"] = output_padding
    width = weight.shape[1]
    return _convolved(functional.conv_transpose2d, x, weight, groups, width, **places)


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


# Names of functions and tensor methods without the underscores around them, by which those that
# work in place (`relu_`) and operators (`__mul__`) differ from the others.
_NORMALISATIONS = (
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
)  # fmt: skip
_ACTIVATIONS = (
    "celu", "clamp", "dropout", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh",
    "leaky_relu", "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid",
    "silu", "softplus", "softsign", "tanh",
)  # fmt: skip
_PRODUCTS = ("mul", "rmul", "imul")
_DIFFERENCES = ("sub", "isub")

_STRUCTURE: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    **dict.fromkeys(_NORMALISATIONS + _ACTIVATIONS, _first),
    **dict.fromkeys(_PRODUCTS + _DIFFERENCES, _sum),
}


class Structure(TorchFunctionMode):
    """Replaces operations by positive linear ones over the same positions, by name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        replacement = _STRUCTURE.get(getattr(func, "__name__", "").strip("_"))
        if replacement is None:
            return func(*args, **kwargs)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        return replacement(*args, **kwargs)
