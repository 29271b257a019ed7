"""Whether the network sees in an image what it was made for, beside real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.mindseye.schedule import Preprocess
from emergence_ext.render.seen import maps_of, seeing


@dataclass(frozen=True, eq=False)
class Score:
    """What the network makes of the images of `C` facets, beside real ones.

    Attributes:
        rendered: mean activation of the target channels, `[C]`.
        initial: that of the initial images, `[C]`.
        real: that of every real image, `[C, N]`.
        share: spatial mean of each target channel as a share of the target's, `[C, k]`.
        logits: what the network says of the images, `[C, outputs]`; None where it gives no logits.
    """

    rendered: Tensor
    initial: Tensor
    real: Tensor
    share: Tensor
    logits: Tensor | None

    @property
    def best_real(self) -> Tensor:
        """The largest of the real images, `[C]`."""
        return self.real.amax(1)


def score(
    module: nn.Module,
    layer: str,
    target: Tensor,
    channels: Tensor,
    images: Tensor,
    initial: Tensor,
    real: Tensor,
    *,
    preprocess: Preprocess = None,
    batch_size: int = 16,
) -> Score:
    """Measure the target channels of `C` facets on their images, the initial and the real ones.

    Args:
        module: the network; comes back as it was.
        layer: dotted name.
        target: activations that were to be reached, `[C, K, H, W]`.
        channels: that count, `[C, k]`.
        images: that were optimised, in 0..1, `[C, channels, H', W']`.
        initial: from which, likewise.
        real: images to compare with, `[N, channels, H', W']`.
        preprocess: from images in 0..1 to the network's input.
        batch_size: images at a time.
    """
    channels = channels.cpu()

    def means(x: Tensor) -> Tensor:
        found = maps_of(
            module,
            [layer],
            x,
            preprocess=preprocess,
            keep=lambda maps: maps.mean(dim=(2, 3)),
            batch_size=batch_size,
        )
        return found[layer].float().cpu()

    rendered, wanted = means(images).gather(1, channels), target.mean(dim=(2, 3)).cpu()
    wanted = wanted.gather(1, channels)
    return Score(
        rendered=rendered.mean(1),
        initial=means(initial).gather(1, channels).mean(1),
        real=means(real)[:, channels].mean(-1).t().contiguous(),
        share=torch.where(wanted > 0, rendered / wanted, torch.nan),
        logits=_logits(module, images, preprocess, batch_size),
    )


def _logits(
    module: nn.Module, images: Tensor, preprocess: Preprocess, batch_size: int
) -> Tensor | None:
    """What the network says, `[C, outputs]`; None where it gives something else than logits."""
    with torch.no_grad(), seeing(module, (), output=True, preprocess=preprocess) as see:
        try:
            outputs = [see(batch).output for batch in images.split(batch_size)]
        except ValueError:
            return None
    return torch.cat([z for z in outputs if z is not None]).float().cpu()
