"""What a run found: its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method import pearson, shared_categories
from emergence_ext.report import learning
from emergence_ext.report.emergence_figures import of_images, of_results
from emergence_ext.report.files import NO_IMAGES, Drawings, Row, Tables, interval
from emergence_ext.report.shown import Shown
from emergence_ext.run import (
    Emergence,
    FinishedRun,
    ImportanceStrength,
    StrengthEntropy,
)

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
    require_kind(run=(run, FinishedRun))
    e = run.emergence
    return {
        "correlations": correlations(run.strengths()),
        "importance": importance_rows(e, run.settings.alpha, run.other_alphas()),
        "knowledge": knowledge_rows(e),
        "similarity": similarity(e),
        "fits": fits(e),
        **({"learning": learning.rows({"network": e})} if len(e.labels) > 1 else {}),
        "images": images(e),
    }


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
    drawings = of_results(e, own, shown)
    thumbnails = run.thumbnails
    if thumbnails is None:
        drawings |= dict.fromkeys(OF_IMAGES, NO_IMAGES)
    else:
        drawings |= of_images(e.sample, thumbnails.alone, shown)
    drawings["learning_epochs"] = lambda: learning.figure({"network": e})
    if e.frame.dim > 3:
        drawings |= dict.fromkeys(IN_SPACE, f"dim = {e.frame.dim}, and space has 2 or 3 to draw in")
    for count, ending in ((len(e.labels), "_epochs"), (len(e.layers), "_layers")):
        if count == 1:
            drawings = {n: each for n, each in drawings.items() if not n.endswith(ending)}
    return drawings


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
        r = pearson(e.regions(-1, k, e.region_images).norm(dim=-1), e.w[-1, k], e.weighed)
        raw = pearson(e.raw_strength[-1, k], e.w[-1, k], e.weighed)
        rows.append(importance_row(layer, alpha, r, raw))
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
            for which, count in zip(("held out", "fitted"), e.counts[t][k], strict=True):
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
    counts = torch.zeros(C * C, dtype=torch.int64)
    for block in e.blocks():
        h = e.regions(-1, -1, block)[e.held_out[block]]
        shared = shared_categories(h, e.frame, e.tau).flatten(0, 1)
        # Each pair is one number; regions that no two share are those of the pair (-1, -1).
        pairs = (shared * torch.tensor([C, 1])).sum(1).clamp_min(0)
        counts += torch.bincount(pairs, minlength=C * C)
    regions = counts.tolist()
    first, second = torch.triu_indices(C, C, 1).tolist()
    values = cosines[first, second].tolist()
    return [
        {
            "category": e.categories[a],
            "and": e.categories[b],
            "cosine": c,
            "regions that both share": regions[C * a + b],
        }
        for c, a, b in sorted(zip(values, first, second, strict=True), reverse=True)
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
    """What the finished network and its last layer make of every image; of many, of some.

    The misread ones come first, the surest of them first, then the others, the least sure first.
    """
    e = e.sample
    uncertainty, strength, predicted = e.entropy(), e.samples().norm(dim=1), e.predicted()
    points, reliable, _ = e.points_per_image()
    wrong = predicted != e.y
    order = torch.where(wrong, uncertainty, -uncertainty).argsort(stable=True)
    order = order[wrong[order].int().argsort(descending=True, stable=True)]
    return [
        {
            "image": name,
            "category": e.categories[y],
            "network says": e.categories[says],
            "held out": "yes" if held_out else "no",
            "entropy (nats)": unsure,
            "strength |g|": strong,
            "knowledge points": n_points,
            "reliable": n_reliable,
        }
        for name, y, says, held_out, unsure, strong, n_points, n_reliable in zip(
            [e.names[i] for i in order.tolist()],
            e.y[order].tolist(),
            predicted[order].tolist(),
            e.held_out[order].tolist(),
            uncertainty[order].tolist(),
            strength[order].tolist(),
            points[order].tolist(),
            reliable[order].tolist(),
            strict=True,
        )
    ]
