"""Which figures a run has, and what each is drawn from."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures
from emergence_ext.correlation import pearson
from emergence_ext.datasets import Samples
from emergence_ext.store import write_file
from emergence_ext.studies.emergence import Emergence
from emergence_ext.studies.strength import StrengthEntropy

logger = logging.getLogger(__name__)

SHOWN_PER_CATEGORY: Final = 3
TAUS: Final = tuple(i / 20 for i in range(2, 20))
IN_SPACE: Final = (
    "samples",
    "samples_through_epochs",
    "regions_through_epochs",
    "regions_through_layers",
)


def draw_all(
    folder: Path, found: Emergence, strength: StrengthEntropy, dataset: Samples
) -> list[str]:
    """Draw every figure of a run into a folder, as PNG and SVG, and return their names.

    What is shown of samples and regions is held-out images only, except for importance, which
    exists for the images that it was learned on. Frames of more than three dimensions have no
    figures in space, a single checkpoint has none through epochs, a single layer none through
    layers.

    Args:
        folder: where to; made if it is not there.
        found: the results.
        strength: strength against entropy at the temperature of the frame.
        dataset: the images, in the order of `found.names`.
    """
    drawn = _of_results(found, strength) | _of_images(found, dataset)
    if found.frame.dim > 3:
        logger.warning(
            "dim = %d: figures in space need dim 2 or 3 and are left out", found.frame.dim
        )
        drawn = {name: draw for name, draw in drawn.items() if name not in IN_SPACE}
    if len(found.labels) == 1:
        drawn = {name: draw for name, draw in drawn.items() if not name.endswith("_epochs")}
    if len(found.layers) == 1:
        drawn = {name: draw for name, draw in drawn.items() if not name.endswith("_layers")}
    for name, draw in drawn.items():
        save(draw(), folder / name)
    return list(drawn)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path.png` (200 dots per inch) and `path.svg`."""
    for kind in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(
            content, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None
        )
        write_file(path.with_name(f"{path.name}.{kind}"), content.getvalue())


def _of_results(e: Emergence, strength: StrengthEntropy) -> dict[str, Callable[[], Figure]]:
    out, mu, names = e.held_out, e.frame.directions, e.categories
    y = e.y[out]
    h = e.h[-1][:, out]  # [L, n, R, dim]
    truth = _truth(e, h, y)
    last = e.points().subset(out)
    curves = torch.stack([e.points(-1, k).subset(out).curve(TAUS) for k in range(len(e.layers))])
    accuracies = [e.accuracy(t) for t in range(len(e.labels))]
    h_strength = e.h[-1, -1, e.region_images].norm(dim=-1)
    bands = _bands(e)

    def knowledge(along: Literal["epochs", "layers"]) -> Figure:
        counts = (bands["total"], bands["reliable"], bands["ratio"])
        return figures.knowledge_curves(
            *counts, e.labels, e.layers, shared=bands["shared"], along=along
        )

    return {
        "samples": lambda: figures.samples(e.g[-1, out], y, mu, names),
        "samples_through_epochs": lambda: figures.samples_through_epochs(
            e.g[:, out], y, mu, names, e.labels, accuracies=accuracies
        ),
        "regions_through_epochs": lambda: figures.regions_through_epochs(
            e.h[:, -1, out], y, mu, names, e.labels
        ),
        "regions_through_layers": lambda: figures.regions_through_layers(
            h, truth, y, mu, names, e.layers, last.reliable, tau=e.tau
        ),
        "knowledge_through_epochs": lambda: knowledge("epochs"),
        "knowledge_through_layers": lambda: knowledge("layers"),
        "tau_curve": lambda: figures.tau_curve(
            TAUS, curves[..., 0], curves[..., 1], e.layers, tau=e.tau
        ),
        "strength_entropy": lambda: figures.strength_entropy(
            strength.strength,
            strength.entropy,
            e.y,
            names,
            strength.r,
            strength.mean_entropy,
            baseline=(strength.pca_strength, strength.pca_r),
        ),
        "importance_strength": lambda: figures.importance_strength(
            e.w[-1, -1],
            h_strength,
            pearson(h_strength, e.w[-1, -1]),
            baseline_r=pearson(e.raw_strength[-1, -1], e.w[-1, -1]),
        ),
        "category_similarity": lambda: figures.category_similarity(mu @ mu.t(), names),
        "losses": lambda: figures.losses({name: stats.losses for name, stats in e.fits.items()}),
    }


def _of_images(e: Emergence, dataset: Samples) -> dict[str, Callable[[], Figure]]:
    points = e.points()
    shown = _some_of_each(e.y, e.held_out.nonzero().flatten())
    place = _some_of_each(e.y[e.region_images], torch.arange(len(e.region_images)), most=2)
    weighed = e.region_images[place]

    def images(index: Tensor) -> Tensor:
        return torch.stack([dataset[int(i)][0] for i in index])

    return {
        "point_regions": lambda: figures.point_regions(
            images(shown),
            e.y[shown],
            points.point[shown],
            points.reliable[shown],
            _truth(e, e.h[-1, -1, shown][None], e.y[shown])[0],
            e.grid,
            e.categories,
            columns=SHOWN_PER_CATEGORY,
        ),
        "importance_maps": lambda: figures.importance_maps(
            images(weighed),
            e.w[-1, -1, place],
            e.grid,
            labels=e.y[weighed],
            categories=e.categories,
        ),
    }


def _bands(e: Emergence) -> dict[str, figures.Band]:
    """Counts on held-out images with intervals, each `[T, L]`; a ratio without points is NaN."""
    nan = float("nan")
    counts = [
        [e.points(t, k).subset(e.held_out).count() for k in range(len(e.layers))]
        for t in range(len(e.labels))
    ]
    bands = {}
    for name in ("total", "reliable", "ratio", "shared"):
        values = [[getattr(c, name) for c in row] for row in counts]
        bands[name] = figures.Band(
            *(
                torch.tensor(
                    [[nan if x is None else getattr(x, end) for x in row] for row in values]
                )
                for end in ("value", "low", "high")
            )
        )
    return bands


def _some_of_each(y: Tensor, index: Tensor, most: int = SHOWN_PER_CATEGORY) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[labels == c][:most] for c in labels.unique()])


def _truth(e: Emergence, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `h [L, N, R, dim]`, `[L, N, R]`."""
    index = y[None, :, None, None].expand(*h.shape[:3], 1)
    return e.frame.posterior(h).gather(-1, index)[..., 0]
