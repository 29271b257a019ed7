"""Which layers of a network are analysed, and what they are called."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from emergence_ext.lookup import UserCodeError
from emergence_ext.network.builtin import resnet_layers, vgg_layers
from emergence_ext.network.calling import forward, preserved, require_module, tensors
from emergence_ext.network.hooks import find_head, find_layers
from emergence_ext.network.layout import Layout, read_layouts, readable, strips
from emergence_ext.network.trace import Call, check_open, observed
from emergence_ext.settings import require_count


def known_layers(module: nn.Module, source: str, name: str) -> dict[str, str]:
    """Name the layers that the paper analyses, or that the network declares; none: empty.

    Args:
        module: the network.
        source: "torchvision", "timm" or whatever else stands before the colon.
        name: what stands behind it.

    Returns:
        Name to show -> dotted name, in the order in which they run.
    """
    own = getattr(module, "default_layers", None)
    if isinstance(own, Mapping):
        return dict(own)
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
    """Name about `count` layers at the ends of the stages of any network.

    All of them are such as `extract` takes, and the output depends on all of them. Those that the
    network declares (`default_layers`, or timm's `feature_info`) come first. Else a stage is what
    runs at one spatial size; its last module that is no part of a block is taken. A network with
    fewer than three stages (a transformer) is divided evenly instead, by its largest family of
    alike modules.

    Args:
        module: left as it was.
        example: images `[B, channels, H, W]` as the network takes them; the first one is used.
        count: how many layers at most.

    Returns:
        Dotted name -> dotted name, in the order in which they run.

    Raises:
        ValueError: no module gives a map or tokens that the output depends on.

    Examples:
        >>> import emergence_ext as ee
        >>> net = ee.load_model("small_vgg28", num_classes=10)
        >>> list(ee.suggest_layers(net.module, torch.rand(1, 1, 28, 28)))
        ['conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3']
    """
    require_module(module)
    require_count("count", count, 1)
    return suggested_of(module, survey(module, example), count)


@dataclass(frozen=True)
class Survey:
    """What the modules of a network give.

    Attributes:
        layers: dotted name -> layout, of those that run once and give places of the image, in the
            order in which they end.
        dead: those of them on whose places the output does not depend.
    """

    layers: dict[str, Layout]
    dead: list[str]

    @property
    def beyond(self) -> str | None:
        """The first layer from which on the output depends on no place of any."""
        last = self.alive[-1] if self.alive else None
        names = list(self.layers)
        behind = names[names.index(last) + 1 :] if last is not None else []
        return min(behind, key=lambda name: name.count("."), default=None)

    @property
    def alive(self) -> list[str]:
        """Those on whose places the output depends."""
        return [name for name in self.layers if name not in self.dead]


def survey(module: nn.Module, example: Tensor) -> Survey:
    """Find the layers that can be analysed, by a forward pass of eight images and one backward."""
    if not isinstance(example, Tensor):
        raise TypeError(
            "example: expected a tensor [B, channels, H, W] as the network takes it, got "
            f"{type(example).__name__}"
        )
    image = example[:1]
    ran = readable(module, image)
    try:
        head, gives_output = find_head(module, image)
    except ValueError:
        head, gives_output = "", False
    names = [name for name, _ in ran]
    # What a convolution that gives the output makes are maps of categories, not features.
    before = names.index(head) if gives_output else len(names)
    layers = {
        name: layout
        for name, layout in ran[:before]
        if layout is not None and math.prod(layout.grid) > 1
    }
    return Survey(layers, unreached(module, image, layers))


def suggested_of(module: nn.Module, found: Survey, count: int = 5) -> dict[str, str]:
    """Choose among what `survey` found; see `suggest_layers`."""
    declared = getattr(module, "default_layers", None)
    if isinstance(declared, Mapping):
        return dict(declared)
    ends = _ends(module, found)
    if not ends:
        raise ValueError(
            "module: no submodule gives a map [B, K, H, W] or tokens [B, T, K] that the output "
            "depends on, so no layer can be suggested"
        )
    stages = _declared(module, ends, found)
    if stages:
        names = [end.name for end in stages]
        alike = len({end.grid for end in stages}) == 1
        return {name: name for name in (_divided(names, count) if alike else names[-count:])}
    stages = _stages(ends)
    names = [end.name for end in stages][-count:]
    if len({end.grid for end in stages}) < 3:
        names = _evenly(module, [end.name for end in ends], count) or names
    return {name: name for name in names}


def unreached(module: nn.Module, image: Tensor, layers: Mapping[str, Layout]) -> list[str]:
    """Name layers on whose places the output does not depend, as patches after the last attention.

    Args:
        module: the network; it comes back as it was.
        image: `[1, channels, H', W']`, as the network takes it.
        layers: dotted name -> layout of layers that run once.

    Returns:
        In the order of `layers`; none where no gradient can be had.
    """
    outputs: dict[str, Tensor] = {}

    def keep(call: Call) -> None:
        outputs[call.name] = call.output

    parts = {name: module.get_submodule(name) for name in layers}
    try:
        with torch.enable_grad(), preserved(module), observed(parts, after=keep):
            images = strips(image)[1:3].requires_grad_()
            result = forward(module, images.clone())
            # Weighed, as the sum of a softmax depends on nothing.
            z = [x for x in tensors(result) if x.is_floating_point() and x.requires_grad]
            taken = {name: x for name, x in outputs.items() if x.requires_grad}
            if not z or not taken:
                return []
            flat = torch.cat([x.flatten().double() for x in z])
            total = (flat * torch.linspace(1, 2, len(flat), device=flat.device)).sum()
            own, *gradients = torch.autograd.grad(
                total, [images, *taken.values()], allow_unused=True
            )
    except (RuntimeError, UserCodeError):
        return []
    reached = {
        name
        for name, gradient in zip(taken, gradients, strict=True)
        if gradient is not None and bool(layers[name].as_map(gradient).any())
    }
    # Where not even the image counts, the weights stop it (a head of zeros), not the architecture.
    counts = own is not None and bool(own.any())
    return [name for name in layers if name not in reached] if counts else []


_HAND_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


def last_reached(module: nn.Module, image: Tensor, layers: Sequence[str]) -> str | None:
    """Return the last of some layers on whose places the output depends; None: there is none.

    Args:
        module: the network; it comes back as it was.
        image: `[1, channels, H', W']`, as the network takes it.
        layers: dotted names.

    Raises:
        ValueError: an unknown layer, or one that gives no map.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> network.last_reached(net, torch.rand(1, 3, 8, 8), ["0"])
        '0'
    """
    parts = find_layers(module, layers)
    check_open(module, *parts.values())
    dead = unreached(module, image, read_layouts(module, image, parts))
    return next((name for name in reversed(layers) if name not in dead), None)


class _End(NamedTuple):
    """A layer that may end a stage; in the order in which they end."""

    name: str
    place: int
    grid: tuple[int, int]
    depth: int  # how many blocks it is inside of; a plain list of modules is no block
    part: nn.Module

    @property
    def own(self) -> list[nn.Parameter]:
        return list(self.part.parameters(recurse=False))

    @property
    def block(self) -> bool:
        return next(self.part.children(), None) is not None


def _ends(module: nn.Module, found: Survey) -> list[_End]:
    """All layers but those that hand on what they are given, or only resize it."""
    ends: list[_End] = []
    grid = None  # of the latest layer with weights
    for name in found.alive:
        part, its = module.get_submodule(name), found.layers[name].grid
        if next(part.parameters(), None) is not None:
            grid = its
        # What resizes ends no stage; adaptive pooling may even go back to the size of one.
        if grid in (None, its) and not isinstance(part, _HAND_ON):
            parts = name.split(".")
            outer = [".".join(parts[:depth]) for depth in range(1, len(parts))]
            lists = (nn.Sequential, nn.ModuleList)
            depth = sum(type(module.get_submodule(other)) not in lists for other in outer)
            ends.append(_End(name, len(ends), its, depth, part))
    return ends


def _declared(module: nn.Module, ends: list[_End], found: Survey) -> list[_End]:
    """Stages by timm's `feature_info`; of one that gives no map itself the last in it that does."""
    entries = getattr(module, "feature_info", None)
    entries = getattr(entries, "info", entries)
    if not isinstance(entries, list | tuple):
        return []
    stages = set()
    for name in (str(entry.get("module")) for entry in entries if isinstance(entry, Mapping)):
        inside = [end for end in ends if f"{end.name}.".startswith(f"{name}.")]
        if inside and name not in found.dead:
            stages.add(min(inside, key=lambda end: (end.name.count("."), -end.place)))
    return sorted(stages, key=lambda end: end.place)


def _stages(ends: list[_End]) -> list[_End]:
    """The last layer of each size that is inside of no block, or of as few as can be."""
    sizes: dict[tuple[int, int], list[_End]] = defaultdict(list)
    for end in ends:
        sizes[end.grid].append(end)
    stages: list[_End] = []
    for alike in sizes.values():
        if any(end.own for end in alike):
            # What holds the stages before is the whole of them, not one.
            alone = [end for end in alike if not any(_holds(end, stage) for stage in stages)]
            least = min((end.depth for end in alone), default=0)
            stages += [_last([end for end in alone if end.depth == least])] if alone else []
    # What has a size of its own only inside of blocks is a detour of theirs.
    least = min((end.depth for end in stages), default=0)
    kept = (end for end in stages if end.depth <= least + (1 if end.block else 0))
    return sorted(kept, key=lambda end: end.place)


def _holds(end: _End, other: _End) -> bool:
    return other.name.startswith(f"{end.name}.")


def _last(ends: list[_End]) -> _End:
    """The last of a stage; a block rather than the normalisation or permutation of what it gave."""
    block = max((k for k, end in enumerate(ends) if end.block), default=-1)
    after = ends[block + 1 :]
    mixes = any(weight.ndim > 1 for end in after for weight in end.own)
    activates = any(type(end.part).__module__ == nn.ReLU.__module__ for end in after)
    return ends[-1] if block < 0 or mixes or activates else ends[block]


def _evenly(module: nn.Module, ran: list[str], count: int) -> list[str]:
    """Divide the largest family of modules of one kind that are numbered and in no other family."""
    numbered: dict[tuple[str, type[nn.Module]], list[str]] = defaultdict(list)
    for name in ran:
        numbered[re.sub(r"\d+", "#", name), type(module.get_submodule(name))].append(name)
    families = [names for names in numbered.values() if len(names) >= 3]
    members = {name for names in families for name in names}
    outermost = [
        names
        for names in families
        if not any(
            ".".join(names[0].split(".")[:n]) in members for n in range(1, names[0].count(".") + 1)
        )
    ]
    if not outermost:
        return []
    place = {name: k for k, name in enumerate(ran)}
    largest = max(outermost, key=lambda names: (len(names), -names[0].count("."), place[names[0]]))
    return _divided(largest, count)


def _divided(names: list[str], count: int) -> list[str]:
    """Take the last of each of `count` parts of equal length."""
    steps = min(count, len(names))
    return [names[math.ceil(len(names) * (step + 1) / steps) - 1] for step in range(steps)]
