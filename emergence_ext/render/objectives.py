"""What an image is optimised for: terms that are added, subtracted and multiplied.

An objective is a number for every image, and lower is better: `-channel("conv5", 3)` excites a
channel, `code("conv3", F) + 0.1 * total_variation()` inverts a code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.render.ramps import Number, Ramp, value
from emergence_ext.render.seen import Seen
from emergence_ext.settings import require_real


class Objective:
    """A number `[n]` for what is `Seen` of `n` images, and what has to be recorded for it.

    Objectives, numbers and ramps compose by `+`, `-` and `*`.

    Args:
        compute: from `Seen` to `[n]`.
        name: as it is shown.
        layers: dotted names of the layers that are read.
        output: whether the network's output is read.
        parameters: what else is optimised together with the image.

    Examples:
        >>> from emergence_ext import render
        >>> darkness = render.Objective(lambda seen: -seen.images.mean((1, 2, 3)), "darkness")
        >>> -darkness + 0.5 * render.total_variation()
        ((-1.0 * darkness) + (0.5 * total_variation(2)))
    """

    def __init__(
        self,
        compute: Callable[[Seen], Tensor],
        name: str,
        layers: Iterable[str] = (),
        *,
        output: bool = False,
        parameters: Sequence[Tensor] = (),
    ) -> None:
        if not callable(compute):
            raise TypeError(f"compute: expected a function of what is Seen, got {compute!r}")
        self.compute = compute
        self.name = name
        self.layers = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
        self.output = output
        self.parameters = tuple(parameters)

    def __call__(self, seen: Seen) -> Tensor:
        """Return the objective of every image, `[n]`."""
        value = self.compute(seen)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"objective: {self.name} gives {value!r:.80}, expected a tensor, a number for each "
                "image"
            )
        return value

    def __repr__(self) -> str:
        return self.name

    def __add__(self, other: Objective | Number) -> Objective:
        return _combined(operator.add, "+", self, other)

    def __radd__(self, other: Number) -> Objective:
        return _combined(operator.add, "+", other, self)

    def __sub__(self, other: Objective | Number) -> Objective:
        return _combined(operator.sub, "-", self, other)

    def __rsub__(self, other: Number) -> Objective:
        return _combined(operator.sub, "-", other, self)

    def __mul__(self, other: Objective | Number) -> Objective:
        return _combined(operator.mul, "*", self, other)

    def __rmul__(self, other: Number) -> Objective:
        return _combined(operator.mul, "*", other, self)

    def __neg__(self) -> Objective:
        return _combined(operator.mul, "*", -1.0, self)


def channel(layer: str, channels: int | Sequence[int] | Tensor) -> Objective:
    """Mean activation of one channel, or of several, over all regions.

    Args:
        layer: dotted name.
        channels: in `[0, K)`.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> render.measure(net, render.noise(2, 3, 8), -render.channel("1", [0, 2])).shape
        torch.Size([2])
    """
    if isinstance(channels, Tensor | np.ndarray):
        channels = channels.tolist()
    chosen = list(channels) if isinstance(channels, Iterable) else [channels]
    if not chosen:
        raise ValueError("channels: none given")

    def compute(seen: Seen) -> Tensor:
        maps = seen.layers[layer]
        _within("channels", chosen, maps.shape[1], layer)
        return maps[:, chosen].mean(dim=(1, 2, 3))

    return Objective(compute, f"channel({layer}, {chosen})", [layer])


def unit(layer: str, channel: int, row: int | None = None, column: int | None = None) -> Objective:
    """Activation of one channel in one region.

    Args:
        layer: dotted name.
        channel: in `[0, K)`.
        row, column: of the region; the middle where left out.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> objective = render.unit("0", channel=3, row=0, column=0)
        >>> render.measure(net, render.noise(2, 3, 8), objective).shape
        torch.Size([2])
    """

    def compute(seen: Seen) -> Tensor:
        maps = seen.layers[layer]
        at = [maps.shape[2] // 2 if row is None else row]
        at.append(maps.shape[3] // 2 if column is None else column)
        for name, index, size in zip(
            ("channel", "row", "column"), (channel, *at), maps.shape[1:], strict=True
        ):
            _within(name, [index], size, layer)
        return maps[:, channel, at[0], at[1]]

    place = "middle" if row is None and column is None else f"{row}, {column}"
    return Objective(compute, f"unit({layer}, {channel}, {place})", [layer])


def direction(layer: str, vector: Tensor, regions: Tensor | None = None) -> Objective:
    """Mean component of regional features along a direction of the layer's space.

    Args:
        layer: dotted name.
        vector: `[K]`, brought to length 1.
        regions: which count, bool `[H, W]`; all where left out. Its grid is laid over maps of
            another size (nearest neighbour).

    Raises:
        ValueError: a vector of another length than K, zero or not finite, or no region.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> render.measure(net, render.noise(2, 3, 8), render.direction("1", torch.ones(4))).shape
        torch.Size([2])
    """
    vector = _numbers("vector", vector)
    length = vector.double().norm()
    if vector.ndim != 1 or not 0 < float(length) < torch.inf:
        raise ValueError(
            f"vector: expected a direction [K], finite and not zero, got {list(vector.shape)} of "
            f"length {float(length):g}"
        )
    regions = None if regions is None else _numbers("regions", regions)
    if regions is not None and (regions.ndim != 2 or not bool(regions.any())):
        raise ValueError("regions: expected bool [H, W] with at least one region")
    along = vector / length

    def compute(seen: Seen) -> Tensor:
        maps = seen.layers[layer]
        if maps.shape[1] != len(along):
            raise ValueError(
                f"vector: expected {maps.shape[1]} numbers, one a channel of {layer!r}, got "
                f"{len(along)}"
            )
        part = torch.einsum("nkhw,k->nhw", maps, along.to(maps))
        if regions is None:
            return part.mean(dim=(1, 2))
        mask = _laid_over(regions.to(maps)[None, None], maps, "nearest-exact")[0, 0]
        return (part * mask).sum(dim=(1, 2)) / mask.sum().clamp_min(1)

    return Objective(compute, f"direction({layer})", [layer])


def logit(category: int | Tensor) -> Objective:
    """Logit of a class.

    Args:
        category: column of the output, or one for each image, `[n]`.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> render.measure(net, torch.rand(2, 3, 4, 4), render.logit(torch.tensor([2, 4]))).shape
        torch.Size([2])
    """
    return Objective(lambda seen: _column(seen, category), f"logit({_told(category)})", output=True)


def log_probability(category: int | Tensor) -> Objective:
    """Logarithm of the probability of a class.

    Args:
        category: column of the output, or one for each image, `[n]`.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> bool(render.measure(net, torch.rand(1, 3, 4, 4), render.log_probability(2)) < 0)
        True
    """

    def compute(seen: Seen) -> Tensor:
        # log p = -log(1 + sum over others of exp(z_other - z)), which keeps its gradient at p = 1.
        z, output = _column(seen, category), _output(seen)
        index = torch.as_tensor(category, device=output.device).expand(len(output))
        others = output.double().scatter(1, index[:, None], -torch.inf)
        return -functional.softplus(others.logsumexp(1) - z.double()).to(z)

    return Objective(compute, f"log_probability({_told(category)})", output=True)


def code(layer: str, target: Tensor) -> Objective:
    """Normalised distance of a layer's maps from a code, `|F - F_0|^2 / |F_0|^2`.

    Mahendran and Vedaldi (CVPR 2015), Eq. 3.

    Args:
        layer: dotted name.
        target: `F_0`, `[K, H, W]` for all images or `[n, K, H, W]`; laid over maps of another size
            (bilinear).

    Raises:
        ValueError: a code that is zero everywhere, or of another number of channels.

    Examples:
        >>> from emergence_ext import render
        >>> net, images = torch.nn.Conv2d(3, 4, 3), render.noise(1, 3, 8)
        >>> target = render.maps_of(torch.nn.Sequential(net), ["0"], images)["0"]
        >>> render.measure(torch.nn.Sequential(net), images, render.code("0", target))
        tensor([0.])
    """
    target = _numbers("target", target)
    whole = (-3, -2, -1)
    if target.ndim not in (3, 4) or not bool((target.double().square().sum(whole) > 0).all()):
        raise ValueError(
            f"target: expected codes [n, K, H, W] that are not zero everywhere, got "
            f"{list(target.shape)}; the layer {layer!r} may be dead for this image"
        )

    def compute(seen: Seen) -> Tensor:
        maps = seen.layers[layer]
        wanted = like_maps(target, maps, layer)
        apart = (maps - wanted).square().sum(dim=(1, 2, 3))
        return apart / wanted.square().sum(dim=(1, 2, 3))

    return Objective(compute, f"code({layer})", [layer])


def alpha_norm(alpha: float = 6.0) -> Objective:
    """Mean of `|2 x - 1|^alpha` over pixels: keeps them away from the ends of 0..1.

    Mahendran and Vedaldi (CVPR 2015), Sec. 3: the alpha-norm of an image around its middle.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Identity()
        >>> render.measure(net, torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1), render.alpha_norm())
        tensor([0., 1.])
    """
    if not isinstance(alpha, Real) or not alpha >= 1:
        raise ValueError(f"alpha: expected a number of at least 1, got {alpha!r}")
    return Objective(
        lambda seen: (2 * seen.images - 1).abs().pow(alpha).mean(dim=(1, 2, 3)),
        f"alpha_norm({alpha:g})",
    )


def total_variation(beta: float = 2.0) -> Objective:
    """Mean of `(dx^2 + dy^2)^(beta / 2)` over pixels: smooth images have little.

    Mahendran and Vedaldi (CVPR 2015), Eq. 4; beta = 2 is the mean squared gradient.

    Examples:
        >>> from emergence_ext import render
        >>> grey, net = torch.full((1, 3, 4, 4), 0.5), torch.nn.Identity()
        >>> render.measure(net, grey, render.total_variation())
        tensor([0.])
    """
    require_real("beta", beta)

    def compute(seen: Seen) -> Tensor:
        x = functional.pad(seen.images, (0, 1, 0, 1), mode="replicate")
        across = x[..., :-1, 1:] - x[..., :-1, :-1]
        down = x[..., 1:, :-1] - x[..., :-1, :-1]
        squares = across.square() + down.square()
        if beta != 2:
            # The power has an infinite slope where the image is even.
            squares = (squares + 1e-8).pow(beta / 2)
        return squares.mean(dim=(1, 2, 3))

    return Objective(compute, f"total_variation({beta:g})")


def l1(layer: str) -> Objective:
    """Sum of absolute activations over channels, mean over regions: `|a|_1` of a region.

    Args:
        layer: dotted name.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
        >>> render.measure(net, torch.full((1, 3, 4, 4), 0.5), render.l1("0"))
        tensor([1.5000])
    """
    return Objective(
        lambda seen: seen.layers[layer].abs().sum(1).mean(dim=(1, 2)), f"l1({layer})", [layer]
    )


def like_maps(target: Tensor, maps: Tensor, layer: str) -> Tensor:
    """Return targets `[K, H, W]` or `[n, K, H, W]` in number, size and device of maps.

    Args:
        target: what maps are held against.
        maps: of the layer, `[n, K, H', W']`.
        layer: its name, for the error.

    Raises:
        ValueError: another number of channels, or of images.

    Examples:
        >>> from emergence_ext import render
        >>> render.like_maps(torch.rand(4, 3, 3), torch.rand(2, 4, 6, 6), "conv1").shape
        torch.Size([1, 4, 6, 6])
    """
    wanted = target if target.ndim == 4 else target[None]
    if wanted.shape[1] != maps.shape[1] or len(wanted) not in (1, len(maps)):
        raise ValueError(
            f"target: expected [{len(maps)}, {maps.shape[1]}, H, W] as layer {layer!r} gives, got "
            f"{list(target.shape)}"
        )
    return _laid_over(wanted.to(maps), maps, "bilinear")


def _laid_over(grid: Tensor, maps: Tensor, mode: str) -> Tensor:
    size = tuple(maps.shape[2:])
    return grid if tuple(grid.shape[2:]) == size else functional.interpolate(grid, size, mode=mode)


def _combined(
    join: Callable[[Any, Any], Any], sign: str, a: Objective | Number, b: Objective | Number
) -> Any:
    for part in (a, b):
        if not isinstance(part, Objective | Ramp | int | float):
            return NotImplemented
    parts = [part for part in (a, b) if isinstance(part, Objective)]

    def compute(seen: Seen) -> Tensor:
        return join(
            *(p(seen) if isinstance(p, Objective) else value(p, seen.progress) for p in (a, b))
        )

    parameters = {id(x): x for part in parts for x in part.parameters}
    return Objective(
        compute,
        f"({a} {sign} {b})",
        [layer for part in parts for layer in part.layers],
        output=any(part.output for part in parts),
        parameters=list(parameters.values()),
    )


def _numbers(name: str, x: object) -> Tensor:
    """What can be a tensor, as one."""
    try:
        return torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}") from None


def _output(seen: Seen) -> Tensor:
    if seen.output is None:
        raise ValueError("seen: this objective reads the network's output, which was not recorded")
    return seen.output


def _column(seen: Seen, category: int | Tensor) -> Tensor:
    output = _output(seen)
    index = torch.as_tensor(category, device=output.device)
    if index.ndim > 1 or (index.ndim == 1 and len(index) != len(output)):
        raise ValueError(
            f"category: expected one, or one for each of {len(output)} images, got "
            f"{list(index.shape)}"
        )
    _within("category", index.flatten().tolist(), output.shape[1], "the output")
    return output.gather(1, index.expand(len(output))[:, None])[:, 0]


def _told(category: int | Tensor) -> str:
    if not isinstance(category, Integral | Tensor):
        raise TypeError(
            f"category: expected the number of a column of the output, got {category!r}"
        )
    return str(category.tolist() if isinstance(category, Tensor) else category)


def _within(name: str, indices: Sequence[int], size: int, layer: str) -> None:
    odd = [index for index in indices if not isinstance(index, Integral)]
    if odd:
        raise TypeError(f"{name}: expected numbers, got {odd[0]!r}")
    wrong = [index for index in indices if not 0 <= index < size]
    if wrong:
        raise ValueError(f"{name}: expected 0 to {size - 1} in {layer}, got {wrong[0]}")
