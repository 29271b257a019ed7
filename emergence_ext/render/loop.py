"""The loop that optimises an image: seeded, repeatable, and the network stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from emergence_ext.lookup import require_kind
from emergence_ext.render.image import Pixels, check_images
from emergence_ext.render.objectives import Objective
from emergence_ext.render.ramps import Number, require_number, value
from emergence_ext.render.seen import See, Seen, seeing
from emergence_ext.render.transforms import Mask, Smoothing, View
from emergence_ext.settings import require_count

Rule = Literal["adam", "normalised"]


@dataclass(frozen=True, eq=False)
class Rendering:
    """Images that were optimised, `n` of them in `T` iterations.

    Attributes:
        images: after the last iteration, in 0..1, `[n, channels, H, W]`.
        losses: the objective before every step, `[T, n]`; NaN once an image had arrived.
        arrived: iterations until `until` held, `[n]`; T where it never did.
        kept: iteration -> images after it; 0 are those of the start.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> objective = -render.channel("1", 0)
        >>> result = render.render(
        ...     net, render.noise(1, 3, 8), objective, steps=3, learning_rate=0.02, keep=[0]
        ... )
        >>> result.images.shape, result.losses.shape, list(result.kept)
        (torch.Size([1, 3, 8, 8]), torch.Size([3, 1]), [0])
    """

    images: Tensor
    losses: Tensor
    arrived: Tensor
    kept: dict[int, Tensor]


def render(
    module: nn.Module,
    start: Tensor,
    objective: Objective,
    *,
    steps: int,
    learning_rate: Number,
    rule: Rule = "normalised",
    preprocess: Callable[[Tensor], Tensor] | None = None,
    views: Sequence[View] = (),
    mask: Mask | None = None,
    smoothing: Sequence[Smoothing] = (),
    octaves: Sequence[float] = (),
    until: Callable[[Seen], Tensor] | None = None,
    keep: Iterable[int] = (),
    parameter_rate: float = 0.01,
    random_state: int = 0,
    describe: str = "render",
) -> Rendering:
    """Change images step by step so that an objective falls.

    An iteration looks at the images through `views`, weighs the gradient by `mask`, takes a step,
    clips to 0..1, and smooths. Every image of the batch goes its own way, as if it were alone.

    Args:
        module: the network; comes back as it was.
        start: in 0..1, `[n, channels, H, W]`; says on which device everything runs.
        objective: to be minimised; its own parameters are optimised with the images.
        steps: iterations `T`.
        learning_rate: of "adam", or of "normalised" the root mean square of a step over the pixels
            of an image, in 0..1 and before the mask.
        rule: "adam" scales every pixel's step by its own past gradients, so that a mask means
            little to it; "normalised" takes the gradient itself, each image's divided by its root
            mean square.
        preprocess: from images in 0..1 to the network's input.
        views: what the network is shown of the images.
        mask: weighs the gradient.
        smoothing: done to the images after each step, in this order.
        octaves: sides of the image, as shares of its own, that are gone through one after the other
            in equal parts of the iterations, such as (0.5, 0.7, 1); none: its own alone.
        until: which images have arrived, bool `[n]`, of what is seen before a step; these stay as
            they are, and when all have arrived the loop ends. Not together with `octaves`.
        keep: iterations of which the images are kept, 0 to T.
        parameter_rate: learning rate (Adam) of the objective's own parameters.
        random_state: seed of the views.
        describe: what the progress bar says.

    Raises:
        ValueError: an argument out of its range, an objective that does not depend on the image or
            is not finite, or whatever the objective or `seeing` refuse.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> objective = 0.5 * render.total_variation() - render.channel("1", 0)
        >>> result = render.render(
        ...     net, render.noise(1, 3, 8), objective, steps=5, learning_rate=0.02
        ... )
        >>> bool(result.losses[-1] < result.losses[0])
        True
    """
    _check(steps, learning_rate, rule, octaves, until is not None)
    require_kind(
        objective=(objective, Objective),
        views=(views, Sequence),
        smoothing=(smoothing, Sequence),
        keep=(keep, Iterable),
    )
    for name, part in [
        *(("views", view) for view in views), *(("smoothing", smooth) for smooth in smoothing),
        ("mask", mask), ("until", until),
    ]:  # fmt: skip
        if part is not None and not callable(part):
            raise TypeError(f"{name}: expected what can be called, see `transforms`, got {part!r}")
    pixels, wanted = Pixels(start), set(keep)
    for t in wanted:
        if not isinstance(t, Integral) or not 0 <= t <= steps:
            raise ValueError(f"keep: expected iterations from 0 to {steps} (steps), got {t!r}")
    height, width = start.shape[2:]
    n, sides = len(start), tuple(octaves) or (1.0,)
    generator = torch.Generator().manual_seed(random_state)
    losses = torch.full((steps, n), torch.nan)
    arrived = torch.full((n,), steps)
    going = torch.ones(n, dtype=torch.bool, device=start.device)
    kept = {0: pixels.image} if 0 in wanted else {}
    own = torch.optim.Adam(objective.parameters, parameter_rate) if objective.parameters else None
    layers, reads_output = objective.layers, objective.output or until is not None
    side = 1.0
    with (
        seeing(module, layers, output=reads_output, preprocess=preprocess) as see,
        torch.enable_grad(),
        tqdm(total=steps, desc=describe, unit="step", disable=None, leave=False) as bar,
    ):
        step: _Step | None = None
        for t in range(steps):
            progress = t / (steps - 1) if steps > 1 else 0.0
            now = sides[t * len(sides) // steps]
            if step is None or now != side:
                if now != side:
                    pixels = pixels.resized(round(now * height), round(now * width))
                step, side = _Step(rule, pixels), now
            view = pixels.values
            for transform in views:
                view = transform(view, progress, generator)
            seen = see(view, progress)
            loss = objective(seen)
            if until is not None:
                there = until(seen) & going
                arrived[there.cpu()] = t
                going &= ~there
                if not bool(going.any()):
                    break
            losses[t] = torch.where(going, loss.detach().float(), torch.nan).cpu()
            gradient = _gradient(loss, pixels.values, objective.parameters, going, t)
            step(gradient if mask is None else mask(gradient, progress), progress, learning_rate)
            _settle(pixels, step.before, going, smoothing, progress)
            if own is not None:
                own.step()
            if t + 1 in wanted:
                kept[t + 1] = pixels.image
            bar.update()
    return Rendering(pixels.image, losses[: int(arrived.max())], arrived, kept)


def measure(
    module: nn.Module,
    images: Tensor,
    objective: Objective,
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    progress: float = 1.0,
    batch_size: int = 32,
) -> Tensor:
    """Return the objective of images as they are, `[n]`, on the CPU.

    Args:
        module, objective, preprocess: as in `render`; an objective with a target for each image
            takes all images in one batch.
        images: in 0..1, `[n, channels, H, W]`.
        progress: at which ramps are read.
        batch_size: images at a time.

    Raises:
        ValueError: what is no batch of images, or whatever `seeing` refuses.

    Examples:
        >>> from emergence_ext import render
        >>> grey, net = torch.full((1, 3, 4, 4), 0.5), torch.nn.Identity()
        >>> render.measure(net, grey, render.total_variation())
        tensor([0.])
    """
    require_kind(objective=(objective, Objective))
    check_images("images", images)
    require_count("batch_size", batch_size, 1)
    layers, output = objective.layers, objective.output
    see: See
    with torch.no_grad(), seeing(module, layers, output=output, preprocess=preprocess) as see:
        parts = [objective(see(batch, progress)).cpu() for batch in images.split(batch_size)]
    return torch.cat(parts)


def require_octaves(octaves: Sequence[float], steps: int) -> None:
    """Refuse sides of the image that `render` cannot go through.

    Raises:
        ValueError: what is no sequence of shares in (0, 1] that ends with 1, or more of them than
            there are steps.

    Examples:
        >>> from emergence_ext import render
        >>> render.require_octaves([0.5, 2.0], steps=10)
        Traceback (most recent call last):
        ...
        ValueError: octaves: expected shares in (0, 1] that end with 1, got [0.5, 2.0]
    """
    shares = isinstance(octaves, Sequence) and all(isinstance(side, Real) for side in octaves)
    if not shares or (octaves and octaves[-1] != 1) or not all(0 < side <= 1 for side in octaves):
        raise ValueError(f"octaves: expected shares in (0, 1] that end with 1, got {octaves!r}")
    if len(octaves) > steps:
        raise ValueError(f"octaves: expected at most {steps}, one a step, got {len(octaves)}")


class _Step:
    """A step of one rule down the gradient."""

    def __init__(self, rule: Rule, pixels: Pixels) -> None:
        self.pixels = pixels
        self.before = pixels.image
        self.adam = torch.optim.Adam([pixels.values]) if rule == "adam" else None

    def __call__(self, gradient: Tensor, progress: float, learning_rate: Number) -> None:
        rate, x = value(learning_rate, progress), self.pixels.values
        self.before = self.pixels.image
        if self.adam is None:
            # Of the gradient within the image alone, so that the others in the batch do not matter.
            size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            with torch.no_grad():
                x -= rate * gradient / torch.where(size > 0, size, 1)
            return
        x.grad = gradient
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        x.grad = None


def _gradient(
    loss: Tensor, x: Tensor, parameters: Sequence[Tensor], going: Tensor, t: int
) -> Tensor:
    """Differentiate by the images, `[n, channels, H, W]`; parameters get theirs as `grad`."""
    if loss.shape != going.shape:
        raise ValueError(
            f"objective: expected a number for each of {len(going)} images, got {list(loss.shape)}"
        )
    if not bool(loss[going].isfinite().all()):
        raise ValueError(
            f"objective: it is NaN or infinite at iteration {t + 1}. Check the weights, the "
            "preprocessing, and the learning rate."
        )
    total = loss[going].sum()
    gradients: tuple[Tensor | None, ...] = (None,)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, [x, *parameters], allow_unused=True)
    if gradients[0] is None:
        raise ValueError(
            "objective: it does not depend on the image in a way that torch can differentiate. "
            "Check the preprocessing for rounding, detaching or NumPy."
        )
    for parameter, gradient in zip(parameters, gradients[1:], strict=True):
        parameter.grad = gradient
    if not bool(gradients[0].isfinite().all()):
        raise ValueError(f"objective: its gradient is NaN or infinite at iteration {t + 1}")
    return gradients[0]


@torch.no_grad()
def _settle(
    pixels: Pixels,
    before: Tensor,
    going: Tensor,
    smoothing: Sequence[Smoothing],
    progress: float,
) -> None:
    """Clip and smooth after a step; images that have arrived stay what they were."""
    images = pixels.values.detach().clamp(0, 1)
    for smooth in smoothing:
        images = smooth(images, progress)
    pixels.replace(torch.where(going[:, None, None, None], images, before))


def _check(
    steps: int, learning_rate: Number, rule: Rule, octaves: Sequence[float], until: bool
) -> None:
    require_count("steps", steps, 1)
    require_number("learning_rate", learning_rate, zero=True)
    if rule not in get_args(Rule):
        raise ValueError(f"rule: expected one of {', '.join(get_args(Rule))}, got {rule!r}")
    require_octaves(octaves, steps)
    if octaves and until:
        raise ValueError(
            "until: an image that has arrived stays as it is, but octaves change its size; give "
            "one of the two"
        )
