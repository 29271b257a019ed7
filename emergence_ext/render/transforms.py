"""What is done to images, and to their gradients, from iteration to iteration.

Three kinds, by when the loop calls them: a *view* is what the network sees of the image, and
gradients pass through it (`Jitter`, `Crop`); a *mask* weighs the gradient (`CentreMask`); a
*smoothing* changes the image after the step (`GaussianBlur`, `SplitBregman`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.lookup import optional
from emergence_ext.render.ramps import Number, require_number, value
from emergence_ext.settings import require_count

View = Callable[[Tensor, float, torch.Generator], Tensor]
"""Images `[n, channels, H, W]`, the progress and a source of randomness to what is seen of them."""
Mask = Callable[[Tensor, float], Tensor]
"""Gradients `[n, channels, H, W]` and the progress to weighed gradients."""
Smoothing = Callable[[Tensor, float], Tensor]
"""Images `[n, channels, H, W]` and the progress to smoother ones."""


@dataclass(frozen=True)
class GaussianBlur:
    """Blur with a Gaussian; the image goes on beyond its border as in a mirror.

    Attributes:
        sigma: standard deviation in pixels; 0 does nothing.

    Examples:
        >>> from emergence_ext import render
        >>> images = render.noise(1, 3, 16)
        >>> bool(render.GaussianBlur(1.0)(images, 0.0).std() < images.std())
        True
    """

    sigma: Number

    def __post_init__(self) -> None:
        require_number("sigma", self.sigma, zero=True)

    def __call__(self, images: Tensor, progress: float) -> Tensor:
        """Blur images `[n, channels, H, W]`."""
        sigma = value(self.sigma, progress)
        if sigma <= 0:
            return images
        for axis in (2, 3):
            # Not farther than the mirror image is long.
            reach = min(math.ceil(4 * sigma), images.shape[axis] - 1)
            at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
            kernel = (-at.square() / (2 * sigma**2)).exp()
            shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
            pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
            kernel = (kernel / kernel.sum()).view(shape).expand(images.shape[1], -1, -1, -1)
            padded = functional.pad(images, pad, mode="reflect")
            images = functional.conv2d(padded, kernel, groups=images.shape[1])
        return images


@dataclass(frozen=True)
class SplitBregman:
    """Total variation denoising by split Bregman optimisation, by scikit-image.

    Goldstein and Osher (2009), isotropic. It runs on the CPU, one image after the other.

    Attributes:
        weight: of the fidelity to the image; a larger one denoises *less*.

    Examples:
        >>> from emergence_ext import render
        >>> images = render.noise(1, 3, 16)
        >>> bool(render.SplitBregman(10.0)(images, 0.0).std() < images.std())
        True
    """

    weight: Number

    def __post_init__(self) -> None:
        require_number("weight", self.weight, zero=False)
        optional("skimage.restoration", "denoising")

    def __call__(self, images: Tensor, progress: float) -> Tensor:
        """Denoise images `[n, channels, H, W]`, every channel on its own."""
        denoise = optional("skimage.restoration", "denoising").denoise_tv_bregman
        weight = value(self.weight, progress)
        arrays = images.detach().cpu().double().flatten(0, 1).numpy()
        # As planes: with channels, scikit-image squeezes away a single one and turns the image. And
        # with a margin: its first row and column are far off, whatever the weight (0.26).
        padded = np.pad(arrays, ((0, 0), (1, 1), (1, 1)), mode="edge")
        smooth = np.stack([denoise(x, weight=weight)[1:-1, 1:-1] for x in padded])
        return torch.from_numpy(smooth).view(images.shape).to(images)


@dataclass(frozen=True)
class CentreMask:
    """Weigh the gradient by a Gaussian around the middle of the image, 1 there.

    Attributes:
        sigma: standard deviation as a share of the image's height and width.

    Examples:
        >>> from emergence_ext import render
        >>> weight = render.CentreMask(0.5)(torch.ones(1, 3, 9, 9), 0.0)
        >>> (weight[0, 0, 4, 4] > weight[0, 0, 0, 0]).item()
        True
    """

    sigma: Number

    def __post_init__(self) -> None:
        require_number("sigma", self.sigma, zero=False)

    def __call__(self, gradients: Tensor, progress: float) -> Tensor:
        """Weigh gradients `[n, channels, H, W]`."""
        sigma = value(self.sigma, progress)
        mask = gradients.new_ones(())
        for axis in (2, 3):
            size = gradients.shape[axis]
            at = torch.arange(size, dtype=gradients.dtype, device=gradients.device)
            away = (2 * at + 1 - size) / (2 * size * sigma)
            weights = (-away.square() / 2).exp()
            mask = mask * (weights[:, None] if axis == 2 else weights)
        return gradients * mask


@dataclass(frozen=True)
class Jitter:
    """Show the network the image rolled by a few pixels, others at every iteration.

    Attributes:
        pixels: at most so many, in each direction.

    Examples:
        >>> from emergence_ext import render
        >>> images = torch.rand(1, 3, 8, 8)
        >>> rolled = render.Jitter(2)(images, 0.0, torch.Generator().manual_seed(0))
        >>> torch.equal(rolled.flatten().sort()[0], images.flatten().sort()[0])
        True
    """

    pixels: int

    def __post_init__(self) -> None:
        require_count("pixels", self.pixels, 0)

    def __call__(self, images: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Roll images `[n, channels, H, W]`, all by the same."""
        high = self.pixels + 1
        down, across = torch.randint(-self.pixels, high, (2,), generator=generator).tolist()
        return images.roll((down, across), dims=(2, 3))


@dataclass(frozen=True)
class Crop:
    """Show the network a part of the image in the size of the whole, another at every iteration.

    Attributes:
        share: side of the part as a share of the image's, in (0, 1].

    Examples:
        >>> from emergence_ext import render
        >>> render.Crop(0.5)(torch.rand(2, 3, 8, 8), 0.0, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    share: Number

    def __post_init__(self) -> None:
        require_number("share", self.share, zero=False, most=1)

    def __call__(self, images: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Crop images `[n, channels, H, W]`, all at the same place."""
        share, full = value(self.share, progress), images.shape[2:]
        places = torch.rand(2, generator=generator).tolist()
        for axis, (whole, place) in enumerate(zip(full, places, strict=True), start=2):
            length = max(1, round(share * whole))
            images = images.narrow(axis, int(place * (whole - length + 1)), length)
        size = (full[0], full[1])
        return functional.interpolate(images, size, mode="bilinear", align_corners=False)
