"""Which figures a run has, and what each is drawn from."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures
from emergence_ext.data import Samples
from emergence_ext.figures import display_name, signed_text
from emergence_ext.method import pearson, shared_categories
from emergence_ext.network import receptive_field, region_boxes
from emergence_ext.run import Emergence, StrengthEntropy, Subject
from emergence_ext.store import write_file
from emergence_ext.studies.compare import Comparison, Difference
from emergence_ext.studies.controls import Control
from emergence_ext.studies.distill import Distillation

logger = logging.getLogger(__name__)

SHOWN_PER_CATEGORY: Final = 3
SHARED_PAIRS: Final = 6
IMAGES_OF_PAIR: Final = 4
MOVED_REGIONS: Final = 24
MOVED_IMAGES: Final = 12
TAUS: Final = tuple(i / 20 for i in range(2, 20))
IN_SPACE: Final = (
    "samples",
    "confidence_map",
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


def draw_controls(path: Path, found: Sequence[Control]) -> None:
    """Draw the points of a network beside those of its controls."""
    bands = _bands([(control.found, control.checkpoint) for control in found])
    counts = (bands["total"], bands["reliable"], bands["ratio"])
    names, layers = [control.name for control in found], found[0].found.layers
    figure = figures.knowledge_curves(*counts, names, layers, along="layers", lines="network")
    save(figure, path)


def draw_distillation(folder: Path, found: Distillation, layer: str) -> list[Path]:
    """Draw students beside their teacher, and return the files.

    Args:
        folder: where to; made if it is not there.
        found: the results.
        layer: whose regions are drawn.
    """
    e, k = found.networks, found.networks.layers.index(layer)
    bands = _bands([(e, t) for t in range(len(e.labels))])
    counts = (bands["total"], bands["reliable"], bands["ratio"])
    compared = [found.difference(s, k) for s in range(len(found.students))]
    drawn = {
        "knowledge": figures.knowledge_curves(
            *counts, e.labels, e.layers, along="layers", lines="network"
        ),
        "regions": figures.student_regions(
            torch.stack([x.orientation for x in compared]),
            torch.stack([x.strength for x in compared]),
            found.students,
            layer,
        ),
    }
    for name, figure in drawn.items():
        save(figure, folder / name)
    return [folder / f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]


def draw_comparison(
    folder: Path, c: Comparison, rows: Sequence[Difference], subject: Subject | None
) -> list[str]:
    """Draw what changed and, with the images, where; return the names of the figures.

    Args:
        folder: where to; made if it is not there.
        c: the pairs.
        rows: differences by layer and category.
        subject: network and images of A.
    """
    drawn = {"differences": _differences(c, rows)}
    if subject is not None:
        drawn |= _moved(c, subject)
    for name, figure in drawn.items():
        save(figure, folder / name)
    return list(drawn)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path.png` (200 dots per inch) and `path.svg`."""
    for kind in ("png", "svg"):
        content = io.BytesIO()
        # Without a date and with a salt of their own, SVG files of equal figures are equal.
        with matplotlib.rc_context({"svg.hashsalt": path.name}):
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
    every = [(e, t) for t in range(len(e.labels))]
    bands = _bands(every)

    def knowledge(along: Literal["epochs", "layers"]) -> Figure:
        counts = (bands["total"], bands["reliable"], bands["ratio"])
        return figures.knowledge_curves(
            *counts, e.labels, e.layers, shared=bands["shared"], along=along
        )

    return {
        "samples": lambda: figures.samples(e.g[-1, out], y, mu, names),
        "confidence_map": lambda: _confidence_map(e),
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

    drawn = {
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
    shared = shared_categories(e.h[-1, -1, e.held_out], e.frame, e.tau)
    if bool((shared >= 0).any()):
        drawn["shared_regions"] = lambda: _shared_regions(e, shared, images)
    return drawn


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
    return figures.shared_regions(torch.stack(shown), torch.stack(masks), e.grid, titles, remarks)


def _confidence_map(e: Emergence) -> Figure:
    """The classification of g everywhere; of space at the median strength of held-out images."""
    g = e.g[-1, e.held_out]
    strength = float(g.norm(dim=1).median()) or 1.0
    grid = torch.from_numpy(figures.contour_grid(e.frame.directions, strength))
    p = e.frame.posterior(grid)
    return figures.confidence_map(
        grid, p, e.frame.directions, e.categories, g=g, labels=e.y[e.held_out]
    )


def _bands(shown: Sequence[tuple[Emergence, int]]) -> dict[str, figures.Band]:
    """Counts on held-out images with intervals, `[len(shown), L]`, of checkpoints t of results e.

    A ratio without points is NaN.
    """
    nan = float("nan")
    counts = [
        [e.points(t, k).subset(e.held_out).count() for k in range(len(e.layers))] for e, t in shown
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


def _differences(c: Comparison, rows: Sequence[Difference]) -> Figure:
    """The differences of all layers, `[L, 1 + C]` each; NaN where a category has no image."""
    columns = [None, *c.categories]
    at = {(d.layer, d.category): d for d in rows}
    measures = {}
    for title, name in (
        ("Turned: 1 − cos of h in A and B", "turned"),
        ("Strength |h|, B less A", "stronger"),
        ("Share of regions that say something else", "changed"),
        ("Reliable points of an image, B less A", "reliable"),
        ("Share of importance w that moved", "reweighed"),
    ):
        found = [[getattr(at.get((k, x)), name, None) for x in columns] for k in c.layers]
        parts = [
            [[float("nan") if x is None else getattr(x, end) for x in line] for line in found]
            for end in ("value", "low", "high")
        ]
        if torch.tensor(parts[0]).isfinite().any():
            measures[title] = figures.Band(*map(torch.tensor, parts))
    return figures.layer_differences(measures, c.layers, c.categories, between=(c.a, c.b))


def _moved(c: Comparison, subject: Subject) -> dict[str, Figure]:
    """The regions of the last layer that moved farthest, one an image, and the images."""
    place = {name: n for n, name in enumerate(subject.dataset.names)}

    def images(chosen: Sequence[int]) -> Tensor:
        return torch.stack([subject.dataset[place[c.names[i]]][0] for i in chosen])

    first: dict[int, int] = {}
    for image, region in c.ranked_regions(most=c.distance[-1].numel()):
        first.setdefault(image, region)
    i = _abreast(list(first), c, MOVED_REGIONS)
    r = torch.tensor([first[image] for image in i])
    pictures = images(i)
    cells, fields = _boxes(c, subject, pictures)
    far = _abreast(c.ranked_images().tolist(), c, MOVED_IMAGES)
    reliable = c.reliable()[:, -1, far]
    remark = f"From {c.a} to {c.b}, {c.layers[-1]}, ranked by distance; only some of each category."
    return {
        "moved_regions": figures.moved_regions(
            pictures,
            cells[r],
            c.y[i],
            c.distance[-1, i, r],
            c.truth[:, -1, i, r].t(),
            [c.told(-1, image, first[image]) for image in i],
            c.categories,
            fields=None if fields is None else fields[r],
            remark=remark,
        ),
        "moved_images": figures.moved_images(
            images(far),
            c.distance[-1, far],
            reliable[1] & ~reliable[0],
            reliable[0] & ~reliable[1],
            c.grid,
            c.y[far],
            c.categories,
            remark=remark,
        ),
    }


def _abreast(ranked: Sequence[int], c: Comparison, most: int) -> list[int]:
    """The first `most` images, of a category at most twice as many as fall to each."""
    kept: list[int] = []
    for image in ranked:
        like = sum(int(c.y[other]) == int(c.y[image]) for other in kept)
        if len(kept) < most and like < -(-2 * most // len(c.categories)):
            kept.append(image)
    return kept


def _boxes(c: Comparison, subject: Subject, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cells of the regions in pixels, and what they see; None where that is nearly all."""
    size = (pictures.shape[2], pictures.shape[3])
    cells = region_boxes(size, c.grid).cells
    if subject.preprocess(pictures[:1]).shape[2:] != pictures.shape[2:]:
        return cells, None
    try:
        field = receptive_field(subject.module, subject.layers[c.layers[-1]], size)
    except (ValueError, RuntimeError) as error:
        logger.debug("no receptive fields: %s", error)
        return cells, None
    fields = region_boxes(field, c.grid).fields
    area = ((fields[:, 2] - fields[:, 0]) * (fields[:, 3] - fields[:, 1])).float().mean()
    return cells, fields if area < 0.8 * size[0] * size[1] else None


def _some_of_each(y: Tensor, index: Tensor, most: int = SHOWN_PER_CATEGORY) -> Tensor:
    """The first `most` of the given indices in each category."""
    labels = y[index]
    return torch.cat([index[labels == c][:most] for c in labels.unique()])


def _truth(e: Emergence, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `h [L, N, R, dim]`, `[L, N, R]`."""
    index = y[None, :, None, None].expand(*h.shape[:3], 1)
    return e.frame.posterior(h).gather(-1, index)[..., 0]
