"""Tables of a run: correlations, importance, points, similarity, fits, images."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from emergence_ext.method import pearson, shared_categories
from emergence_ext.report.tables.rows import Row, interval
from emergence_ext.run import Emergence, ImportanceStrength, StrengthEntropy


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


def importance(e: Emergence, alpha: float, sweep: Iterable[ImportanceStrength] = ()) -> list[Row]:
    """Strength of regions against their importance in the finished network (Table 2)."""
    rows = []
    for k, layer in enumerate(e.layers):
        r = pearson(e.h[-1, k, e.region_images].norm(dim=-1), e.w[-1, k])
        rows.append(_importance_row(layer, alpha, r, pearson(e.raw_strength[-1, k], e.w[-1, k])))
    rows += [
        _importance_row(e.layers[-1], s.alpha, s.r, s.raw_r) for s in sweep if s.alpha != alpha
    ]
    return rows


def _importance_row(layer: str, alpha: float, r: torch.Tensor, raw: torch.Tensor) -> Row:
    r, raw = r[r.isfinite()], raw[raw.isfinite()]
    return {
        "layer": layer,
        "alpha": alpha,
        "Pearson of |h| with w, mean": r.mean().item(),
        "standard deviation": r.std().item(),
        "Pearson of |F| with w, mean": raw.mean().item(),
        "images": len(r),
    }


def knowledge(e: Emergence) -> list[Row]:
    """Knowledge points, a row for each checkpoint, layer, and held-out or fitted images."""
    rows: list[Row] = []
    for t, label in enumerate(e.labels):
        for k, layer in enumerate(e.layers):
            points = e.points(t, k)
            for which, mask in (("held out", e.held_out), ("fitted", ~e.held_out)):
                count = points.subset(mask).count()
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
