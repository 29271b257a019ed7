"""The image that is optimised: pixels that can be shown at every moment."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.settings import require_count, require_real


class Pixels:
    """Images as their pixels, kept within 0..1.

    Args:
        start: `[n, channels, H, W]`, any number of channels; copied, and clipped to 0..1.

    Attributes:
        values: the pixels, `[n, channels, H, W]`, a leaf that takes gradients, on the device of
            `start`.

    Raises:
        ValueError: another number of axes, nothing in it, or a pixel that is not finite.

    Examples:
        >>> from emergence_ext import render
        >>> render.Pixels(torch.tensor([[[[-1.0, 0.5, 2.0]]]])).values
        tensor([[[[0.0000, 0.5000, 1.0000]]]], requires_grad=True)
    """

    def __init__(self, start: Tensor) -> None:
        check_images("start", start)
        self.values = start.detach().clone().clamp_(0, 1).requires_grad_()

    @property
    def image(self) -> Tensor:
        """A copy of the pixels, `[n, channels, H, W]`, without gradient."""
        return self.values.detach().clone()

    @torch.no_grad()
    def replace(self, images: Tensor) -> None:
        """Take other pixels of the same shape; what lies outside 0..1 is clipped."""
        self.values.copy_(images).clamp_(0, 1)

    def resized(self, height: int, width: int) -> Pixels:
        """Return the same images in another size, by bilinear interpolation."""
        image = self.values.detach()
        size = (height, width)
        return Pixels(
            functional.interpolate(
                image, size, mode="bilinear", align_corners=False, antialias=True
            )
        )


EDGE: Final = 1e-3
"""By how much pixels that were resized may lie outside of 0..1."""


def check_images(name: str, images: Tensor, *, within: bool = False) -> None:
    """Refuse what is no batch of images.

    Args:
        name: of the argument, for the error.
        images: expected in 0..1, `[n, channels, H, W]`.
        within: whether pixels outside of 0..1 are refused too, which else are clipped.

    Raises:
        ValueError: no tensor, another number of axes, nothing in it, or a pixel that is not finite.

    Examples:
        >>> from emergence_ext import render
        >>> render.check_images("start", torch.zeros(3, 8, 8))
        Traceback (most recent call last):
        ValueError: start: expected images [n, channels, H, W], got ...
    """
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{name}: expected a tensor [n, channels, H, W], got {type(images).__name__}; "
            "torch.stack makes one of images of one size"
        )
    if images.is_meta:
        raise ValueError(f"{name}: they are on the meta device, which holds no numbers")
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"{name}: expected images [n, channels, H, W], got {list(images.shape)}; "
            "image[None] makes a batch of a single one"
        )
    if not images.is_floating_point():
        raise ValueError(f"{name}: expected pixels in 0..1, got {images.dtype}; divide by 255")
    if not bool(images.isfinite().all()):
        raise ValueError(f"{name}: it has pixels that are NaN or infinite")
    low, high = float(images.min()), float(images.max())
    if within and not -EDGE <= low <= high <= 1 + EDGE:
        raise ValueError(f"{name}: expected pixels in 0..1, got {low:g} to {high:g}")


def noise(
    count: int,
    channels: int,
    size: int | tuple[int, int],
    *,
    spread: float = 0.1,
    random_state: int = 0,
) -> Tensor:
    """Draw images of even grey with normal noise, each from a seed of its own.

    Args:
        count: number of images `n`; the first ones are the same whatever the number.
        channels: of an image.
        size: `(height, width)`, or the side of square images.
        spread: standard deviation of the noise around 0.5.
        random_state: seed.

    Returns:
        Images in 0..1, `[n, channels, H, W]`.

    Raises:
        ValueError: no image, or no size.

    Examples:
        >>> from emergence_ext import render
        >>> render.noise(2, 3, (8, 16)).shape
        torch.Size([2, 3, 8, 16])
    """
    require_count("count", count, 1)
    require_count("channels", channels, 1)
    require_real("spread", spread, zero=True)
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"size: expected (height, width) or a side in pixels, got {size!r}")
    height, width = sides
    images = []
    for index in range(count):
        generator = torch.Generator().manual_seed(random_state + index)
        images.append(torch.randn(channels, height, width, generator=generator))
    return (0.5 + spread * torch.stack(images)).clamp(0, 1)
