"""Which figures a run has, and what each is drawn from."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures
from emergence_ext.correlation import pearson
from emergence_ext.samples import Samples
from emergence_ext.store import write_file
from emergence_ext.studies.emergence import Emergence
from emergence_ext.studies.strength import StrengthEntropy

SHOWN_PER_CATEGORY: Final = 8
TAUS: Final = tuple(i / 20 for i in range(2, 20))


def draw_all(folder: Path, found: Emergence, strength: StrengthEntropy, dataset: Samples) -> list[str]:
    """Draw every figure of a run into a folder, as PNG and SVG, and return their names.

    What is shown of samples and regions is held-out images only, except for importance, which exists for the
    images that it was learned on.

    Args:
        folder: where to; made if it is not there.
        found: the results.
        strength: strength against entropy at the temperature of the frame.
        dataset: the images, in the order of `found.names`.
    """
    drawn = _of_results(found, strength) | _of_images(found, dataset)
    for name, draw in drawn.items():
        save(draw(), folder / name)
    return list(drawn)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path.png` (200 dots per inch) and `path.svg`."""
    for kind in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
        write_file(path.with_name(f"{path.name}.{kind}"), content.getvalue())


def _of_results(e: Emergence, strength: StrengthEntropy) -> dict[str, Callable[[], Figure]]:
    out, mu, names = e.held_out, e.frame.directions, e.categories
    y, chosen = e.y[out], e.region_images
    last = e.points().subset(out)
    truth = e.frame.posterior(e.h[-1][:, out]).gather(-1, _repeat(y, e.h[-1][:, out]))[..., 0]
    bands = _bands(e)
    h_strength = e.h[-1, -1, chosen].norm(dim=-1)
    curves = torch.stack([e.points(-1, k).subset(out).curve(TAUS) for k in range(len(e.layers))])
    return {
        "samples": lambda: figures.samples(e.g[-1, out], y, mu, names),
        "samples_through_epochs": lambda: figures.samples_through_epochs(
            e.g[:, out], y, mu, names, e.labels, accuracies=[e.accuracy(t) for t in range(len(e.labels))]
        ),
        "regions_through_epochs": lambda: figures.regions_through_epochs(e.h[:, -1, out], y, mu, names, e.labels),
        "regions_through_layers": lambda: figures.regions_through_layers(
            e.h[-1][:, out], truth, y, mu, names, e.layers, last.reliable, tau=e.tau
        ),
        "knowledge_through_epochs": lambda: figures.knowledge_curves(**bands, epochs=e.labels, layers=e.layers),
        "knowledge_through_layers": lambda: figures.knowledge_curves(
            **bands, epochs=e.labels, layers=e.layers, along="layers"
        ),
        "tau_curve": lambda: figures.tau_curve(TAUS, curves[..., 0], curves[..., 1], e.layers, tau=e.tau),
        "strength_entropy": lambda: figures.strength_entropy(
            strength.strength, strength.entropy, e.y, names, strength.r, strength.mean_entropy,
            baseline=(strength.pca_strength, strength.pca_r),
        ),
        "importance_strength": lambda: figures.importance_strength(
            e.w[-1, -1], h_strength, pearson(h_strength, e.w[-1, -1]),
            baseline_r=pearson(e.raw_strength[-1, -1], e.w[-1, -1]),
        ),
        "category_similarity": lambda: figures.category_similarity(mu @ mu.t(), names),
        "losses": lambda: figures.losses({name: stats.losses for name, stats in e.fits.items()}),
    }  # fmt: skip


def _of_images(e: Emergence, dataset: Samples) -> dict[str, Callable[[], Figure]]:
    points = e.points()
    shown = _some_of_each(e.y, e.held_out.nonzero().flatten())
    place = _some_of_each(e.y[e.region_images], torch.arange(len(e.region_images)), most=2)
    images = lambda index: torch.stack([dataset[int(i)][0] for i in index])  # noqa: E731
    return {
        "point_regions": lambda: figures.point_regions(
            images(shown), e.y[shown], points.point[shown], points.reliable[shown], points.confidence[shown],
            e.grid, e.categories, columns=SHOWN_PER_CATEGORY,
        ),
        "importance_maps": lambda: figures.importance_maps(
            images(e.region_images[place]), e.w[-1, -1, place], e.grid, labels=e.y[e.region_images[place]],
            categories=e.categories,
        ),
    }  # fmt: skip


def _bands(e: Emergence) -> dict[str, figures.Band]:
    """Counts on held-out images with intervals, each `[T, L]`; a ratio without points is NaN."""
    nan = float("nan")
    counts = [
        [e.points(t, k).subset(e.held_out).count() for k in range(len(e.layers))] for t in range(len(e.labels))
    ]
    bands = {}
    for name in ("total", "reliable", "ratio", "shared"):
        values = [[getattr(c, name) for c in row] for row in counts]
        bands[name] = figures.Band(
            *(
                torch.tensor([[nan if x is None else getattr(x, end) for x in row] for row in values])
                for end in ("value", "low", "high")
            )
        )
    return bands


def _some_of_each(y: Tensor, index: Tensor, most: int = SHOWN_PER_CATEGORY) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[labels == c][:most] for c in labels.unique()])


def _repeat(y: Tensor, h: Tensor) -> Tensor:
    """Labels `[N]` as indices that fit the posterior of `h [L, N, R, dim]`, `[L, N, R, 1]`."""
    return y[None, :, None, None].expand(*h.shape[:3], 1)
