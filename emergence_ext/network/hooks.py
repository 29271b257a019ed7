"""Record what named layers of a user's model compute, and leave the model as it was found.

Hooks live only inside the `with` block of `recorder`. A layer is a dotted name as in
`named_modules()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.lookup import nearest


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
    found: dict[str, nn.Module] = {}
    for name in names:
        if name in found:
            raise ValueError(f"features: layer {name!r} is listed twice")
        if name not in known or name == "":
            raise ValueError(
                f"features: no layer {name!r}.{nearest(name, filter(None, known))} "
                "emergence doctor --model ... lists all."
            )
        found[name] = known[name]
    return found


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
            must
            copy: a ReLU after the layer may work in place.

    Raises:
        ValueError: an unknown layer, or what `check_open` says; in a forward pass, a layer that
            runs twice or whose output is no tensor of three or four dimensions.
    """
    record = Record()
    image_size: list[int] = []

    def begin(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        record.outputs.clear()
        record.inputs.clear()
        is_batch = bool(arguments) and isinstance(arguments[0], Tensor) and arguments[0].ndim == 4
        image_size[:] = arguments[0].shape[2:] if is_batch else ()

    def store_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            _once(name, record.outputs)
            if not isinstance(output, Tensor) or output.ndim not in (3, 4):
                raise ValueError(
                    f"features: layer {name!r} gives {_shape(output)}, expected a map "
                    "[B, K, H, W] or tokens [B, T, K]. Choose a layer before the pooling."
                )
            record.outputs[name] = keep(_channels_first(output, image_size))

        return hook

    def store_input(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            _once(name, record.inputs)
            if not arguments or not isinstance(arguments[0], Tensor):
                raise ValueError(f"features: module {name!r} takes no tensor as its first argument")
            record.inputs[name] = arguments[0].clone()

        return hook

    layers, takers = find_layers(module, names), find_layers(module, inputs)
    check_open(module, *layers.values(), *takers.values())
    with ExitStack() as undo:
        undo.enter_context(preserved(module))
        undo.callback(module.register_forward_pre_hook(begin).remove)
        for name, layer in layers.items():
            undo.callback(layer.register_forward_hook(store_output(name)).remove)
        for name, layer in takers.items():
            undo.callback(layer.register_forward_pre_hook(store_input(name)).remove)
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
    check_open(*module.modules())
    ran: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: ran.append((name, output))

    with ExitStack() as undo:
        undo.enter_context(preserved(module))
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear):
                undo.callback(layer.register_forward_hook(note(name)).remove)
        with torch.no_grad():
            result = module(images)
    if not ran:
        raise ValueError(
            "features: no nn.Linear runs in the network, so it has no last fully connected layer. "
            "Name the module whose input is the sample feature: last_linear=..."
        )
    final = [
        name
        for name, output in ran
        if isinstance(result, Tensor)
        and output.shape == result.shape
        and torch.equal(output, result)
    ]
    return (final[-1], True) if final else (ran[-1][0], False)


def check_open(*parts: nn.Module) -> None:
    """Refuse what cannot be looked into: modules that take no hooks.

    Raises:
        ValueError: one is compiled to TorchScript.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise ValueError(
            "module: it is compiled to TorchScript, or a part of it is, and takes no hooks. Give "
            "the network as it is in Python; else, with layers named, only what goes by its output "
            "works."
        )


def logits(output: Any) -> Tensor:
    """Return the output of a network, `[n, C]`.

    Raises:
        ValueError: it is no such tensor.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise ValueError(
            f"module: expected logits [n, C] as its output, got {_shape(output)}. Wrap the network "
            "in a module that returns the logits alone."
        )
    return output


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


@contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Put the module into eval mode and give back training modes and random state on leaving."""
    modes = [(part, part.training) for part in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices, key=str)):
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


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
