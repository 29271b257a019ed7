"""The codes of all images in the plane, as marks and as a grid of the images themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from emergence_ext import figures
from emergence_ext.data import balanced_order
from emergence_ext.lookinside.codes import MOST, embed, lay_out, rectangle
from emergence_ext.lookinside.codes import codes as codes_of
from emergence_ext.report.look.sheet import Scene, Sheet, pictures

logger = logging.getLogger(__name__)

_PIXELS = 4000  # across the whole grid


def codes(scene: Scene) -> Sheet:
    """Embed the codes of the images by t-SNE and lay the images out on a grid.

    Raises:
        ValueError: too few images, or no fully connected layer.
        ImportError: scikit-learn is absent.
    """
    dataset, chosen = scene.subject.dataset, _chosen(scene)
    f = _codes(scene)[chosen]
    tsne = embed(f, random_state=scene.random_state)
    grid = rectangle(len(chosen))
    placed = grid[0] * grid[1]
    side = max(8, min(_PIXELS // grid[1], 64))
    thumbnails = torch.cat(
        [
            adaptive_avg_pool2d(pictures(dataset[i][0][None]), side)
            for i in tqdm(chosen[:placed], desc="thumbnails", leave=False, disable=None)
        ]
    )
    how = (
        f"t-SNE of {len(chosen)} codes of {f.shape[1]} numbers, perplexity {tsne.perplexity:g}, "
        f"after PCA that keeps {tsne.variance:.1%} of the variance; divergence {tsne.kl:.2f}."
    )
    cells = lay_out(tsne.points[:placed], grid)
    plots = {
        "scatter": figures.code_scatter(
            tsne.points, torch.tensor(dataset.labels)[chosen], dataset.categories, remark=how
        ),
        "grid": figures.code_grid(
            thumbnails, cells, remark=f"{placed} images, each once, on {grid[0]} x {grid[1]} cells."
        ),
    }
    place = {int(n): divmod(cell, grid[1]) for cell, n in enumerate(cells.flatten())}
    rows = [
        {
            "image": dataset.names[i],
            "category": dataset.categories[dataset.labels[i]],
            "x": float(tsne.points[n, 0]),
            "y": float(tsne.points[n, 1]),
            "row": place[n][0] if n in place else None,
            "column": place[n][1] if n in place else None,
        }
        for n, i in enumerate(chosen)
    ]
    return Sheet(
        "t-SNE of the codes",
        "The code of an image is the input of the last fully connected layer, after its ReLU. "
        "Images whose codes are near each other are near each other here; how far groups lie "
        "apart, and how large they are, says little. On the grid every image has moved to a cell "
        "of its own, by the assignment with the shortest squared ways.",
        plots,
        {"codes": rows},
        _notes(f, len(dataset), len(chosen), placed),
    )


def _codes(scene: Scene) -> Tensor:
    subject = scene.subject
    if scene.run is not None and not scene.run.emergence.stores:
        return scene.run.features(layers=[]).f
    return codes_of(
        subject.module,
        subject.dataset,
        last_linear=subject.last_linear,
        preprocess=subject.preprocess,
        batch_size=subject.batch_size,
        precision=subject.precision,
    )


def _chosen(scene: Scene) -> list[int]:
    """At most `MOST` images, of all categories alike, in a random order."""
    labels = torch.tensor(scene.subject.dataset.labels)
    kept = balanced_order(labels, scene.random_state)[:MOST].sort().values
    generator = torch.Generator().manual_seed(scene.random_state)
    return kept[torch.randperm(len(kept), generator=generator)].tolist()


def _notes(f: Tensor, images: int, chosen: int, placed: int) -> Sequence[str]:
    notes = []
    if chosen < images:
        notes.append(f"{chosen} of {images} images are shown, of all categories alike.")
    if placed < chosen:
        notes.append(
            f"{chosen - placed} of {chosen} images, drawn at random, are left out of the grid, "
            "which then has no holes."
        )
    if (f < 0).any():
        notes.append("The codes have values below zero: no ReLU comes before the last layer.")
    return notes
