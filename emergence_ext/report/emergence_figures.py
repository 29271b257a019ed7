"""How each figure of a run is drawn from what the run found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures as draw
from emergence_ext.figures import display_name, signed_text
from emergence_ext.method import pearson, shared_categories
from emergence_ext.report.shown import Shown
from emergence_ext.run import Emergence, StrengthEntropy, Thumbnails

SHOWN_PER_CATEGORY: Final = 3  # images; one less where categories are left out
SHARED_PAIRS: Final = 6
IMAGES_OF_PAIR: Final = 4
TAUS: Final = tuple(i / 20 for i in range(2, 20))


def knowledge_bands(states: Sequence[tuple[Emergence, int]]) -> dict[str, draw.Band]:
    """Counts on held-out images with intervals, `[len(states), L]`, of checkpoints t of results e.

    Args:
        states: `(e, t)` pairs, all of the same layers.

    Returns:
        `total`, `reliable`, `ratio` (NaN without points) and `shared`, as the figure of knowledge
        points takes them.
    """
    counts = [e.held_out_counts[t] for e, t in states]
    return {
        part: draw.Band.of([[getattr(count, part) for count in row] for row in counts])
        for part in ("total", "reliable", "ratio", "shared")
    }


def of_results(
    e: Emergence, strength: StrengthEntropy, shown: Shown
) -> dict[str, Callable[[], Figure] | str]:
    """Figures that need no image."""
    some, categories = e.sample, shown.note("categories")
    y = e.y if strength.images is None else e.y[strength.images]
    everyone = shown.images(y, torch.arange(len(y)))
    h_strength = e.regions(-1, -1, e.region_images).norm(dim=-1)

    def tau_curve() -> Figure:
        points = [some.points(-1, k, some.held_out) for k in shown.layers]
        curves = torch.stack([each.curve(TAUS) for each in points])
        return draw.tau_curve(TAUS, curves[..., 0], curves[..., 1], shown.layer_names(e), tau=e.tau)

    def strength_entropy() -> Figure:
        return draw.strength_entropy(
            strength.strength[everyone],
            strength.entropy[everyone],
            shown.labels(y[everyone]),
            shown.names(e),
            strength.r,
            strength.mean_entropy,
            baseline=(strength.pca_strength[everyone], strength.pca_r),
        )

    def importance_strength() -> Figure:
        w, there = e.w[-1, -1], e.weighed
        return draw.importance_strength(
            _drawn(w, there),
            h_strength,
            pearson(h_strength, w, there),
            baseline_r=pearson(e.raw_strength[-1, -1], w, there),
        )

    def similarity() -> Figure:
        mu, names = e.frame.directions, draw.distinct_names(e.categories, 16)
        return draw.category_similarity(mu @ mu.t(), names, shown=shown.categories)

    drawings = {
        **_in_space(e, some, shown),
        "knowledge_through_epochs": (shown.note("layers"), lambda: _knowledge(e, shown, "epochs")),
        "knowledge_through_layers": (
            shown.note("checkpoints"),
            lambda: _knowledge(e, shown, "layers"),
        ),
        "tau_curve": (shown.note("layers", "images"), tau_curve),
        "strength_entropy": (
            categories and f"{categories} r and mean are those of all {len(y):,} images.",
            strength_entropy,
        ),
        "importance_strength": ("", importance_strength),
        "category_similarity": (
            categories and f"{categories} Listed: the nearest of all.",
            similarity,
        ),
        "losses": (shown.note("checkpoints", "layers"), lambda: _losses(e, shown)),
    }
    return {name: _with_note(*each) for name, each in drawings.items()}


def _in_space(
    all_of_it: Emergence, e: Emergence, shown: Shown
) -> dict[str, tuple[str, Callable[[], Figure]]]:
    """Figures of the frame and of images in it: what each has to say, and how it is drawn."""
    out, times = shown.images(e.y, e.held_out.nonzero().flatten()), shown.checkpoints
    y, names, mu = shown.labels(e.y[out]), shown.names(e), e.frame.directions[shown.categories]
    labels = [e.labels[t] for t in times]
    through_epochs = shown.note("categories", "checkpoints", "images")
    note = shown.note("categories", "images")

    def samples_through_epochs() -> Figure:
        rates = [all_of_it.accuracy(t) for t in times]
        g = torch.stack([e.samples(t, out) for t in times])
        return draw.samples_through_epochs(g, y, mu, names, labels, accuracies=rates)

    def regions_through_epochs() -> Figure:
        h = torch.stack([e.regions(t, -1, out) for t in times])
        h, own = e.counted(h, y, out)
        return draw.regions_through_epochs(h, own, mu, names, labels)

    def regions_through_layers() -> Figure:
        h = torch.stack([e.regions(-1, k, out) for k in shown.layers])  # [L, n, R, dim]
        reliable = e.points(images=out).reliable
        return draw.regions_through_layers(
            h, _truth(e, h, e.y[out]), y, mu, names, shown.layer_names(e), reliable, tau=e.tau
        )

    return {
        "samples": (
            note,
            lambda: draw.samples(e.samples(-1, out), y, mu, names),
        ),
        "confidence_map": (note, lambda: _confidence_map(e, shown)),
        "samples_through_epochs": (through_epochs, samples_through_epochs),
        "regions_through_epochs": (through_epochs, regions_through_epochs),
        "regions_through_layers": (
            shown.note("categories", "layers", "images"),
            regions_through_layers,
        ),
    }


def _with_note(note: str, drawing: Callable[[], Figure]) -> Callable[[], Figure]:
    return lambda: draw.noted(drawing(), note)


def _knowledge(e: Emergence, shown: Shown, along: Literal["epochs", "layers"]) -> Figure:
    """Counts of all checkpoints and layers along one axis; the lines are those that are shown."""
    times, depths = shown.steps
    times = times if along == "layers" else list(range(len(e.labels)))
    depths = depths if along == "epochs" else list(range(len(e.layers)))
    bands = {
        name: draw.Band(*(end[np.ix_(times, depths)] for end in band))
        for name, band in knowledge_bands([(e, t) for t in range(len(e.labels))]).items()
    }
    return draw.knowledge_curves(
        bands["total"],
        bands["reliable"],
        bands["ratio"],
        [e.labels[t] for t in times],
        shown.layer_names(e, depths),
        shared=bands["shared"],
        along=along,
    )


def _losses(e: Emergence, shown: Shown) -> Figure:
    """The course of the fits of the checkpoints and layers that are shown."""
    curves, called = {}, shown.layer_names(e)
    for label in (e.labels[t] for t in shown.checkpoints):
        curves[f"samples/{label}"] = f"samples/{label}"
        for kind in ("importance", "regional"):
            for k, name in zip(shown.layers, called, strict=True):
                curves[f"{kind}/{e.layers[k]}/{label}"] = f"{kind}/{name}/{label}"
    return draw.losses({curves[x]: stats.losses for x, stats in e.fits.items() if x in curves})


def of_images(
    e: Emergence, thumbnails: Thumbnails, shown: Shown
) -> dict[str, Callable[[], Figure] | str]:
    """Figures of regions on images."""
    categories = shown.names(e)
    per_category = SHOWN_PER_CATEGORY if shown.every_category else SHOWN_PER_CATEGORY - 1
    out = shown.images(e.y, e.held_out.nonzero().flatten())
    some = _some_of_each(e.y, out, per_category)
    learned = e.y[e.region_images]
    place = _some_of_each(
        learned, shown.images(learned, torch.arange(len(learned))), per_category - 1
    )
    weighed = e.region_images[place]
    note, images = shown.note("categories", "images"), thumbnails.images

    def regions() -> Figure:
        points = e.points(images=some)
        truth = _truth(e, e.regions(-1, -1, some)[None], e.y[some])[0]
        if e.mask is not None:
            truth = truth.where(e.mask[some], 0)
        return draw.point_regions(
            images(some),
            shown.labels(e.y[some]),
            points.point,
            points.reliable,
            truth,
            e.grid,
            categories,
            columns=per_category,
        )

    drawings: dict[str, Callable[[], Figure] | str] = {"point_regions": _with_note(note, regions)}
    if len(weighed):
        drawings["importance_maps"] = _with_note(
            note,
            lambda: draw.importance_maps(
                images(weighed),
                _drawn(e.w[-1, -1], e.weighed)[place],
                e.grid,
                labels=shown.labels(e.y[weighed]),
                categories=categories,
            ),
        )
    shared = shared_categories(e.regions(-1, -1, e.held_out), e.frame, e.tau)
    if bool((shared >= 0).any()):
        drawings["shared_regions"] = lambda: _shared_regions(e, shared, images)
    return drawings


def _shared_regions(e: Emergence, shared: Tensor, images: Callable[[Tensor], Tensor]) -> Figure:
    """Images by the pair of categories that share most of their regions `[n, R, 2]`, held-out."""
    pairs, counts = shared[shared[..., 0] >= 0].unique(dim=0, return_counts=True)
    mu, titles, remarks, masks, places = e.frame.directions, [], [], [], []
    for k in counts.argsort(descending=True, stable=True)[:SHARED_PAIRS].tolist():
        a, b = pairs[k].tolist()
        mask = (shared == pairs[k]).all(-1)
        most = mask.sum(1).argsort(descending=True, stable=True)[:IMAGES_OF_PAIR]
        titles.append(f"{display_name(e.categories[a])} and {display_name(e.categories[b])}")
        cosine = signed_text(float(mu[a] @ mu[b]))
        remarks.append(f"{int(counts[k])} shared regions, cosine of the directions {cosine}")
        masks.append(mask[most])
        places.append(e.held_out.nonzero().flatten()[most])
    shown = [images(place) for place in places]
    return draw.shared_regions(torch.stack(shown), torch.stack(masks), e.grid, titles, remarks)


def _confidence_map(e: Emergence, shown: Shown) -> Figure:
    """The classification of g everywhere; of space at the median strength of held-out images."""
    strength = float(e.samples(-1, e.held_out).norm(dim=1).median()) or 1.0
    grid = torch.from_numpy(draw.contour_grid(e.frame.directions[shown.categories], strength))
    # Row by row: with many categories all at once would be gigabytes.
    p, others = [], []
    for row in grid:
        every = e.frame.posterior(row)
        p.append(every[:, shown.categories])
        others.append(every.index_fill(1, shown.categories, 0).amax(1))
    out = shown.images(e.y, e.held_out.nonzero().flatten())
    return draw.confidence_map(
        grid,
        torch.stack(p),
        e.frame.directions[shown.categories],
        shown.names(e),
        others=None if shown.every_category else torch.stack(others),
        g=e.samples(-1, out),
        labels=shown.labels(e.y[out]),
    )


def _some_of_each(y: Tensor, index: Tensor, most: int) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[:0], *(index[labels == c][:most] for c in labels.unique())])


def _drawn(w: Tensor, there: Tensor | None) -> Tensor:
    """As figures take w `[n, R]`: a uniform one is 1 / R, and nothing where no region counts."""
    if there is None:
        return w
    return (w * there.float().mean(1, keepdim=True)).masked_fill(~there, torch.nan)


def _truth(e: Emergence, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `h [L, N, R, dim]`, `[L, N, R]`."""
    index = y[None, :, None, None].expand(*h.shape[:3], 1)
    return e.frame.posterior(h).gather(-1, index)[..., 0]
