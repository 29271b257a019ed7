"""What an attack did: its section of the report, its tables and figures (Fig. 7, 8, 15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures as draw
from emergence_ext.report.files import Drawings, Row, Tables, interval
from emergence_ext.report.shown import CATEGORIES
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun
from emergence_ext.studies.attack import NAME, TYPE_TAU, TYPES, Attack

SECTION: Final = SectionText(
    NAME,
    "Experiment: attack",
    "Projected gradient descent leads images astray in small steps; the regions are followed "
    "(emergence attack; Fig. 7, 8, 15).",
    (
        FigureText(
            "curves",
            "What the attack changes, by layer",
            "Regions of the images that were led astray: those important for the original "
            "and for the adversarial category before and after, change of direction and of "
            "strength, and the four types of region, with 95 % intervals over images "
            "(Fig. 8, 15).",
            "Where the changes grow with depth, the attack works in the high layers.",
        ),
        FigureText(
            "utility",
            "What important adversarial regions said before",
            "p(original category) before the attack of regions that are important for the "
            "adversarial category after it, in all images that were led astray (Fig. 8).",
            "Much weight on the left: the attack takes regions that said little before.",
        ),
        FigureText(
            "images",
            "Regions on images before and after",
            "Examples of images that were led astray, what was added to them (black and white: "
            "all that was allowed), and their important regions in the last layer (Fig. 7).",
            "From before to after, regions of the original category give way to those of the "
            "adversarial one.",
        ),
        FigureText(
            "paths",
            "Paths of regions during the attack",
            "Regional features of the same images in the last layer, step by step in the "
            "fixed frame (Fig. 7).",
            "A path leads from the ring, the clean image, to the filled mark, the end of the "
            "attack.",
        ),
        FigureText(
            "types",
            "The four types of region",
            "Examples of regions of the last layer that go from the original to the "
            "adversarial category, come to it from neither, or fall to neither (Fig. 15).",
            "Below each, the probabilities of both categories step by step; a mark and its "
            "line are one region.",
        ),
    ),
    (
        TableText(
            "success",
            "Success of the attack",
            "Of the images that were right before, with a 95 % interval (Wilson).",
        ),
        TableText(
            "changes",
            "Changes by layer",
            "Of all regions of the images led astray, with 95 % intervals over images.",
        ),
        TableText(
            "points",
            "Important regions before and after",
            "In the images led astray, with 95 % intervals over images.",
        ),
        TableText(
            "types",
            "Types of region",
            "In the images led astray, with 95 % intervals over images.",
        ),
        TableText(
            "utility",
            "What important adversarial regions said before",
            "Their number by tenth of p(original category), in the images led astray.",
        ),
        TableText("images", "Attacked images", "All that the network had right before."),
    ),
)


def tables(a: Attack, run: FinishedRun) -> Tables:
    """Tables of what was attacked and, where an image was led astray, of its regions."""
    rows = {"success": _success(a), "images": _images(a)}
    if len(a.astray):
        rows |= {
            "points": _points(a),
            "changes": _changes(a),
            "types": _types(a),
            "utility": _utility(a),
        }
    return rows


def figures(a: Attack, run: FinishedRun) -> Drawings:
    """Figures of an attack that led images astray."""
    if not len(a.astray):
        return {}
    layers, kept = range(len(a.layers)), _categories(a)
    mu, names = a.frame.directions[kept], [a.categories[c] for c in kept]
    few = len(kept) < len(a.categories)
    note = f"{len(kept)} of {len(a.categories)} categories, those of the examples." if few else ""
    shown = a.images.shape[1]
    before, after = a.original[:shown], a.adversarial[:shown]
    p = a.p[:, :, -1, :shown]
    important = (p > a.tau).flatten(0, 1).any(0)
    utility = [a.utility(k) for k in layers]
    drawings: dict[str, Callable[[], Figure] | str] = {
        "curves": lambda: draw.attack_curves(
            draw.Band.of([[a.important(k, 0, state) for k in layers] for state in (0, 1)]),
            draw.Band.of([[a.important(k, 1, state) for k in layers] for state in (0, 1)]),
            draw.Band.of([
                [a.cosine(k) for k in layers],
                [a.strength(k) for k in layers],
                [a.strength(k, relative=True) for k in layers],
            ]),
            draw.Band.of([[a.of_type(k, kind) for k in layers] for kind in range(1, len(TYPES))]),
            a.layers,
            tau=a.tau,
        ),
        "utility": lambda: draw.attack_utility(utility, a.layers, tau=a.tau),
        "images": lambda: draw.attack_images(
            a.images, p, before, after, a.grid, a.categories, eps=a.eps, tau=a.tau
        ),
        "paths": lambda: draw.noted(
            draw.attack_paths(
                a.path[:, -1], important, torch.searchsorted(kept, before),
                torch.searchsorted(kept, after), mu, names,
            ),
            note,
        ),
        "types": lambda: draw.noted(
            draw.attack_types(
                a.typed_path, a.typed_p, a.typed[:, 0],
                torch.searchsorted(kept, a.original[a.typed[:, 1]]),
                torch.searchsorted(kept, a.adversarial[a.typed[:, 1]]), mu, names, tau=TYPE_TAU,
            ),
            note,
        ),
    }  # fmt: skip
    if not any(len(x) for x in utility):
        drawings["utility"] = f"no region has p(c_adv | h_adv) > {a.tau:g} in any layer"
    if not bool(important.any()):
        drawings["paths"] = f"no region of the images shown has p > {a.tau:g} in {a.layers[-1]}"
    if not len(a.typed):
        drawings["types"] = f"in {a.layers[-1]} every region is of the type unchanged"
    if a.frame.dim > 3:
        drawings |= dict.fromkeys(("paths", "types"), f"dim = {a.frame.dim} cannot be drawn")
    return drawings


def _categories(a: Attack) -> Tensor:
    """Categories whose rays are drawn, ascending: all, or of many those that examples are of."""
    if len(a.categories) <= CATEGORIES:
        return torch.arange(len(a.categories))
    images = torch.cat([torch.arange(a.images.shape[1]), a.typed[:, 1]])
    return torch.cat([a.original[images], a.adversarial[images]]).unique()


def _success(a: Attack) -> list[Row]:
    """How often an attack succeeded, with Wilson's interval; one row."""
    return [
        {
            "eps, in 1/255": 255 * a.eps,
            "step, in 1/255": 255 * a.step,
            "steps": a.steps,
            "tau": a.tau,
            "images": a.chosen,
            "images right before": len(a.names),
            "wrong after": len(a.astray),
            **interval("success rate", a.success()),
        }
    ]


def _images(a: Attack) -> list[Row]:
    """What the network says of every attacked image, and from which step on it is wrong."""
    wrong = (a.predicted != a.y).int()
    # Counted from the end: an image may be wrong for some steps and right again.
    still = wrong.flip(0).cumprod(0).sum(0)
    return [
        {
            "image": name,
            "category": a.categories[int(a.y[i])],
            "network says after": a.categories[int(a.predicted[-1, i])],
            "wrong from step": len(a.predicted) - int(still[i]) if still[i] else None,
        }
        for i, name in enumerate(a.names)
    ]


def _points(a: Attack) -> list[Row]:
    """Important regions, a row for each layer, category and state (Fig. 7)."""
    return [
        {
            "layer": layer,
            "category": category,
            "state": state,
            "images": len(a.astray),
            **interval("regions", a.important(k, c, s)),
        }
        for k, layer in enumerate(a.layers)
        for c, category in enumerate(("original", "adversarial"))
        for s, state in enumerate(("before", "after"))
    ]


def _changes(a: Attack) -> list[Row]:
    """Changes of orientation and strength, a row a layer (Fig. 8), and one of the samples."""
    layers: list[tuple[str, int | None]] = [(layer, k) for k, layer in enumerate(a.layers)]
    return [
        {
            "layer": layer,
            **interval("Delta_orientation (mean cosine)", a.cosine(k), none="no directions"),
            **interval("Delta_strength", a.strength(k)),
            **interval(
                "Delta_strength / mean strength", a.strength(k, relative=True), none="no strength"
            ),
            "without direction": a.directionless(k),
            "images": len(a.astray),
        }
        for layer, k in [*layers, ("samples, g", None)]
    ]


def _types(a: Attack) -> list[Row]:
    """Regions of each type, a row for each layer and type (Fig. 15)."""
    regions = a.types[0].numel()
    return [
        {
            "layer": layer,
            "type": name,
            **interval("regions", a.of_type(k, kind)),
            "share": a.of_type(k, kind).value / regions,
            "images": len(a.astray),
        }
        for k, layer in enumerate(a.layers)
        for kind, name in enumerate(TYPES)
    ]


def _utility(a: Attack, bins: int = 10) -> list[Row]:
    """Histogram of p(c_ori | h_ori) where p(c_adv | h_adv) > tau: layers x bins (Fig. 8)."""
    rows: list[Row] = []
    for k, layer in enumerate(a.layers):
        values = a.utility(k)
        counts = torch.histc(values.float(), bins, 0, 1).int().tolist()
        rows += [
            {
                "layer": layer,
                "p(c_ori | h_ori) from": i / bins,
                "to": (i + 1) / bins,
                "regions": count,
                "share": count / len(values) if len(values) else None,
            }
            for i, count in enumerate(counts)
        ]
    return rows
