"""What a run found: its figures."""

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
from emergence_ext.report.files import NO_IMAGES, Drawings
from emergence_ext.report.shown import Shown
from emergence_ext.run import Emergence, FinishedRun, StrengthEntropy, Thumbnails

SHOWN_PER_CATEGORY: Final = 3  # images; one less where categories are left out
SHARED_PAIRS: Final = 6
IMAGES_OF_PAIR: Final = 4
TAUS: Final = tuple(i / 20 for i in range(2, 20))
IN_SPACE: Final = (
    "samples",
    "confidence_map",
    "samples_through_epochs",
    "regions_through_epochs",
    "regions_through_layers",
)
OF_IMAGES: Final = ("point_regions", "importance_maps", "shared_regions")


def figures(run: FinishedRun) -> Drawings:
    """Every figure of a run; of many categories, checkpoints and layers some, see `Shown`.

    What is shown of samples and regions is held-out images only, except for importance, which
    exists for the images that it was learned on. Frames of more than three dimensions have no
    figures in space, a single checkpoint has none through epochs, a single layer none through
    layers.
    """
    e = run.emergence
    own = next(s for s in run.strengths() if s.temperature == run.settings.temperature)
    shown = Shown.of(e)
    drawings = _of_results(e, own, shown)
    thumbnails = run.thumbnails
    if thumbnails is None:
        drawings |= dict.fromkeys(OF_IMAGES, NO_IMAGES)
    else:
        drawings |= _of_images(e, thumbnails, shown)
    if e.frame.dim > 3:
        drawings |= dict.fromkeys(IN_SPACE, f"dim = {e.frame.dim}, and space has 2 or 3 to draw in")
    for count, ending in ((len(e.labels), "_epochs"), (len(e.layers), "_layers")):
        if count == 1:
            drawings = {n: each for n, each in drawings.items() if not n.endswith(ending)}
    return drawings


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


def _of_results(
    e: Emergence, strength: StrengthEntropy, shown: Shown
) -> dict[str, Callable[[], Figure] | str]:
    out, times, depths = shown.images(e.y, e.held_out.nonzero().flatten()), *shown.steps
    y, names = shown.labels(e.y[out]), shown.names(e)
    mu = e.frame.directions[shown.categories]
    labels, layers = [e.labels[t] for t in times], shown.layer_names(e)
    everyone = shown.images(e.y, torch.arange(len(e.y)))
    h_strength = e.h[-1, -1, e.region_images].norm(dim=-1)
    categories = shown.note("categories")
    through_epochs = shown.note("categories", "checkpoints")

    def layer_figure() -> Figure:
        h = e.h[-1][depths][:, out]  # [L, n, R, dim]
        return draw.regions_through_layers(
            h, _truth(e, h, e.y[out]), y, mu, names, layers, e.points().subset(out).reliable,
            tau=e.tau,
        )  # fmt: skip

    def tau_curve() -> Figure:
        curves = torch.stack([e.points(-1, k).subset(e.held_out).curve(TAUS) for k in depths])
        return draw.tau_curve(TAUS, curves[..., 0], curves[..., 1], layers, tau=e.tau)

    drawings = {
        "samples": (categories, lambda: draw.samples(e.g[-1, out], y, mu, names)),
        "confidence_map": (categories, lambda: _confidence_map(e, shown)),
        "samples_through_epochs": (
            through_epochs,
            lambda: draw.samples_through_epochs(
                e.g[times][:, out], y, mu, names, labels,
                accuracies=[e.accuracy(t) for t in times],
            ),
        ),
        "regions_through_epochs": (
            through_epochs,
            lambda: draw.regions_through_epochs(
                e.h[times, -1][:, out], y, mu, names, labels
            ),
        ),
        "regions_through_layers": (shown.note("categories", "layers"), layer_figure),
        "knowledge_through_epochs": (shown.note("layers"), lambda: _knowledge(e, shown, "epochs")),
        "knowledge_through_layers": (
            shown.note("checkpoints"), lambda: _knowledge(e, shown, "layers")
        ),
        "tau_curve": (shown.note("layers"), tau_curve),
        "strength_entropy": (
            categories and f"{categories} r and mean are those of all images.",
            lambda: draw.strength_entropy(
                strength.strength[everyone],
                strength.entropy[everyone],
                shown.labels(e.y[everyone]),
                names,
                strength.r,
                strength.mean_entropy,
                baseline=(strength.pca_strength[everyone], strength.pca_r),
            ),
        ),
        "importance_strength": (
            "",
            lambda: draw.importance_strength(
                e.w[-1, -1],
                h_strength,
                pearson(h_strength, e.w[-1, -1]),
                baseline_r=pearson(e.raw_strength[-1, -1], e.w[-1, -1]),
            ),
        ),
        "category_similarity": (
            categories and f"{categories} Listed: the nearest of all.",
            lambda: draw.category_similarity(
                e.frame.directions @ e.frame.directions.t(), draw.distinct_names(e.categories, 16),
                shown=shown.categories,
            ),
        ),
        "losses": (shown.note("checkpoints", "layers"), lambda: _losses(e, shown)),
    }  # fmt: skip
    return {name: _with_note(*each) for name, each in drawings.items()}


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


def _of_images(
    e: Emergence, thumbnails: Thumbnails, shown: Shown
) -> dict[str, Callable[[], Figure] | str]:
    categories = shown.names(e)
    per_category = SHOWN_PER_CATEGORY if shown.every_category else SHOWN_PER_CATEGORY - 1
    out = shown.images(e.y, e.held_out.nonzero().flatten())
    some = _some_of_each(e.y, out, per_category)
    learned = e.y[e.region_images]
    place = _some_of_each(
        learned, shown.images(learned, torch.arange(len(learned))), per_category - 1
    )
    weighed = e.region_images[place]
    note, images = shown.note("categories"), thumbnails.images

    def regions() -> Figure:
        points = e.points().subset(some)
        return draw.point_regions(
            images(some),
            shown.labels(e.y[some]),
            points.point,
            points.reliable,
            _truth(e, e.h[-1, -1, some][None], e.y[some])[0],
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
                e.w[-1, -1, place],
                e.grid,
                labels=shown.labels(e.y[weighed]),
                categories=categories,
            ),
        )
    shared = shared_categories(e.h[-1, -1, e.held_out], e.frame, e.tau)
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
    strength = float(e.g[-1, e.held_out].norm(dim=1).median()) or 1.0
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
        g=e.g[-1, out],
        labels=shown.labels(e.y[out]),
    )


def _some_of_each(y: Tensor, index: Tensor, most: int) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[:0], *(index[labels == c][:most] for c in labels.unique())])


def _truth(e: Emergence, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `h [L, N, R, dim]`, `[L, N, R]`."""
    index = y[None, :, None, None].expand(*h.shape[:3], 1)
    return e.frame.posterior(h).gather(-1, index)[..., 0]
