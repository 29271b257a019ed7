"""Whether the network sees in an image what it was made for, beside real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.mindseye.facets import Facets
from emergence_ext.mindseye.objective import laid_over
from emergence_ext.mindseye.schedule import Preprocess
from emergence_ext.network import forward, logits, preserved, require_preprocess
from emergence_ext.render import check_images, seeing
from emergence_ext.settings import require_count


@dataclass(frozen=True, eq=False)
class Score:
    """What the network makes of the images of `C` facets, beside real ones.

    All are means over the regions that count: of a real image its own; of target, image and initial
    image those of the images that stand for the facet, weighed as these are.

    Attributes:
        rendered: mean activation of the target channels, `[C]`.
        initial: that of the initial images, `[C]`.
        real: that of every real image, `[C, N]`.
        share: mean of each target channel as a share of the target's, `[C, k]`; NaN where the
            target's is not above 0.
        logits: what the network says of the images, `[C, outputs]`; None where it names no class.

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> schedule = mindseye.Schedule(steps=2, denoising=None, sparsity=0)
        >>> score = mindseye.minds_eye(net, images, "1", top_k=2, schedule=schedule).score
        >>> score.rendered.shape, score.real.shape, score.share.shape
        (torch.Size([1]), torch.Size([1, 6]), torch.Size([1, 2]))
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

    @property
    def median_share(self) -> list[float | None]:
        """Of each facet, the median over the channels that have a share; None where none has."""
        return [float(x.median()) if len(x) else None for x in self._defined()]

    @property
    def reached(self) -> list[float | None]:
        """Of each facet, which part of the channels that have a share reach the target's mean."""
        return [float((x >= 1).float().mean()) if len(x) else None for x in self._defined()]

    @property
    def undefined(self) -> list[str | None]:
        """Of each facet, why channels have no share; None where all have one."""
        reasons = []
        for row in self.share:
            count = int(row.isnan().sum())
            reason = f"the target's mean is not above 0 in {count} of {len(row)} channels"
            reasons.append(reason if count else None)
        return reasons

    def _defined(self) -> list[Tensor]:
        return [row[~row.isnan()] for row in self.share]


def score(
    module: nn.Module,
    layer: str,
    facets: Facets,
    target: Tensor,
    channels: Tensor,
    images: Tensor,
    initial: Tensor,
    real: Tensor,
    *,
    regions: Tensor | None = None,
    preprocess: Preprocess = None,
    batch_size: int = 16,
) -> Score:
    """Measure the target channels of `C` facets on their images, the initial and the real ones.

    Args:
        module: the network; comes back as it was.
        layer: dotted name.
        facets: of the real images.
        target: activations that were to be reached, zero outside of the regions, `[C, K, H, W]`.
        channels: that count, `[C, k]`.
        images: that were optimised, in 0..1, `[C, channels, H', W']`.
        initial: from which, likewise.
        real: images to compare with, `[N, channels, H', W']`.
        regions: which count in each real image, bool `[N, H, W]`; all where left out.
        preprocess: from images in 0..1 to the network's input.
        batch_size: images at a time.

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> facets = mindseye.find_facets(mindseye.layer_rows(net, "1", images))
        >>> goal = mindseye.facet_objective(net, images, "1", facets, top_k=2, sparsity=0.0)
        >>> found = mindseye.score(
        ...     net, "1", facets, goal.target, goal.channels, images[:1], images[:1], images
        ... )
        >>> torch.equal(found.rendered, found.initial)
        True
    """
    channels = channels.cpu()
    own = target.new_ones(len(real), *target.shape[2:])
    if regions is not None:
        own = laid_over(regions, target)
    shared = torch.stack([facet.mean(own[facet.members]) for facet in facets.facets])

    def means(x: Tensor, masks: Tensor) -> Tensor:
        """Mean activations of images `[n, ...]` within masks `[n, H, W]`, `[n, K]`."""
        parts = []
        with torch.no_grad(), seeing(module, [layer], preprocess=preprocess) as see:
            for batch, mask in zip(x.split(batch_size), masks.split(batch_size), strict=True):
                maps = see(batch).layers[layer]
                parts.append((maps * mask[:, None]).sum(dim=(2, 3)).float().cpu())
        return torch.cat(parts) / _sizes(masks)

    wanted = (target.sum(dim=(2, 3)).float().cpu() / _sizes(shared)).gather(1, channels)
    rendered = means(images, shared).gather(1, channels)
    return Score(
        rendered=rendered.mean(1),
        initial=means(initial, shared).gather(1, channels).mean(1),
        real=means(real, own)[:, channels].mean(-1).t().contiguous(),
        share=torch.where(wanted > 0, rendered / wanted, torch.nan),
        logits=logits_of(module, images, preprocess=preprocess, batch_size=batch_size),
    )


def logits_of(
    module: nn.Module, images: Tensor, *, preprocess: Preprocess = None, batch_size: int = 16
) -> Tensor | None:
    """Return what the network says of images, `[n, outputs]`, on the CPU.

    Args:
        module: the network; comes back as it was.
        images: in 0..1, `[n, channels, H, W]`.
        preprocess: from images in 0..1 to the network's input.
        batch_size: images at a time.

    Returns:
        None where that names no class: no logits `[n, outputs]`, fewer than two outputs, or numbers
        that are not finite.

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> mindseye.logits_of(net, torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 5])
    """
    check_images("images", images)
    require_count("batch_size", batch_size, 1)
    require_preprocess(preprocess)
    outputs = []
    with torch.no_grad(), preserved(module):
        for batch in images.split(batch_size):
            output = forward(module, batch if preprocess is None else preprocess(batch))
            try:
                z = logits(output, len(batch))
            except ValueError:
                return None
            if z.shape[1] < 2 or not bool(z.isfinite().all()):
                return None
            outputs.append(z.float().cpu())
    return torch.cat(outputs)


def _sizes(masks: Tensor) -> Tensor:
    """How many regions count, `[n, 1]`."""
    return masks.sum(dim=(1, 2)).float().cpu()[:, None]
