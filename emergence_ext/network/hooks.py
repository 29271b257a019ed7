"""Record what named layers of a user's model compute, and leave the model as it was found.

Hooks live only inside the `with` block of `recorder`. A layer is a dotted name as in
`named_modules()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.lookup import nearest
from emergence_ext.network.calling import logits, preserved
from emergence_ext.network.trace import Call, check_open, observed, trace


@dataclass
class Record:
    """What the latest forward pass inside a `recorder` left behind.

    Attributes:
        outputs: layer name -> what `keep` made of the layer's output.
        inputs: module name -> copy of the module's first input.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


def find_layers(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layers of `module` by their dotted names.

    Raises:
        ValueError: an unknown name, with the nearest ones, or one that is listed twice.
    """
    known = dict(module.named_modules(remove_duplicate=False))
    layers: dict[str, nn.Module] = {}
    for name in names:
        if name in layers:
            raise ValueError(f"features: layer {name!r} is listed twice")
        if name not in known or name == "":
            raise ValueError(
                f"features: no layer {name!r}.{nearest(name, filter(None, known))} "
                "emergence doctor --model ... lists all."
            )
        layers[name] = known[name]
    return layers


@contextmanager
def recorder(
    module: nn.Module,
    names: Iterable[str],
    *,
    inputs: Iterable[str] = (),
    keep: Callable[[Tensor], Any] = torch.clone,
) -> Iterator[Record]:
    """Record the outputs of layers at every forward pass in the block, in eval mode.

    Gradients flow through the recorded copies. On leaving the block, however it is left, the hooks
    are gone and the training mode of every submodule and the global random state are as they were.

    Args:
        module: the network.
        names: dotted names of the layers.
        inputs: dotted names of modules whose first input is recorded too.
        keep: what to keep of an output `[B, K, H, W]` or `[B, T, K]`. It is called at once, and
            must copy: a ReLU after the layer may work in place.

    Raises:
        ValueError: an unknown layer, or what `check_open` says; in a forward pass, a layer that
            runs twice or whose output is no tensor of three or four dimensions.
    """
    record = Record()
    image_size: list[int] = []

    def begin(call: Call) -> None:
        record.outputs.clear()
        record.inputs.clear()
        batch = call.inputs[0] if call.inputs else None
        image_size[:] = batch.shape[2:] if isinstance(batch, Tensor) and batch.ndim == 4 else ()

    def store_output(call: Call) -> None:
        _once(call.name, record.outputs)
        if not isinstance(call.output, Tensor) or call.output.ndim not in (3, 4):
            raise ValueError(
                f"features: layer {call.name!r} gives {_shape(call.output)}, expected a map "
                "[B, K, H, W] or tokens [B, T, K]. Choose a layer before the pooling."
            )
        record.outputs[call.name] = keep(_channels_first(call.output, image_size))

    def store_input(call: Call) -> None:
        _once(call.name, record.inputs)
        if not call.inputs or not isinstance(call.inputs[0], Tensor):
            raise ValueError(
                f"features: module {call.name!r} takes no tensor as its first argument"
            )
        record.inputs[call.name] = call.inputs[0].clone()

    layers, takers = find_layers(module, names), find_layers(module, inputs)
    check_open(module, *layers.values(), *takers.values())
    with (
        preserved(module),
        observed({"": module}, before=begin),
        observed(layers, after=store_output),
        observed(takers, before=store_input),
    ):
        yield record


def find_head(module: nn.Module, images: Tensor) -> tuple[str, bool]:
    """Return the last fully connected layer and whether its output is the network's.

    Of the `nn.Linear` that run, the last one that gives the network's output, else the last one.

    Args:
        module: the network.
        images: a batch `[B, 3, H, W]`, already preprocessed.

    Raises:
        ValueError: no `nn.Linear` runs, or what `check_open` says.
    """
    linear: list[Call] = []

    def keep_linear(call: Call) -> None:
        if isinstance(call.module, nn.Linear):
            linear.append(call)

    result = trace(module, images, after=keep_linear)
    with suppress(ValueError):  # a tuple or dict that holds the logits
        result = logits(result)
    if not linear:
        raise ValueError(
            "features: no nn.Linear runs in the network, so it has no last fully connected layer. "
            "Name the module whose input is the sample feature (`last_linear`)."
        )
    for call in reversed(linear):
        same_shape = isinstance(result, Tensor) and call.output.shape == result.shape
        if same_shape and torch.equal(call.output, result):
            return call.name, True
    return linear[-1].name, False


def token_grid(tokens: int) -> tuple[int, int, int]:
    """Return `(H, W, skip)` of `T` tokens: a square, after `skip` = 0 or 1 class tokens in front.

    Raises:
        ValueError: neither `T` nor `T - 1` is a square.
    """
    for skip in (0, 1):
        side = math.isqrt(tokens - skip)
        if side * side == tokens - skip and side > 0:
            return side, side, skip
    raise ValueError(
        f"features: {tokens} tokens are no square grid, with or without a class token. "
        "Choose a layer that gives a map [B, K, H, W]."
    )


def as_map(output: Tensor) -> Tensor:
    """Return the output of a layer as a map `[B, K, H, W]`.

    Args:
        output: a map `[B, K, H, W]`, unchanged, or tokens `[B, T, K]` in row-major order; where
            `T - 1` is a square the first token is the class token and is dropped.

    Raises:
        ValueError: tokens that are no square grid.
    """
    if output.ndim == 4:
        return output
    height, width, skip = token_grid(output.shape[1])
    return output[:, skip:].transpose(1, 2).unflatten(2, (height, width))


def regions(output: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Return a copy of a layer's output as regional features `[B, R, K]`, float32.

    Args:
        output: a map `[B, K, H, W]` or tokens `[B, T, K]` (see `as_map`); regions are row-major.
        grid: height and width to resize to by adaptive average pooling; None keeps the layer's own.

    Raises:
        ValueError: tokens that are no square grid.
    """
    maps = as_map(output).float()
    if grid is not None and grid != tuple(maps.shape[2:]):
        maps = functional.adaptive_avg_pool2d(maps, grid)
    return maps.flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _channels_first(output: Tensor, image_size: list[int]) -> Tensor:
    """Turn `[B, H, W, K]` to `[B, K, H, W]` where that fits the shape of the image better."""
    if output.ndim != 4 or not image_size or not output.numel():
        return output
    shape = image_size[0] / image_size[1]

    def stretch(height: int, width: int) -> float:
        return abs(math.log(height / width / shape))

    first, second, third = output.shape[1:]
    last = stretch(first, second) < stretch(second, third)
    return output.permute(0, 3, 1, 2) if last else output


def _once(name: str, taken: dict[str, Any]) -> None:
    if name in taken:
        raise ValueError(
            f"features: layer {name!r} runs more than once in a forward pass, so its output is "
            "ambiguous. Name the block that contains it, or a layer that runs once."
        )


def _shape(output: Any) -> str:
    return f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
