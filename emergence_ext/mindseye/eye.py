"""The Mind's Eye: what a set of images has in common in a layer, as images.

Stergiou, "The Mind's Eye: Visualizing Class-Agnostic Features of CNNs" (ICIP 2021).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.mindseye.facets import Facets, find_facets, pooled
from emergence_ext.mindseye.objective import alignment, distance, previous_layer, top_channels
from emergence_ext.mindseye.robust import AdaptiveRobust
from emergence_ext.mindseye.schedule import Preprocess, Schedule
from emergence_ext.mindseye.score import Score, score
from emergence_ext.render.objectives import Objective, l1
from emergence_ext.render.ramps import Number
from emergence_ext.render.seen import maps_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MindsEye:
    """Images of the `C` facets of a set of `N` images in a layer.

    Attributes:
        layer: dotted name.
        previous: the layer before it; None where it is the first, whose lambda has no term.
        facets: embedding, groups and what stands for each.
        channels: that were optimised, by falling mean in the target, `[C, k]`.
        initial: weighted means of what stands for each facet, `[C, channels, H', W']`.
        images: found from these, `[C, channels, H', W']`.
        kept: iteration -> images after it.
        losses: the objective before every step, `[T, C]`.
        shape, scale: b and r of the robust distance at the end, `[C]`.
        score: of the images.
    """

    layer: str
    previous: str | None
    facets: Facets
    channels: Tensor
    initial: Tensor
    images: Tensor
    kept: dict[int, Tensor]
    losses: Tensor
    shape: Tensor
    scale: Tensor
    score: Score


@dataclass(frozen=True, eq=False)
class FacetObjective:
    """The objective of facets, with what it was made from.

    Attributes:
        total: `AD - DM + lambda |a_{i-1}|_1`, `[C]`.
        adaptive: shape and scale of AD.
        target: activations to be reached, `[C, K, H, W]`.
        channels: `[C, k]`.
        previous: the layer of the last term; None where there is none.
    """

    total: Objective
    adaptive: AdaptiveRobust = field(repr=False)
    target: Tensor = field(repr=False)
    channels: Tensor = field(repr=False)
    previous: str | None


def minds_eye(
    module: nn.Module,
    images: Tensor,
    layer: str,
    *,
    facets: int | Facets = 1,
    top_k: int = 64,
    schedule: Schedule | None = None,
    regions: Tensor | None = None,
    preprocess: Preprocess = None,
    keep: Iterable[int] = (),
    batch_size: int = 16,
    random_state: int = 0,
) -> MindsEye:
    """Show what images have in common in a layer, facet by facet.

    Args:
        module: the network; comes back as it was.
        images: of one category or of any, in 0..1, `[N, channels, H', W']`.
        layer: dotted name of a layer that gives maps or tokens.
        facets: number of facets, or those of an earlier call.
        top_k: channels that are optimised, those of largest spatial mean in the target.
        schedule: of the optimisation.
        regions: which regions count in each image, bool `[N, H, W]`, such as its knowledge points;
            activations elsewhere are taken for zero in embedding and target. Laid over the layer's
            maps (nearest neighbour).
        preprocess: from images in 0..1 to the network's input.
        keep: iterations of which images are kept.
        batch_size: images at a time.
        random_state: seed of the embedding, the groups and the views.

    Raises:
        ValueError: fewer different images than facets, an unknown layer, top_k above the layer's
            channels, a layer that is dead for the images, or an image without a region.
        ImportError: scikit-learn or scikit-image is absent.
    """
    schedule = schedule or Schedule()
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f"images: expected [N, channels, H, W], all of one size, got {list(images.shape)}"
        )
    if regions is not None:
        _check_regions(regions, len(images))
    if not isinstance(facets, Facets):
        rows = layer_rows(
            module,
            layer,
            images,
            regions=regions,
            preprocess=preprocess,
            batch_size=batch_size,
        )
        facets = find_facets(rows, facets, random_state=random_state)
    initial = torch.stack(
        [_weighted(images[f.members], f.weights.to(images)) for f in facets.facets]
    )
    objective = facet_objective(
        module,
        images,
        layer,
        facets,
        top_k=top_k,
        sparsity=schedule.sparsity,
        regions=regions,
        preprocess=preprocess,
        batch_size=batch_size,
    )
    rendering = schedule.run(
        module,
        initial,
        objective.total,
        preprocess=preprocess,
        keep=keep,
        random_state=random_state,
        describe=f"mind's eye, {layer}",
    )
    measured = score(
        module,
        layer,
        objective.target,
        objective.channels,
        rendering.images,
        initial,
        images,
        preprocess=preprocess,
        batch_size=batch_size,
    )
    adaptive = objective.adaptive
    return MindsEye(
        layer=layer,
        previous=objective.previous,
        facets=facets,
        channels=objective.channels.cpu(),
        initial=initial,
        images=rendering.images,
        kept=rendering.kept,
        losses=rendering.losses,
        shape=adaptive.shape.detach().cpu(),
        scale=adaptive.scale.detach().cpu(),
        score=measured,
    )


def facet_objective(
    module: nn.Module,
    images: Tensor,
    layer: str,
    facets: Facets,
    *,
    top_k: int,
    sparsity: Number,
    regions: Tensor | None = None,
    preprocess: Preprocess = None,
    batch_size: int = 16,
) -> FacetObjective:
    """Make the objective of facets; its terms are `alignment`, `distance` and `render.l1`.

    Args:
        module, images, layer, top_k, regions, preprocess, batch_size: as in `minds_eye`.
        facets: of the images.
        sparsity: lambda.

    Raises:
        ValueError: see `minds_eye`.
    """
    first = images[:1]
    previous = previous_layer(module, layer, first if preprocess is None else preprocess(first))
    names = [layer] if previous is None else [layer, previous]
    targets, sizes = [], []
    for facet in facets.facets:
        maps = maps_of(
            module, names, images[facet.members], preprocess=preprocess, batch_size=batch_size
        )
        own = None if regions is None else regions[facet.members.to(regions.device)]
        targets.append(_weighted(_within(maps[layer], own), facet.weights.to(images)))
        if previous is not None:
            sizes.append(maps[previous].square().mean().sqrt())
    target = torch.stack(targets)
    channels = top_channels(target, top_k)
    adaptive = AdaptiveRobust(len(target), device=target.device)
    total = distance(layer, target, channels, adaptive) - alignment(layer, target, channels)
    if previous is None:
        logger.warning("%s is the first layer: there is no previous one to keep sparse", layer)
    else:
        # In units of the previous layer's activations for the same images.
        unit = float(torch.stack(sizes).mean())
        total = total + sparsity * l1(previous) * (1 / unit if unit > 0 else 1.0)
    return FacetObjective(total, adaptive, target, channels, previous)


def layer_rows(
    module: nn.Module,
    layer: str,
    images: Tensor,
    *,
    regions: Tensor | None = None,
    preprocess: Preprocess = None,
    batch_size: int = 16,
) -> Tensor:
    """Return what `find_facets` groups: a layer's pooled maps of images, `[N, D]`, on the CPU.

    Args:
        module, layer, images, regions, preprocess, batch_size: as in `minds_eye`.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        maps = maps_of(module, [layer], batch, preprocess=preprocess, batch_size=batch_size)[layer]
        own = None if regions is None else regions[start : start + batch_size]
        parts.append(pooled(_within(maps, own)).cpu())
    return torch.cat(parts)


def _within(maps: Tensor, regions: Tensor | None) -> Tensor:
    """Maps `[n, K, H, W]`, zero outside of regions `[n, H', W']`."""
    if regions is None:
        return maps
    mask = regions[:, None].to(maps)
    if mask.shape[2:] != maps.shape[2:]:
        size = (maps.shape[2], maps.shape[3])
        mask = functional.interpolate(mask, size, mode="nearest-exact")
    return maps * mask


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of `[m, ...]`."""
    return torch.tensordot(weights.to(x), x, dims=1)


def _check_regions(regions: Tensor, images: int) -> None:
    if regions.ndim != 3 or len(regions) != images or regions.dtype != torch.bool:
        raise ValueError(
            f"regions: expected bool [{images}, H, W], one map an image, got {regions.dtype} "
            f"{list(regions.shape)}"
        )
    empty = (~regions.flatten(1).any(1)).nonzero().flatten()
    if len(empty):
        raise ValueError(
            f"regions: image {int(empty[0])} has none ({len(empty)} of {images}); leave such "
            "images out"
        )
