"""What a layer still knows of an image: an image with the same code, found by optimisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.render import (
    Number,
    Ramp,
    alpha_norm,
    check_images,
    code,
    maps_of,
    noise,
    render,
    total_variation,
)
from emergence_ext.settings import require_count, require_real


@dataclass(frozen=True, eq=False)
class Inversion:
    """Images whose codes in a layer are nearly those of given images.

    Attributes:
        layer: dotted name.
        images: found from noise, in 0..1, `[n, channels, H', W']`.
        error: relative code error `|F - F_0| / |F_0|`, `[n]`.
        start_error: that of the noise, `[n]`.
        losses: the objective before every step, `[T, n]`.
    """

    layer: str
    images: Tensor
    error: Tensor
    start_error: Tensor
    losses: Tensor


def invert(
    module: nn.Module,
    layer: str,
    images: Tensor,
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    steps: int = 200,
    learning_rate: Number = Ramp(0.05, 0.005),  # noqa: B008 (frozen)
    norm_weight: float = 0.1,
    variation_weight: float = 0.5,
    batch_size: int = 8,
    random_state: int = 0,
) -> Inversion:
    """Find images with the codes of given ones in a layer, from noise.

    Mahendran and Vedaldi (CVPR 2015): normalised distance of codes + alpha-norm + total variation,
    the latter two as means over pixels, so that their weights hold for any size.

    Args:
        module: the network; comes back as it was.
        layer: dotted name of a layer that gives maps or tokens.
        images: in 0..1, `[n, channels, H', W']`.
        preprocess: from images in 0..1 to the network's input.
        steps: iterations.
        learning_rate: of Adam.
        norm_weight: of the alpha-norm (6).
        variation_weight: of the total variation (beta 2); more is smoother and farther from the
            code.
        batch_size: images at a time.
        random_state: seed of the noise.

    Raises:
        ValueError: an unknown layer, one whose code is zero for an image, images that are none, or
            a number out of its range.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> found = lookinside.inversion.invert(net, "1", torch.rand(1, 3, 8, 8), steps=5)
        >>> found.images.shape
        torch.Size([1, 3, 8, 8])
    """
    check_images("images", images, within=True)
    require_count("batch_size", batch_size, 1)
    require_real("norm_weight", norm_weight, zero=True)
    require_real("variation_weight", variation_weight, zero=True)
    targets = maps_of(module, [layer], images, preprocess=preprocess, batch_size=batch_size)[layer]
    n, channels, height, width = images.shape
    starts = noise(n, channels, (height, width), random_state=random_state).to(images)
    parts, losses = [], []
    for start, target in zip(starts.split(batch_size), targets.split(batch_size), strict=True):
        objective = (
            code(layer, target) + norm_weight * alpha_norm() + variation_weight * total_variation()
        )
        result = render(
            module,
            start,
            objective,
            steps=steps,
            learning_rate=learning_rate,
            rule="adam",
            preprocess=preprocess,
            random_state=random_state,
            describe=f"inversion of {layer}",
        )
        parts.append(result.images)
        losses.append(result.losses)

    def error(x: Tensor) -> Tensor:
        maps = maps_of(module, [layer], x, preprocess=preprocess, batch_size=batch_size)[layer]
        return ((maps - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)).cpu()

    inverted = torch.cat(parts)
    return Inversion(layer, inverted, error(inverted), error(starts), torch.cat(losses, dim=1))
