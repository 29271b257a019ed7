"""How the images of the Mind's Eye are optimised: ramps of everything, from first to last step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from emergence_ext.render import (
    CentreMask,
    Crop,
    GaussianBlur,
    Jitter,
    Number,
    Objective,
    Ramp,
    Rendering,
    Smoothing,
    SplitBregman,
    View,
    ends,
    render,
    require_number,
    require_octaves,
    value,
)
from emergence_ext.settings import require_count

Preprocess = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Schedule:
    """How images are optimised; ramps go from the first iteration to the last.

    Mask, blur and crop are shares of the image's side, so that they mean the same at any size;
    their defaults are those that were found at 112 pixels. Denoising and jitter know of pixels
    alone.

    Attributes:
        steps: iterations.
        learning_rate: root mean square of a step over the pixels of an image in 0..1.
        blur: sigma of the Gaussian blur after every step, as a share of the image's shorter side,
            of the octave's in octaves; 0 is none.
        denoising: weight of the split-Bregman denoising after it, a larger one denoises less; None
            is none.
        mask: sigma of the centre-biased mask of the gradient, as a share of the image's side; None
            is none.
        sparsity: lambda, the weight of the previous layer's activations.
        jitter: pixels, at most, by which the network sees the image rolled.
        crop: share of the image's side that the network sees.
        octaves: see `render.render`.

    Raises:
        TypeError: what is no number.
        ValueError: a number out of its range.

    Examples:
        >>> from emergence_ext import mindseye
        >>> mindseye.Schedule(steps=0)
        Traceback (most recent call last):
        ValueError: ...
    """

    steps: int = 200
    learning_rate: Number = field(default=Ramp(0.03, 0.01))
    blur: Number = field(default=Ramp(0.5 / 112, 0.2 / 112))
    denoising: Number | None = field(default=Ramp(100.0, 800.0))
    mask: Number | None = field(default=Ramp(0.82, 0.66))
    sparsity: Number = field(default=Ramp(1e-3, 1e-4))
    jitter: int = 0
    crop: Number = 1.0
    octaves: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_count("steps", self.steps, 1)
        require_count("jitter", self.jitter, 0)
        for name in ("learning_rate", "blur", "sparsity"):
            require_number(name, getattr(self, name), zero=True)
        for name in ("denoising", "mask"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), zero=False)
        require_number("crop", self.crop, zero=False, most=1)
        require_octaves(self.octaves, self.steps)

    def views(self) -> list[View]:
        """What the network is shown of the image."""
        views: list[View] = [Jitter(self.jitter)] if self.jitter else []
        return views if min(ends(self.crop)) >= 1 else [*views, Crop(self.crop)]

    def smoothing(self) -> list[Smoothing]:
        """What is done to the image after each step."""
        smoothing: list[Smoothing] = [self._blurred] if max(ends(self.blur)) > 0 else []
        return smoothing if self.denoising is None else [*smoothing, SplitBregman(self.denoising)]

    def run(
        self,
        module: nn.Module,
        start: Tensor,
        objective: Objective,
        *,
        preprocess: Preprocess = None,
        keep: Iterable[int] = (),
        random_state: int = 0,
        describe: str = "mind's eye",
    ) -> Rendering:
        """Optimise images `[n, channels, H', W']` for any objective by this schedule."""
        return render(
            module,
            start,
            objective,
            steps=self.steps,
            learning_rate=self.learning_rate,
            preprocess=preprocess,
            views=self.views(),
            mask=None if self.mask is None else CentreMask(self.mask),
            smoothing=self.smoothing(),
            octaves=self.octaves,
            keep=keep,
            random_state=random_state,
            describe=describe,
        )

    def _blurred(self, images: Tensor, progress: float) -> Tensor:
        side = min(images.shape[2:])
        return GaussianBlur(value(self.blur, progress) * side)(images, progress)
