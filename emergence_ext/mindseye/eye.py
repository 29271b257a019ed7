"""The Mind's Eye: what a set of images has in common in a layer, as images.

Stergiou, "The Mind's Eye: Visualizing Class-Agnostic Features of CNNs" (ICIP 2021).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor, nn

from emergence_ext.lookup import require_kind
from emergence_ext.mindseye.facets import Facets, check_number, find_facets, pooled
from emergence_ext.mindseye.objective import (
    alignment,
    distance,
    laid_over,
    previous_layer,
    top_channels,
)
from emergence_ext.mindseye.robust import AdaptiveRobust
from emergence_ext.mindseye.schedule import Preprocess, Schedule
from emergence_ext.mindseye.score import Score, score
from emergence_ext.render import Number, Objective, Rendering, check_images, l1, maps_of, seeing
from emergence_ext.settings import require_count

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

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> schedule = mindseye.Schedule(steps=2, denoising=None, sparsity=0)
        >>> eye = mindseye.minds_eye(net, images, "1", top_k=2, schedule=schedule)
        >>> eye.images.shape, eye.losses.shape
        (torch.Size([1, 3, 8, 8]), torch.Size([2, 1]))
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

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> facets = mindseye.find_facets(mindseye.layer_rows(net, "1", images))
        >>> objective = mindseye.facet_objective(net, images, "1", facets, top_k=2, sparsity=0.0)
        >>> objective.target.shape, objective.channels.shape, objective.previous
        (torch.Size([1, 4, 6, 6]), torch.Size([1, 2]), None)
    """

    total: Objective
    adaptive: AdaptiveRobust = field(repr=False)
    target: Tensor = field(repr=False)
    channels: Tensor = field(repr=False)
    previous: str | None


class _Options(TypedDict):
    """How the layer is looked at, the same throughout a call."""

    regions: Tensor | None
    preprocess: Preprocess
    batch_size: int


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
            maps (nearest neighbour). The scores are means over these regions.
        preprocess: from images in 0..1 to the network's input.
        keep: iterations of which images are kept.
        batch_size: images at a time.
        random_state: seed of the embedding, the groups and the views.

    Raises:
        ValueError: what is no image in 0..1, fewer different images than facets, facets of other
            images, an unknown layer, top_k above the layer's channels, a layer that is dead for the
            images, or an image without a region.
        ImportError: scikit-learn or scikit-image is absent.

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> schedule = mindseye.Schedule(steps=5, denoising=None, sparsity=0)
        >>> eye = mindseye.minds_eye(net, images, "1", top_k=2, schedule=schedule)
        >>> bool(eye.losses[-1] < eye.losses[0])
        True
    """
    schedule = schedule or Schedule()
    require_kind(schedule=(schedule, Schedule))
    _check(images, facets, regions)
    options = _Options(regions=regions, preprocess=preprocess, batch_size=batch_size)
    if not isinstance(facets, Facets):
        rows = layer_rows(module, layer, images, **options)
        facets = find_facets(rows, facets, random_state=random_state)
    initial = torch.stack([f.mean(images[f.members]) for f in facets.facets])
    objective = facet_objective(
        module, images, layer, facets, top_k=top_k, sparsity=schedule.sparsity, **options
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
    return _measured(module, images, layer, facets, objective, initial, rendering, options)


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

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> images = torch.rand(6, 3, 8, 8)
        >>> facets = mindseye.find_facets(mindseye.layer_rows(net, "1", images))
        >>> mindseye.facet_objective(net, images, "1", facets, top_k=2, sparsity=0.0).total
        (distance(1) - alignment(1))
    """
    first = images[:1]
    previous = previous_layer(module, layer, first if preprocess is None else preprocess(first))
    names = [layer] if previous is None else [layer, previous]
    targets, units = [], []
    for facet in facets.facets:
        maps = maps_of(
            module, names, images[facet.members], preprocess=preprocess, batch_size=batch_size
        )
        own = None if regions is None else regions[facet.members.to(regions.device)]
        targets.append(facet.mean(_within(maps[layer], own)))
        if previous is not None:
            units.append(maps[previous].square().mean().sqrt())
    target = torch.stack(targets)
    channels = top_channels(target, top_k)
    adaptive = AdaptiveRobust(len(target), device=target.device)
    total = distance(layer, target, channels, adaptive) - alignment(layer, target, channels)
    if previous is None:
        logger.warning("%s has no layer before it that runs once: none is kept sparse", layer)
    else:
        total = total + sparsity * _in_units(previous, torch.stack(units))
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

    Examples:
        >>> from emergence_ext import mindseye
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> mindseye.layer_rows(net, "1", torch.rand(6, 3, 8, 8)).shape
        torch.Size([6, 144])
    """
    check_images("images", images)
    require_count("batch_size", batch_size, 1)
    check_number(len(images))
    rows = torch.empty(0)
    with torch.no_grad(), seeing(module, [layer], preprocess=preprocess) as see:
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            maps = see(images[batch]).layers[layer]
            part = pooled(_within(maps, None if regions is None else regions[batch])).cpu()
            if not start:  # at once, since parts and their whole would be twice as much
                rows = part.new_empty(len(images), part.shape[1])
            rows[batch] = part
    return rows


def _measured(
    module: nn.Module,
    images: Tensor,
    layer: str,
    facets: Facets,
    objective: FacetObjective,
    initial: Tensor,
    rendering: Rendering,
    options: _Options,
) -> MindsEye:
    adaptive, target, channels = objective.adaptive, objective.target, objective.channels
    return MindsEye(
        layer=layer,
        previous=objective.previous,
        facets=facets,
        channels=channels.cpu(),
        initial=initial,
        images=rendering.images,
        kept=rendering.kept,
        losses=rendering.losses,
        shape=adaptive.shape.detach().cpu(),
        scale=adaptive.scale.detach().cpu(),
        score=score(
            module, layer, facets, target, channels, rendering.images, initial, images, **options
        ),
    )


def _in_units(layer: str, units: Tensor) -> Objective:
    """The L1 norm of a layer, for each image in its own unit, `[n]`; 0 of a dead layer is 1."""
    size, units = l1(layer), torch.where(units > 0, units, 1.0)
    return Objective(lambda seen: size(seen) / units, f"{size} / unit", [layer])


def _within(maps: Tensor, regions: Tensor | None) -> Tensor:
    """Maps `[n, K, H, W]`, zero outside of regions `[n, H', W']`."""
    return maps if regions is None else maps * laid_over(regions, maps)[:, None]


def _check(images: Tensor, facets: int | Facets, regions: Tensor | None) -> None:
    check_images("images", images, within=True)
    if not isinstance(facets, Facets):
        require_count("facets", facets, 1)
    if isinstance(facets, Facets):
        if len(facets.labels) != len(images):
            raise ValueError(
                f"facets: they are of {len(facets.labels)} images, but {len(images)} are given"
            )
        if not facets.facets or any(not len(facet.members) for facet in facets.facets):
            raise ValueError("facets: expected some, each with an image that stands for it")
    if regions is not None:
        _check_regions(regions, len(images))


def _check_regions(regions: Tensor, images: int) -> None:
    require_kind(regions=(regions, Tensor))
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
