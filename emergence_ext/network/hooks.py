"""Record what named layers of a user's model compute, and leave the model as it was found.

Hooks live only inside the `with` block of `recorder`. A layer is a dotted name as in
`named_modules()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from emergence_ext.lookup import nearest
from emergence_ext.network.calling import logits, preserved, require_module
from emergence_ext.network.layout import Layout, is_reading, read_layouts
from emergence_ext.network.trace import Call, check_open, observed, trace


@dataclass
class Record:
    """What the latest forward pass inside a `recorder` left behind.

    Attributes:
        outputs: layer name -> what `keep` made of the layer's output.
        inputs: module name -> copy of the module's first input, channels first.
        layouts: layer name -> how the layer itself gives its map.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> with torch.no_grad(), network.recorder(net, ["1"]) as record:
        ...     _ = net(torch.rand(2, 3, 8, 8))
        ...
        >>> record.outputs["1"].shape, record.layouts["1"].axes
        (torch.Size([2, 4, 6, 6]), 'map')
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)


def find_layers(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layers of `module` by their dotted names.

    Raises:
        ValueError: an unknown name, with the nearest ones, or one that is listed twice.
        TypeError: something else than names.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = ee.load_model("small_vgg28", num_classes=10).module
        >>> list(network.find_layers(net, ["conv1_2", "fc2"]))
        ['conv1_2', 'fc2']
    """
    require_module(module)
    known = dict(module.named_modules(remove_duplicate=False))
    layers: dict[str, nn.Module] = {}
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str):
            own = next((dotted for dotted, part in known.items() if part is name), None)
            raise TypeError(
                f"layers: expected dotted names, got {type(name).__name__}"
                + (f", which is {own!r} here" if own else "")
            )
        if name in layers:
            raise ValueError(f"layers: {name!r} is listed twice")
        if name not in known or name == "":
            raise ValueError(
                f"layers: no layer {name!r}.{nearest(name, filter(None, known))} "
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
    layouts: Mapping[str, Layout] | None = None,
) -> Iterator[Record]:
    """Record the outputs of layers as maps at every forward pass in the block, in eval mode.

    Gradients flow through the recorded copies. On leaving the block, however it is left, the hooks
    are gone and the training mode of every submodule and the global random state are as they were.

    Args:
        module: the network.
        names: dotted names of the layers.
        inputs: dotted names of modules whose first input is recorded too.
        keep: what to keep of a map `[B, K, H, W]`, which is also what tokens become. It is called
            at once, and must copy: a ReLU after the layer may work in place.
        layouts: how the layers give their maps; by default `read_layouts` of the first image of the
            first pass, and again where tokens are those of images of another size.

    Raises:
        ValueError: an unknown layer, or what `check_open` says; in a forward pass, a layer that
            runs twice or whose output is no map of the image.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> with network.recorder(net, ["0"]) as record:
        ...     _ = net(torch.rand(1, 3, 8, 8))
        >>> record.outputs["0"].shape
        torch.Size([1, 4, 6, 6])
    """
    record = Record(layouts=dict(layouts or {}))
    size: list[int] = []

    def begin(call: Call) -> None:
        if is_reading():
            return
        record.outputs.clear()
        record.inputs.clear()
        batch = call.inputs[0] if call.inputs else None
        if layouts is not None or not layers:
            return
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            raise ValueError(f"module: takes {_shape(batch)}, expected images [B, channels, H, W]")
        tokens = any(layout.axes.startswith("tokens") for layout in record.layouts.values())
        if size and (not tokens or size == list(batch.shape[1:])):
            return
        size[:] = batch.shape[1:]
        record.layouts.update(read_layouts(module, batch[:1], layers))

    def store_output(call: Call) -> None:
        if is_reading():
            return
        _once(call.name, record.outputs)
        maps = record.layouts[call.name].as_map(call.output)
        record.outputs[call.name] = keep(maps)

    def store_input(call: Call) -> None:
        if is_reading():
            return
        _once(call.name, record.inputs)
        if not call.inputs or not isinstance(call.inputs[0], Tensor):
            raise ValueError(
                f"features: module {call.name!r} takes no tensor as its first argument"
            )
        taken = call.inputs[0]
        if isinstance(call.module, nn.Linear) and taken.ndim == 4:
            taken = taken.permute(0, 3, 1, 2)
        record.inputs[call.name] = taken.clone()

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
    """Return the module whose input is the sample feature and whether it gives the output.

    That is, of the fully connected layers and convolutions that run, the last one that gives the
    network's output, as it is or averaged over places (SqueezeNet); the first of several whose
    outputs are averaged or added up (the distillation token of DeiT); else the last with as many
    outputs as the network, or the last `nn.Linear`.

    Args:
        module: the network.
        images: a batch `[B, channels, H, W]`, already preprocessed.

    Raises:
        ValueError: none of them runs, or what `check_open` says.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = ee.load_model("small_vgg28", num_classes=10).module
        >>> network.find_head(net, torch.zeros(1, 1, 28, 28))
        ('fc2', True)
    """
    calls: list[Call] = []

    def keep(call: Call) -> None:
        if isinstance(call.module, nn.Linear | nn.Conv2d) and isinstance(call.output, Tensor):
            # A copy: a ReLU after it may work in place.
            calls.append(replace(call, output=call.output.clone()))

    result = trace(module, images, after=keep)
    heads: list[Call] = []
    with suppress(ValueError):  # no logits: then the last fully connected layer will do
        z = logits(result, len(images))
        found = [call for call in calls if z.shape in {x.shape for x in _pooled(call)}]
        for call in reversed(found):
            if any(x.shape == z.shape and torch.allclose(x, z, 1e-4, 1e-6) for x in _pooled(call)):
                return call.name, True
        heads = [call for call in found if call.output.shape == z.shape]
        if len(heads) > 1:
            total = sum(call.output for call in heads)
            if any(torch.allclose(x, z, 1e-4, 1e-6) for x in (total, total / len(heads))):
                return heads[0].name, True
        heads = found
    heads = heads or [call for call in calls if isinstance(call.module, nn.Linear)]
    if not heads:
        raise ValueError(
            "features: no fully connected layer runs in the network and no convolution gives its "
            "output, so it is not known what its sample feature is. Name the module whose input it "
            "is: `last_linear`."
        )
    return heads[-1].name, False


def _pooled(call: Call) -> list[Tensor]:
    """What a layer gives for each image: as it is, or over all places, rectified or not."""
    output = call.output
    if output.ndim == 2:
        return [output]
    places = (2, 3) if isinstance(call.module, nn.Conv2d) else tuple(range(1, output.ndim - 1))
    return [output.mean(places), output.relu().mean(places), output.amax(places)]


def live_statistics(module: nn.Module) -> list[str]:
    """Name the normalisations that take their statistics from the batch in eval mode too."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is None and part.running_var is None
    ]


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
        ValueError: tokens that are no square grid, or neither map nor tokens.

    Examples:
        >>> from emergence_ext import network
        >>> tokens = torch.zeros(1, 1 + 14 * 14, 192)  # a class token in front
        >>> network.as_map(tokens).shape
        torch.Size([1, 192, 14, 14])
    """
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"output: expected a map [B, K, H, W] or tokens [B, T, K], got {got}")
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

    Examples:
        >>> from emergence_ext import network
        >>> network.regions(torch.zeros(1, 64, 14, 14), grid=(7, 7)).shape
        torch.Size([1, 49, 64])
    """
    maps = as_map(output).float()
    if grid is not None and grid != tuple(maps.shape[2:]):
        maps = functional.adaptive_avg_pool2d(maps, grid)
    return maps.flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _once(name: str, taken: dict[str, Any]) -> None:
    if name in taken:
        raise ValueError(
            f"features: layer {name!r} runs more than once in a forward pass, so its output is "
            "ambiguous. Name the block that contains it, or a layer that runs once."
        )


def _shape(output: Any) -> str:
    return f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
