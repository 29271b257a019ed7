"""New images in the frame of a run: a section of the report for each set, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures as draw
from emergence_ext.method import Interval, bootstrap_ratio, mean_interval, proportion
from emergence_ext.network import region_boxes
from emergence_ext.report.files import NO_IMAGES, Drawings, Row, Tables, interval
from emergence_ext.report.shown import Shown
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import Emergence, FinishedRun, Thumbnails
from emergence_ext.studies.apply import NAME, Applied
from emergence_ext.studies.likeness import Limit

STRONGEST: Final = 3  # regions of an image and layer whose match is in the table


def section(name: str) -> SectionText:
    """Return the words about one set of new images, by the name of its folder."""
    return SectionText(
        f"{NAME}/{name}",
        f"New images: {name}",
        "Images that the run did not look at, in its frame; none of its fits was made again "
        "(emergence apply). "
        "A region's likeness is the cosine of its features with those of the most similar region "
        "of the run. An image is unlike the run where, in the layer in which it stands out most, "
        "its mean likeness is lower than that of nearly all held-out images with the run's others.",
        (
            FigureText(
                "samples",
                "New images among the run's",
                "Sample features of the new images in the run's frame, beside held-out ones.",
                "What lies off the rays is between categories; a cross is unlike the run, wherever "
                "it lies.",
            ),
            FigureText(
                "unlike",
                "The most unlike images",
                "By their score, the most unlike first, no more than half of one kind.",
                "The map shows which regions the run has nothing like.",
            ),
            FigureText(
                "similar",
                "New regions and their most similar ones in the run",
                "The strongest region in the last layer of images from the most unlike to the most "
                "like.",
                "Where two regions look alike, the network sees them so too.",
            ),
        ),
        (
            TableText(
                "unlike",
                "Unlike anything in the run",
                "Shares below the limit, of the new images and their regions, with 95 % intervals "
                "over images; beside them what is expected of images like the run's, and each "
                "half of its held-out images judged by the limit of the other.",
            ),
            TableText(
                "categories",
                "By category",
                "What the images are said to be; accuracy with a 95 % interval (Wilson).",
            ),
            TableText(
                "points",
                "Knowledge points of an image, by layer",
                "Means over new and over the run's held-out images, with 95 % intervals; reliable "
                "ones where the category is one of the run's.",
            ),
            TableText("images", "New images", "The most unlike first."),
            TableText(
                "similar",
                "Most similar regions",
                f"Of the {STRONGEST} strongest regions of each image in every layer.",
            ),
        ),
    )


def tables(a: Applied, run: FinishedRun) -> Tables:
    """Tables of what is unlike the run, of points, images and regions, and what was left out."""
    rows: dict[str, Sequence[Row]] = {
        "unlike": _unlike(a),
        "categories": _categories(a),
        "points": _points(a, run.emergence),
        "images": _images(a),
        "similar": _similar(a, run.emergence),
    }
    if a.bad:
        rows["left_out"] = [{"image": name, "reason": reason} for name, reason in a.bad]
    return rows


def figures(a: Applied, run: FinishedRun) -> Drawings:
    """Figures of the frame, where it has 2 or 3 dimensions, of images, and of similar regions."""
    e, thumbnails = run.emergence, run.thumbnails
    drawings: dict[str, Callable[[], Figure] | str] = {
        "samples": lambda: _samples_figure(a, e),
        "unlike": lambda: _unlike_figure(a),
        "similar": NO_IMAGES,
    }
    if thumbnails is not None:
        drawings["similar"] = lambda: _similar_figure(a, e, thumbnails)
    if a.frame.dim > 3:
        drawings["samples"] = f"dim = {a.frame.dim}, and space has 2 or 3 to draw in"
    return drawings


def _unlike(a: Applied) -> list[Row]:
    """How many images, and regions of each layer, are below their limits."""
    rows = [_unlike_row("images", a.limit, a.unlike[:, None])]
    for k, layer in enumerate(a.layers):
        limit = a.region_limit(k)
        rows.append(_unlike_row(f"regions, {layer}", limit, a.likeness[k] < limit.value))
    return rows


def _unlike_row(what: str, limit: Limit, below: Tensor) -> Row:
    of = torch.full((len(below),), below.shape[1])
    return {
        "what": what,
        "limit": limit.value,
        "new": below.numel(),
        "unlike": int(below.sum()),
        **interval("share", _share(below.sum(1), of)),
        "expected": limit.expected,
        "held out": int(limit.below[:, 1].sum()),
        **interval("share of held-out", _share(*limit.below.unbind(1))),
        "expected of held-out": limit.expected_below,
    }


def _share(part: Tensor, whole: Tensor) -> Interval | None:
    """A share with its interval: Wilson's where each image counts once, else over images."""
    if int(whole.max()) == 1:
        return proportion(int(part.sum()), int(whole.sum()))
    return bootstrap_ratio(part, whole)


def _categories(a: Applied) -> list[Row]:
    """Accuracy and what is unlike, of all images and by what they are said to be."""
    said = sorted(set(a.said) - {""})
    names = [("all", torch.ones(len(a.names), dtype=torch.bool))]
    names += [(x, torch.tensor([x == y for y in a.said])) for x in said]
    if "" in a.said:
        names.append(("not said", torch.tensor([not y for y in a.said])))
    rows: list[Row] = []
    for name, of in names:
        known = of & a.known
        right = int((a.predicted == a.y)[known].sum())
        accuracy = proportion(right, int(known.sum())) if known.any() else None
        rows.append(
            {
                "category": name,
                "images": int(of.sum()),
                "of a category of the run": int(known.sum()),
                "right": right if known.any() else None,
                **interval("accuracy", accuracy, "unknown"),
                "unlike": int(a.unlike[of].sum()),
            }
        )
    return rows


def _points(a: Applied, e: Emergence) -> list[Row]:
    """Points of an image by layer: new and held-out images of the run."""
    t = e.labels.index(a.checkpoint)
    rows: list[Row] = []
    for k, layer in enumerate(a.layers):
        points, reliable = a.points_of_an_image(k)
        old_points, old_reliable, _ = e.points_per_image(t, k)[:, e.held_out]
        h = e.sample.regions(t, k, e.sample.held_out)
        rows.append(
            {
                "layer": layer,
                "images": len(a.names),
                **interval("points", points),
                **interval("points, held-out", mean_interval(old_points.double())),
                "of known category": int(a.known.sum()),
                **interval("reliable", reliable, "unknown"),
                **interval("reliable, held-out", mean_interval(old_reliable.double())),
                "mean |h|": float(a.h[k].norm(dim=-1).mean()),
                "mean |h|, held-out": float(h.norm(dim=-1).mean()),
            }
        )
    return rows


def _images(a: Applied) -> list[Row]:
    """Everything of each image, the most unlike first."""
    score, layer = a.scores
    near, distance = a.nearest()
    p, strength, unsure = a.z.softmax(1).max(1).values, a.g.norm(dim=1), a.entropy
    unlike, likeness = a.unlike, a.likeness.mean(-1)
    points = [a.points(k) for k in range(len(a.layers))]
    counts = [(x.point.sum(1).tolist(), x.reliable.sum(1).tolist()) for x in points]
    rows: list[Row] = []
    for i in a.ranked().tolist():
        row = {
            "image": a.names[i],
            "category": a.said[i] or "not said",
            "known to the run": _yes(bool(a.known[i])),
            "network says": a.categories[int(a.predicted[i])],
            "p": float(p[i]),
            "entropy (nats)": float(unsure[i]),
            "|g|": float(strength[i]),
            "nearest direction": a.categories[int(near[i])],
            "1 - cos": float(distance[i]),
            "unlike the run": _yes(bool(unlike[i])),
            "score": float(score[i]),
            "least alike in": a.layers[int(layer[i])],
            "mean likeness there": float(likeness[int(layer[i]), i]),
        }
        for name, (point, reliable) in zip(a.layers, counts, strict=True):
            row[f"points, {name}"] = point[i]
            row[f"reliable, {name}"] = reliable[i] if a.known[i] else None
        rows.append(row)
    return rows


def _similar(a: Applied, e: Emergence) -> list[Row]:
    """The strongest regions of every image with the most similar ones of the run."""
    rows: list[Row] = []
    R = a.h.shape[2]
    for k, layer in enumerate(a.layers):
        points, limit = a.points(k), a.region_limit(k).value
        for i, name in enumerate(a.names):
            for r in a.strongest(k, i, STRONGEST):
                image, place = divmod(int(a.similar[k, i, r]), R)
                rows.append(
                    {
                        "image": name,
                        "layer": layer,
                        **_place(r, a.grid),
                        "|h|": float(a.h[k, i, r].norm()),
                        **({} if a.w is None else {"w": float(a.w[k, i, r])}),
                        "says": a.categories[int(points.category[i, r])],
                        "p": float(points.confidence[i, r]),
                        "likeness": float(a.likeness[k, i, r]),
                        "unlike the run": _yes(float(a.likeness[k, i, r]) < limit),
                        "most similar in": e.names[image],
                        "its category": e.categories[int(e.y[image])],
                        **{f"its {x}": y for x, y in _place(place, a.grid).items()},
                    }
                )
    return rows


def _place(region: int, grid: tuple[int, int]) -> dict[str, int]:
    return {"row": region // grid[1], "column": region % grid[1]}


def _yes(it: bool) -> str:
    return "yes" if it else "no"


def _samples_figure(a: Applied, e: Emergence) -> Figure:
    shown, e = Shown.of(e), e.sample
    old = shown.images(e.y, e.held_out.nonzero().flatten())
    new = shown.images(a.predicted, torch.arange(len(a.names)))
    figure = draw.new_samples(
        e.samples(e.labels.index(a.checkpoint), old),
        shown.labels(e.y[old]),
        a.g[new],
        shown.labels(a.predicted[new]),
        a.unlike[new],
        a.frame.directions[shown.categories],
        shown.names(e),
    )
    return draw.noted(figure, shown.note("categories", "images"))


def _unlike_figure(a: Applied) -> Figure:
    ranked = a.striking()
    score, layer = a.scores
    limits = torch.tensor([a.region_limit(k).value for k in range(len(a.layers))])
    where = layer[ranked]
    likeness = a.likeness[where, ranked]
    p = a.z.softmax(1).max(1).values
    below = int(a.unlike.sum())
    return draw.unlike_images(
        a.small(ranked),
        likeness,
        likeness < limits[where][:, None],
        a.grid,
        [a.names[i] for i in ranked],
        [
            f"says {draw.display_name(a.categories[int(a.predicted[i])], 12)}, p {p[i]:.2f}\n"
            f"{draw.signed_text(float(score[i]), plus=False)} in "
            f"{draw.literal_name(a.layers[int(layer[i])], 14)}"
            for i in ranked
        ],
        remark=f"{len(ranked)} of {len(a.names)} images, the lowest scores first, no more than "
        f"half of one kind; {below} are below the limit, "
        f"{draw.signed_text(a.limit.value, plus=False)}.",
    )


def _similar_figure(a: Applied, e: Emergence, thumbnails: Thumbnails) -> Figure:
    chosen = a.evenly()
    new = a.small(chosen)
    regions = torch.tensor([a.strongest(-1, i, 1)[0] for i in chosen])
    points, R = a.points(-1), a.h.shape[2]
    matched = a.similar[-1, chosen, regions]
    old = thumbnails.images(matched // R)
    told = []
    for i, r, image in zip(chosen, regions.tolist(), (matched // R).tolist(), strict=True):
        says = a.categories[int(points.category[i, r])]
        told.append(
            (
                f"it says {says}\np {points.confidence[i, r]:.2f}",
                f"{e.categories[int(e.y[image])]}\ncos {a.likeness[-1, i, r]:.3f}",
            )
        )
    return draw.similar_regions(
        new,
        region_boxes((new.shape[2], new.shape[3]), a.grid).cells[regions],
        old,
        region_boxes((old.shape[2], old.shape[3]), a.grid).cells[matched % R],
        told,
        remark=f"{draw.literal_name(a.layers[-1])}: the strongest region of {len(chosen)} of "
        f"{len(a.names)} images, from the most unlike to the most like. Below: what the region "
        "says; the category of the run's image.",
    )
