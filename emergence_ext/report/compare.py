"""What moved between two runs: tables and figures of a comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.network import region_boxes
from emergence_ext.report.files import NO_IMAGES, Drawings, Row, Tables, interval
from emergence_ext.report.shown import CATEGORIES
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun, Thumbnails
from emergence_ext.studies.compare import NAME, Comparison, Difference, differences

MOVED_REGIONS: Final = 24
MOVED_IMAGES: Final = 12


def section(name: str) -> SectionText:
    """Return the words about one comparison, by the name of its folder."""
    between = re.sub(r"\.[0-9a-f]{8}$", "", name).replace("_", " ")
    return SectionText(
        f"{NAME}/{name}",
        f"Comparison: {between}",
        "The same regions of the same images in two states, A and B; B in the frame of A "
        "(emergence compare). What is told is told of images that no fit of either saw.",
        (
            FigureText(
                "differences",
                "What changed, by layer and category",
                "Means over images with 95 % bootstrap intervals, B less A.",
                "A row whose intervals stay away from 0 changed; where only some categories do, "
                "the change is theirs.",
            ),
            FigureText(
                "moved_regions",
                "Regions that moved farthest",
                "Of the last layer, one of each image.",
                "Above each what it says in A and in B: what is no point in A and one in B was "
                "learned between the two.",
            ),
            FigureText(
                "moved_images",
                "Images whose regions moved farthest",
                "Of the last layer, by the mean distance.",
                "Outlined regions became reliable knowledge points, or are none any more.",
            ),
        ),
        (
            TableText(
                "differences",
                "Differences",
                "By layer and category, with 95 % bootstrap intervals over images.",
            ),
            TableText(
                "regions", "Regions that moved farthest", "Of each layer, the farthest first."
            ),
            TableText("images", "Images by how far they moved", "In the last layer."),
            TableText(
                "frames",
                "How well the frames agree",
                "Of two runs, after the best orthogonal map; of one run they are the same.",
            ),
        ),
    )


def tables(c: Comparison, run: FinishedRun) -> Tables:
    """Differences by layer and category, what moved most, and how well the frames agree."""
    return {
        "differences": difference_rows(differences(c)),
        "regions": moved_regions(c),
        "images": _images(c),
        "frames": _frames(c),
    }


def figures(c: Comparison, run: FinishedRun) -> Drawings:
    """Figures of what changed and, with the images of A, where."""
    thumbnails = run.thumbnails
    if thumbnails is None:
        return {
            "differences": lambda: _differences(c),
            "moved_regions": NO_IMAGES,
            "moved_images": NO_IMAGES,
        }
    place = {name: n for n, name in enumerate(run.emergence.names)}
    index = torch.tensor([place[name] for name in c.names])
    return {
        "differences": lambda: _differences(c),
        "moved_regions": lambda: _moved_regions(c, thumbnails, index),
        "moved_images": lambda: _moved_images(c, thumbnails, index),
    }


def difference_rows(rows: Iterable[Difference]) -> list[Row]:
    """What changed from A to B, a row for each layer and category."""
    return [
        {
            "layer": d.layer,
            "category": d.category or "all",
            "images": d.images,
            **interval("1 - cos", d.turned, "no direction"),
            **interval("|h| of B - A", d.stronger),
            **interval("share of regions that say something else", d.changed),
            **interval("knowledge points of an image, B - A", d.points),
            **interval("reliable points of an image, B - A", d.reliable),
            **interval("share of w that moved", d.reweighed, "no importance in both"),
            "images with w in both": d.weighed,
        }
        for d in rows
    ]


def moved_regions(c: Comparison, most: int = 40) -> list[Row]:
    """The held-out images' regions that moved farthest from A to B, by layer."""
    rows: list[Row] = []
    for k, layer in enumerate(c.layers):
        for rank, (i, r) in enumerate(c.ranked_regions(k, most), start=1):
            rows.append(
                {
                    "layer": layer,
                    "rank": rank,
                    "image": c.names[i],
                    "category": c.categories[int(c.y[i])],
                    "row": r // c.grid[1],
                    "column": r % c.grid[1],
                    "moved |h B - h A|": float(c.distance[k, i, r]),
                    "1 - cos": float(c.turned[k, i, r]),
                    "|h| in A": float(c.strength[0, k, i, r]),
                    "|h| in B": float(c.strength[1, k, i, r]),
                    "p(true) in A": float(c.truth[0, k, i, r]),
                    "p(true) in B": float(c.truth[1, k, i, r]),
                    **dict(zip(("in A", "in B"), c.says_in_words(k, i, r), strict=True)),
                }
            )
    return rows


def _images(c: Comparison) -> list[Row]:
    """Held-out images by the mean distance that their regions moved in the last layer."""
    reliable = c.reliable()[:, -1].sum(-1)
    return [
        {
            "rank": rank,
            "image": c.names[i],
            "category": c.categories[int(c.y[i])],
            "mean moved |h B - h A|": float(c.distance[-1, i].mean()),
            "mean 1 - cos": float(c.turned[-1, i].nanmean()),
            "reliable points in A": int(reliable[0, i]),
            "reliable points in B": int(reliable[1, i]),
        }
        for rank, i in enumerate(c.ranked_images().tolist(), start=1)
    ]


def _frames(c: Comparison) -> list[Row]:
    """How well the categories' directions of A and B agree, in the frame of A."""
    return [
        {"category": name, "cosine of its directions in A and B": float(cosine)}
        for name, cosine in zip(c.categories, c.alignment.cosine, strict=True)
    ]


def _differences(c: Comparison) -> Figure:
    """The differences of all layers, `[L, 1 + C]` each; NaN where a category has no image."""
    at = {(d.layer, d.category): d for d in differences(c)}
    categories, remark = list(c.categories), ""
    if len(categories) > CATEGORIES:
        last = {x: at[c.layers[-1], x].turned.value for x in categories if (c.layers[-1], x) in at}
        far = sorted(last, key=lambda x: -math.inf if math.isnan(last[x]) else last[x])
        categories = [x for x in categories if x in far[-CATEGORIES:]]
        remark = f"{CATEGORIES} of {len(c.categories)} categories, those that turned most."
    columns = [None, *categories]
    measures = {}
    for title, name in (
        ("Turned: 1 − cos of h in A and B", "turned"),
        ("Strength |h|, B less A", "stronger"),
        ("Share of regions that say something else", "changed"),
        ("Reliable points of an image, B less A", "reliable"),
        ("Share of importance w that moved", "reweighed"),
    ):
        intervals = [[getattr(at.get((k, x)), name, None) for x in columns] for k in c.layers]
        if any(x is not None and x.value == x.value for row in intervals for x in row):
            measures[title] = draw.Band.of(intervals)
    return draw.layer_differences(measures, c.layers, categories, between=(c.a, c.b), remark=remark)


def _moved_regions(c: Comparison, thumbnails: Thumbnails, index: torch.Tensor) -> Figure:
    """The regions of the last layer that moved farthest, one an image."""
    first: dict[int, int] = {}
    for image, region in c.ranked_regions(most=c.distance[-1].numel()):
        first.setdefault(image, region)
    i = _abreast(list(first), c, MOVED_REGIONS)
    r = torch.tensor([first[image] for image in i])
    pixels = thumbnails.images(index[i])
    cells = region_boxes((pixels.shape[2], pixels.shape[3]), c.grid).cells
    return draw.moved_regions(
        pixels,
        cells[r],
        c.y[i],
        c.distance[-1, i, r],
        c.truth[:, -1, i, r].t(),
        [c.says_in_words(-1, image, first[image]) for image in i],
        c.categories,
        fields=thumbnails.fields[r] if len(thumbnails.fields) else None,
        remark=_remark(c),
    )


def _moved_images(c: Comparison, thumbnails: Thumbnails, index: torch.Tensor) -> Figure:
    """The images whose regions in the last layer moved farthest."""
    far = _abreast(c.ranked_images().tolist(), c, MOVED_IMAGES)
    reliable = c.reliable()[:, -1, far]
    return draw.moved_images(
        thumbnails.images(index[far]),
        c.distance[-1, far],
        reliable[1] & ~reliable[0],
        reliable[0] & ~reliable[1],
        c.grid,
        c.y[far],
        c.categories,
        remark=_remark(c),
    )


def _remark(c: Comparison) -> str:
    a, b, layer = (draw.literal_name(name, 36) for name in (c.a, c.b, c.layers[-1]))
    return f"From {a} to {b}, {layer}, ranked by distance; only some of each category."


def _abreast(ranked: Sequence[int], c: Comparison, most: int) -> list[int]:
    """The first `most` images, of a category at most twice as many as fall to each."""
    kept: list[int] = []
    for image in ranked:
        like = sum(int(c.y[other]) == int(c.y[image]) for other in kept)
        if len(kept) < most and like < -(-2 * most // len(c.categories)):
            kept.append(image)
    return kept
