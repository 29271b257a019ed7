"""What a run found: its tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures as draw
from emergence_ext.figures import display_name, signed_text
from emergence_ext.method import pearson, shared_categories
from emergence_ext.report.files import NO_IMAGES, Drawings, Row, Tables, interval
from emergence_ext.run import (
    Emergence,
    FinishedRun,
    ImportanceStrength,
    StrengthEntropy,
    Thumbnails,
)

SHOWN_PER_CATEGORY: Final = 3
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


def tables(run: FinishedRun) -> Tables:
    """Correlations, importance, points, similarity of categories, fits and images of a run."""
    e = run.emergence
    return {
        "correlations": correlations(run.strengths()),
        "importance": importance_rows(e, run.settings.alpha, run.other_alphas()),
        "knowledge": knowledge_rows(e),
        "similarity": similarity(e),
        "fits": fits(e),
        "images": images(e),
    }


def figures(run: FinishedRun) -> Drawings:
    """Every figure of a run.

    What is shown of samples and regions is held-out images only, except for importance, which
    exists for the images that it was learned on. Frames of more than three dimensions have no
    figures in space, a single checkpoint has none through epochs, a single layer none through
    layers.
    """
    e = run.emergence
    own = next(s for s in run.strengths() if s.temperature == run.settings.temperature)
    drawings = _of_results(e, own)
    thumbnails = run.thumbnails
    if thumbnails is None:
        drawings |= dict.fromkeys(OF_IMAGES, NO_IMAGES)
    else:
        drawings |= _of_images(e, thumbnails)
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


def correlations(results: Iterable[StrengthEntropy]) -> list[Row]:
    """Strength against entropy, a row a temperature (Table 1)."""
    return [
        {
            "temperature": s.temperature,
            "mean entropy (nats)": s.mean_entropy,
            "Pearson, |g| (left-out images)": s.r,
            "Pearson, PCA (left-out images)": s.pca_r,
            "Pearson, |g| (fitted images)": s.fitted_r,
            "Pearson, PCA (fitted images)": s.pca_fitted_r,
            "mean cosine of directions": s.mean_cosine,
            "images": len(s.entropy),
        }
        for s in results
    ]


def importance_rows(
    e: Emergence, alpha: float, others: Iterable[ImportanceStrength] = ()
) -> list[Row]:
    """Strength of regions against their importance in the finished network (Table 2)."""
    rows = []
    for k, layer in enumerate(e.layers):
        r = pearson(e.h[-1, k, e.region_images].norm(dim=-1), e.w[-1, k])
        rows.append(importance_row(layer, alpha, r, pearson(e.raw_strength[-1, k], e.w[-1, k])))
    rows += [
        importance_row(e.layers[-1], s.alpha, s.r, s.raw_r) for s in others if s.alpha != alpha
    ]
    return rows


def importance_row(layer: str, alpha: float, r: Tensor, raw: Tensor) -> Row:
    """A row of Pearson coefficients over images, `[n]`, of `|h|` and of `|F|` with w."""
    r, raw = r[r.isfinite()], raw[raw.isfinite()]
    return {
        "layer": layer,
        "alpha": alpha,
        "Pearson of |h| with w, mean": r.mean().item(),
        "standard deviation": r.std().item() if len(r) > 1 else None,
        "Pearson of |F| with w, mean": raw.mean().item(),
        "images": len(r),
    }


def knowledge_rows(e: Emergence) -> list[Row]:
    """Knowledge points, a row for each checkpoint, layer, and held-out or fitted images."""
    rows: list[Row] = []
    for t, label in enumerate(e.labels):
        for k, layer in enumerate(e.layers):
            points = e.points(t, k)
            fitted = points.subset(~e.held_out).count()
            for which, count in (("held out", e.held_out_counts[t][k]), ("fitted", fitted)):
                rows.append(
                    {
                        "checkpoint": label,
                        "layer": layer,
                        "images": which,
                        "number of images": count.images,
                        **interval("points", count.total),
                        **interval("reliable", count.reliable),
                        **interval("ratio", count.ratio),
                        "shared by categories": int(count.shared.value),
                    }
                )
    return rows


def similarity(e: Emergence) -> list[Row]:
    """Cosines of category directions and the regions that both share, nearest first (Fig. 2, 10).

    Regions are those of held-out images in the last layer of the last checkpoint.
    """
    mu = e.frame.directions
    cosines = mu @ mu.t()
    C = len(mu)
    shared = shared_categories(e.h[-1, -1, e.held_out], e.frame, e.tau)
    pairs = [(float(cosines[a, b]), a, b) for a in range(C) for b in range(a + 1, C)]
    return [
        {
            "category": e.categories[a],
            "and": e.categories[b],
            "cosine": c,
            "regions that both share": int((shared == torch.tensor([a, b])).all(-1).sum()),
        }
        for c, a, b in sorted(pairs, reverse=True)
    ]


def fits(e: Emergence) -> list[Row]:
    """How every fit went."""
    return [
        {
            "fit": name,
            "evaluations": stats.evaluations,
            "first loss": stats.losses[0],
            "last loss": stats.losses[-1],
            "seconds": stats.seconds,
            "why it stopped": stats.stopped,
            "terms": "; ".join(f"{term} {value:.4g}" for term, value in stats.terms.items()),
        }
        for name, stats in e.fits.items()
    ]


def images(e: Emergence) -> list[Row]:
    """What the finished network and its last layer make of every image."""
    uncertainty, strength, predicted = e.entropy(), e.g[-1].norm(dim=1), e.z[-1].argmax(1)
    points = e.points()
    n_points, n_reliable = points.point.sum(1), points.reliable.sum(1)
    return [
        {
            "image": name,
            "category": e.categories[int(e.y[i])],
            "network says": e.categories[int(predicted[i])],
            "held out": "yes" if e.held_out[i] else "no",
            "entropy (nats)": float(uncertainty[i]),
            "strength |g|": float(strength[i]),
            "knowledge points": int(n_points[i]),
            "reliable": int(n_reliable[i]),
        }
        for i, name in enumerate(e.names)
    ]


def _of_results(e: Emergence, strength: StrengthEntropy) -> dict[str, Callable[[], Figure] | str]:
    out, mu, names = e.held_out, e.frame.directions, e.categories
    y = e.y[out]
    h = e.h[-1][:, out]  # [L, n, R, dim]
    truth = _truth(e, h, y)
    last = e.points().subset(out)
    curves = torch.stack([e.points(-1, k).subset(out).curve(TAUS) for k in range(len(e.layers))])
    accuracies = [e.accuracy(t) for t in range(len(e.labels))]
    h_strength = e.h[-1, -1, e.region_images].norm(dim=-1)
    bands = knowledge_bands([(e, t) for t in range(len(e.labels))])
    counts = (bands["total"], bands["reliable"], bands["ratio"])

    def knowledge(along: Literal["epochs", "layers"]) -> Figure:
        return draw.knowledge_curves(
            *counts, e.labels, e.layers, shared=bands["shared"], along=along
        )

    return {
        "samples": lambda: draw.samples(e.g[-1, out], y, mu, names),
        "confidence_map": lambda: _confidence_map(e),
        "samples_through_epochs": lambda: draw.samples_through_epochs(
            e.g[:, out], y, mu, names, e.labels, accuracies=accuracies
        ),
        "regions_through_epochs": lambda: draw.regions_through_epochs(
            e.h[:, -1, out], y, mu, names, e.labels
        ),
        "regions_through_layers": lambda: draw.regions_through_layers(
            h, truth, y, mu, names, e.layers, last.reliable, tau=e.tau
        ),
        "knowledge_through_epochs": lambda: knowledge("epochs"),
        "knowledge_through_layers": lambda: knowledge("layers"),
        "tau_curve": lambda: draw.tau_curve(
            TAUS, curves[..., 0], curves[..., 1], e.layers, tau=e.tau
        ),
        "strength_entropy": lambda: draw.strength_entropy(
            strength.strength,
            strength.entropy,
            e.y,
            names,
            strength.r,
            strength.mean_entropy,
            baseline=(strength.pca_strength, strength.pca_r),
        ),
        "importance_strength": lambda: draw.importance_strength(
            e.w[-1, -1],
            h_strength,
            pearson(h_strength, e.w[-1, -1]),
            baseline_r=pearson(e.raw_strength[-1, -1], e.w[-1, -1]),
        ),
        "category_similarity": lambda: draw.category_similarity(mu @ mu.t(), names),
        "losses": lambda: draw.losses({name: stats.losses for name, stats in e.fits.items()}),
    }


def _of_images(e: Emergence, thumbnails: Thumbnails) -> dict[str, Callable[[], Figure] | str]:
    points = e.points()
    shown = _some_of_each(e.y, e.held_out.nonzero().flatten())
    place = _some_of_each(e.y[e.region_images], torch.arange(len(e.region_images)), most=2)
    weighed = e.region_images[place]

    images = thumbnails.images
    drawings: dict[str, Callable[[], Figure] | str] = {
        "point_regions": lambda: draw.point_regions(
            images(shown),
            e.y[shown],
            points.point[shown],
            points.reliable[shown],
            _truth(e, e.h[-1, -1, shown][None], e.y[shown])[0],
            e.grid,
            e.categories,
            columns=SHOWN_PER_CATEGORY,
        ),
        "importance_maps": lambda: draw.importance_maps(
            images(weighed),
            e.w[-1, -1, place],
            e.grid,
            labels=e.y[weighed],
            categories=e.categories,
        ),
    }
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


def _confidence_map(e: Emergence) -> Figure:
    """The classification of g everywhere; of space at the median strength of held-out images."""
    g = e.g[-1, e.held_out]
    strength = float(g.norm(dim=1).median()) or 1.0
    grid = torch.from_numpy(draw.contour_grid(e.frame.directions, strength))
    p = e.frame.posterior(grid)
    return draw.confidence_map(
        grid, p, e.frame.directions, e.categories, g=g, labels=e.y[e.held_out]
    )


def _some_of_each(y: Tensor, index: Tensor, most: int = SHOWN_PER_CATEGORY) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[labels == c][:most] for c in labels.unique()])


def _truth(e: Emergence, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `h [L, N, R, dim]`, `[L, N, R]`."""
    index = y[None, :, None, None].expand(*h.shape[:3], 1)
    return e.frame.posterior(h).gather(-1, index)[..., 0]
