"""Which layers of a network are analysed, and what they are called."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from emergence_ext.network.builtin import resnet_layers, vgg_layers
from emergence_ext.network.trace import Call, trace


def known_layers(module: nn.Module, source: str, name: str) -> dict[str, str]:
    """Name the layers that the paper analyses, or that the network declares; none: empty.

    Args:
        module: the network.
        source: "torchvision", "timm" or whatever else stands before the colon.
        name: what stands behind it.

    Returns:
        Name to show -> dotted name, in the order in which they run.
    """
    declared = getattr(module, "default_layers", None)
    if isinstance(declared, Mapping):
        return dict(declared)
    if source != "torchvision":
        return {}
    if name.startswith("vgg"):
        return vgg_layers(module.features, "features.")  # type: ignore[arg-type]
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        return resnet_layers()
    if name == "mobilenet_v2":
        return {f"layer{number}": f"features.{number}" for number in (4, 7, 11, 14, 18)}
    return {}


def suggest_layers(module: nn.Module, example: Tensor, count: int = 5) -> dict[str, str]:
    """Name about `count` layers at the ends of the stages of any network, by a forward pass.

    A stage is what runs at one spatial size; its last module that is no part of a block is taken.
    A network with fewer than three stages (a transformer) is divided evenly instead, by its largest
    family of alike modules.

    Args:
        module: left as it was.
        example: images `[B, 3, H, W]` as the network takes them.
        count: how many layers at most.

    Returns:
        Dotted name -> dotted name, in the order in which they run.

    Raises:
        ValueError: no module gives a map `[B, K, H, W]` or tokens `[B, T, K]`.
    """
    runs = _map_outputs(module, example)
    stages: dict[tuple[int, ...], list[_Output]] = defaultdict(list)
    for output in runs:
        stages[output.size].append(output)
    ends = [
        min(outputs, key=lambda output: (output.depth, -output.place))
        for outputs in stages.values()
        if any(output.convolves for output in outputs)
    ]
    if not ends:
        raise ValueError(
            "module: no submodule gives a map [B, K, H, W] or tokens [B, T, K], so no layer can be "
            "suggested"
        )
    ends.sort(key=lambda output: output.place)
    names = [output.name for output in ends[-count:]]
    if len(names) < 3:
        names = _evenly(module, [output.name for output in runs], count) or names
    return {name: name for name in names}


def _evenly(module: nn.Module, ran: list[str], count: int) -> list[str]:
    families: dict[tuple[str, type[nn.Module]], list[str]] = defaultdict(list)
    for name in ran:
        families[name.rpartition(".")[0], type(module.get_submodule(name))].append(name)
    family = max(families.values(), key=lambda names: (len(names), -names[0].count(".")))
    if len(family) < 3:
        return []
    steps = min(count, len(family))
    return [family[math.ceil(len(family) * (step + 1) / steps) - 1] for step in range(steps)]


class _Output(NamedTuple):
    name: str
    place: int
    size: tuple[int, ...]
    depth: int  # how many blocks it is inside of; a plain sequence of modules is no block
    convolves: bool  # has weights of its own, so that its stage is more than pooling


def _map_outputs(module: nn.Module, example: Tensor) -> list[_Output]:
    """List the modules that give a map or tokens, in the order in which they finish."""
    outputs: list[_Output] = []

    def note(call: Call) -> None:
        if not call.name or not isinstance(call.output, Tensor) or len(call.output) != len(example):
            return
        size = _spatial_size(call.output, example)
        pooling = next(call.module.parameters(), None) is None
        # What only resizes ends no stage; adaptive pooling may even go back to the size of one.
        resizes = pooling and call.inputs and _spatial_size(call.inputs[0], example) != size
        if size is None or resizes:
            return
        own = next(call.module.parameters(recurse=False), None) is not None
        depth = sum(
            type(module.get_submodule(outer)) is not nn.Sequential for outer in _outer(call.name)
        )
        outputs.append(_Output(call.name, len(outputs), size, depth, own))

    trace(module, example, after=note)
    return outputs


def _outer(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _spatial_size(value: Any, example: Tensor) -> tuple[int, ...] | None:
    """Return (H, W) of a map, (T,) of tokens; None for anything else or a single position."""
    if not isinstance(value, Tensor) or value.ndim not in (3, 4):
        return None
    if value.ndim == 3:
        return (value.shape[1],) if value.shape[1] > 1 else None
    height, width = value.shape[2:]
    # A map has the shape of the image; [B, H, W, K], which some networks use inside, has not.
    stretch = height * example.shape[-1] / (width * example.shape[-2])
    return (height, width) if height * width > 1 and 0.6 < stretch < 1.7 else None
