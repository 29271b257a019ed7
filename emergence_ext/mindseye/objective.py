"""What an image is optimised for to show a facet: `AD - DM + lambda |a_{i-1}|_1`.

Stergiou (ICIP 2021), Sec. 2.2. All activations are measured in units of the target's own, so that
the terms weigh the same in any layer of any network and at any size of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from emergence_ext.mindseye.robust import AdaptiveRobust
from emergence_ext.network import Call, as_map, find_layers, forward, observed, preserved
from emergence_ext.render import Objective, Seen, like_maps
from emergence_ext.settings import require_count


def top_channels(target: Tensor, k: int) -> Tensor:
    """Return the k channels of largest spatial mean in targets `[n, K, H, W]`, `[n, k]`.

    Raises:
        ValueError: k outside of 1..K, or a target of another shape.

    Examples:
        >>> from emergence_ext import mindseye
        >>> target = torch.tensor([1.0, 3.0, 2.0]).reshape(1, 3, 1, 1)
        >>> mindseye.top_channels(target, 2)
        tensor([[1, 2]])
    """
    if target.ndim != 4:
        raise ValueError(f"target: expected [n, K, H, W], got {list(target.shape)}")
    require_count("top_k", k, 0)
    if not 1 <= k <= target.shape[1]:
        raise ValueError(f"top_k: expected 1 to {target.shape[1]}, the layer's channels, got {k}")
    return target.mean(dim=(2, 3)).topk(k, dim=1).indices


def alignment(layer: str, target: Tensor, channels: Tensor) -> Objective:
    """Dot product with the target, channel by channel (DM), 1 at the target itself.

    Args:
        layer: dotted name.
        target: activations to be reached, `[n, K, H, W]`.
        channels: that count, `[n, k]`.

    Raises:
        ValueError: a target whose channels are all zero.

    Examples:
        >>> from emergence_ext import mindseye, render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(1, 3, 8, 8)
        >>> target = render.maps_of(net, ["1"], images)["1"]
        >>> objective = mindseye.alignment("1", target, mindseye.top_channels(target, 2))
        >>> round(render.measure(net, images, objective).item(), 4)
        1.0
    """
    _check_alive(target, channels, layer)

    def compute(seen: Seen) -> Tensor:
        a, wanted = _chosen(seen, layer, target, channels)
        return (a * wanted).sum(dim=(1, 2, 3)) / wanted.square().sum(dim=(1, 2, 3))

    return Objective(compute, f"alignment({layer})", [layer])


def distance(layer: str, target: Tensor, channels: Tensor, adaptive: AdaptiveRobust) -> Objective:
    """Adaptive robust distance from the target (AD) of the sum of distances of the channels.

    The sum of L2 distances over channels is in units of the sum of the target's lengths: 1 where
    there is no activation, 0 at the target.

    Args:
        layer: dotted name.
        target: activations to be reached, `[n, K, H, W]`.
        channels: that count, `[n, k]`.
        adaptive: of `n` residuals, optimised with the image.

    Raises:
        ValueError: a target whose channels are all zero.

    Examples:
        >>> from emergence_ext import mindseye, render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(1, 3, 8, 8)
        >>> target = render.maps_of(net, ["1"], images)["1"]
        >>> channels = mindseye.top_channels(target, 2)
        >>> objective = mindseye.distance("1", target, channels, mindseye.AdaptiveRobust(1))
        >>> near, far = (render.measure(net, x, objective) for x in (images, 0 * images))
        >>> bool(near < far)
        True
    """
    _check_alive(target, channels, layer)

    def compute(seen: Seen) -> Tensor:
        a, wanted = _chosen(seen, layer, target, channels)
        # The norm has no slope where a channel meets its target; a tiny number gives it one of 0.
        apart = ((a - wanted).square().sum(dim=(2, 3)) + 1e-12).sqrt().sum(1)
        return adaptive(apart / wanted.flatten(2).norm(dim=2).sum(1))

    return Objective(compute, f"distance({layer})", [layer], parameters=list(adaptive.parameters()))


def previous_layer(module: nn.Module, layer: str, images: Tensor) -> str | None:
    """Name what finished last before a layer's own weights; None where there is nothing.

    Modules are traced in the order in which they run. An activation, normalisation or pooling has
    the weights of the last module with a weight matrix before it. Of nested modules it is the
    outermost; of branches the one that ran last, whether or not the layer reads it. What runs more
    than once is passed over, since its activations are ambiguous.

    Args:
        module: the network; comes back as it was.
        layer: dotted name.
        images: `[n, channels, H', W']`, as the network takes them.

    Raises:
        ValueError: an unknown layer, or one that does not run.

    Examples:
        >>> from emergence_ext import mindseye
        >>> conv = torch.nn.Conv2d(3, 3, 3)
        >>> net = torch.nn.Sequential(
        ...     conv, torch.nn.ReLU(), torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()
        ... )
        >>> mindseye.previous_layer(net, "3", torch.rand(1, 3, 8, 8))
        '1'
    """
    find_layers(module, [layer])
    events: list[tuple[str, bool]] = []
    is_map: set[str] = set()

    def started(call: Call) -> None:
        events.append((call.name, False))

    def finished(call: Call) -> None:
        events.append((call.name, True))
        if _gives_map(call.output):
            is_map.add(call.name)

    parts = {name: part for name, part in module.named_modules() if name}
    with preserved(module), torch.no_grad(), observed(parts, before=started, after=finished):
        forward(module, images[:1])
    if (layer, False) not in events:
        raise ValueError(f"layer: {layer!r} never runs in the forward pass")
    start = events.index((layer, False))
    if not _weighs(module.get_submodule(layer).parameters()):
        weighed = [
            place
            for place, (name, ended) in enumerate(events[:start])
            if not ended and _weighs(_own_parameters(module.get_submodule(name)))
        ]
        if not weighed:
            return None
        start = weighed[-1]
    runs = Counter(name for name, ended in events if ended)
    before = [name for name, ended in events[:start] if ended and name in is_map]
    return next((name for name in reversed(before) if runs[name] == 1), None)


def _gives_map(output: Any) -> bool:
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return False
    try:
        as_map(output)
    except ValueError:
        return False
    return True


def _own_parameters(part: nn.Module) -> list[nn.Parameter]:
    """Those of the module itself and not of modules in it, parametrised ones included."""
    own = list(part.parameters(recurse=False))
    if parametrize.is_parametrized(part):
        own += part.parametrizations.parameters()  # type: ignore[union-attr]
    return own


def _weighs(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether they mix channels: have a weight of more than one axis."""
    return any(p.ndim > 1 for p in parameters)


def laid_over(regions: Tensor, maps: Tensor) -> Tensor:
    """Return regions bool `[n, H, W]` as a mask of maps `[n, K, H', W']`, `[n, H', W']`.

    Raises:
        ValueError: no region of an image falls on the maps.
    """
    mask = regions[:, None].to(maps)
    if mask.shape[2:] != maps.shape[2:]:
        mask = functional.interpolate(mask, (maps.shape[2], maps.shape[3]), mode="nearest-exact")
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError(
            f"regions: of an image none falls on the layer's {maps.shape[2]} x {maps.shape[3]} "
            "maps; give them on that grid"
        )
    return mask[:, 0]


def _check_alive(target: Tensor, channels: Tensor, layer: str) -> None:
    index = channels[:, :, None, None].expand(-1, -1, *target.shape[2:])
    if not bool(target.gather(1, index).flatten(1).any(1).all()):
        raise ValueError(
            f"target: the chosen channels of {layer!r} are zero everywhere; the layer may be dead "
            "for these images"
        )


def _chosen(seen: Seen, layer: str, target: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of the maps and of the target that count, `[n, k, H, W]` each."""
    maps = seen.layers[layer]
    wanted = like_maps(target, maps, layer).expand(len(maps), -1, -1, -1)
    index = channels.to(maps.device)[:, :, None, None].expand(len(maps), -1, *maps.shape[2:])
    return maps.gather(1, index), wanted.gather(1, index)
