"""Tables of the experiments on a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from emergence_ext.method import mean_interval
from emergence_ext.report.tables.rows import Row, interval
from emergence_ext.report.tables.run import knowledge
from emergence_ext.run import Emergence
from emergence_ext.studies.attacked import TYPES, Attack
from emergence_ext.studies.compare import Comparison, Difference
from emergence_ext.studies.controls import Control
from emergence_ext.studies.distill import Distillation
from emergence_ext.studies.foreground import foreground as foreground_of
from emergence_ext.studies.shapley import Shapley


def controls(found: Iterable[Control]) -> list[Row]:
    """Numbers of a network and its controls on held-out images, a row a layer of each.

    But for two: the accuracy, which no fit has a part in, is of all images, and the correlation of
    `|h|` with w of those that have a w.
    """
    rows: list[Row] = []
    for control in found:
        e, t = control.found, control.checkpoint
        for k, layer in enumerate(e.layers):
            count = e.points(t, k).subset(e.held_out).count()
            rows.append(
                {
                    "network": control.name,
                    "layer": layer,
                    "accuracy": e.accuracy(t),
                    "mean entropy (nats)": float(e.entropy(t)[e.held_out].mean()),
                    "Pearson of |g| with entropy": _correlation(control.strength_entropy()),
                    "points per image": count.total.value / count.images,
                    **interval("ratio", count.ratio),
                    "Pearson of |h| with w, mean": _correlation(control.importance_strength(k)),
                }
            )
    return rows


def _correlation(r: float) -> float | str:
    """A cell: outputs that are all alike, as those of random weights, have no correlation."""
    return r if r == r else "undefined"


def foreground(e: Emergence, inside: Mapping[str, Tensor]) -> list[Row]:
    """Where the points of held-out images lie, a row a layer; images that are not given stay out.

    Args:
        e: what a run found.
        inside: name of an image -> which of its regions lie on the foreground, `[R]` bool.

    Raises:
        ValueError: no held-out image is given.
    """
    known = [n for n in e.held_out.nonzero().flatten().tolist() if e.names[n] in inside]
    if not known:
        raise ValueError(
            f"foreground: boxes or masks are there for none of the {int(e.held_out.sum())} "
            f"held-out images; names are as in the table of images, such as {e.names[0]!r}"
        )
    on_object = torch.stack([inside[e.names[n]] for n in known])
    rows: list[Row] = []
    for k, layer in enumerate(e.layers):
        share = foreground_of(e.points(-1, k).subset(torch.tensor(known)), on_object)
        rows.append(
            {
                "layer": layer,
                "images": share.images,
                "area": share.area,
                **interval("points", share.points),
                **interval("reliable", share.reliable),
            }
        )
    return rows


def shapley(s: Shapley) -> list[Row]:
    """Importances of regions against Shapley values, a row for each layer and importance."""
    spearman, pearson = s.spearman(), s.pearson()
    return [
        {
            "layer": layer,
            "importance": name,
            **interval("Spearman, mean", mean_interval(spearman[name][k]), "undefined"),
            **interval("Pearson, mean", mean_interval(pearson[name][k]), "undefined"),
            "images": int(spearman[name][k].isfinite().sum()),
            "permutations, mean": float(s.permutations[k].double().mean()),
            "standard error, share of spread": float(
                (s.error[k] / s.values[k].std(dim=-1)).nanmedian()
            ),
            "error reached, share of images": float(s.reached[k].double().mean()),
        }
        for k, layer in enumerate(s.layers)
        for name in spearman
    ]


def shapley_images(s: Shapley) -> list[Row]:
    """Shapley values of every image in every layer, and what goes with them."""
    spearman, pearson = s.spearman(), s.pearson()
    return [
        {
            "layer": layer,
            "image": image,
            "category": s.categories[int(s.y[i])],
            "logit of all regions": float(s.full[k, i]),
            "logit of none": float(s.none[k, i]),
            "standard error (logits)": float(s.error[k, i]),
            "permutations": int(s.permutations[k, i]),
            **{f"Spearman, {name}": float(r[k, i]) for name, r in spearman.items()},
            **{f"Pearson, {name}": float(r[k, i]) for name, r in pearson.items()},
        }
        for k, layer in enumerate(s.layers)
        for i, image in enumerate(s.names)
    ]


def attack_success(a: Attack) -> list[Row]:
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


def attack_images(a: Attack) -> list[Row]:
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


def attack_points(a: Attack) -> list[Row]:
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


def attack_changes(a: Attack) -> list[Row]:
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


def attack_types(a: Attack) -> list[Row]:
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


def attack_utility(a: Attack, bins: int = 10) -> list[Row]:
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


def distilled_networks(d: Distillation) -> list[Row]:
    """Students and, last, their teacher as classifiers, a row each."""
    e = d.networks
    return [
        {
            "network": label,
            "epochs": e.epochs[t],
            "missed share of the teacher's features": d.missed[t] if t < len(d.missed) else None,
            "accuracy": e.accuracy(t),
            "says what the teacher says": d.agreement(t) if t < len(d.missed) else None,
            "images": len(e.y),
        }
        for t, label in enumerate(e.labels)
    ]


def distilled_knowledge(d: Distillation) -> list[Row]:
    """Knowledge points, a row for each student and the teacher, layer, and kind of images."""
    return [
        {"network" if name == "checkpoint" else name: value for name, value in row.items()}
        for row in knowledge(d.networks)
    ]


def distilled_regions(d: Distillation) -> list[Row]:
    """How far students' regions are from the teacher's on held-out images, a row a layer."""
    rows: list[Row] = []
    for s, student in enumerate(d.students):
        for k, layer in enumerate(d.networks.layers):
            x = d.difference(s, k)
            turned, longer = x.mean("orientation"), x.mean("strength")
            rows.append(
                {
                    "student": student,
                    "layer": layer,
                    **interval("mean of 1 - cos", turned, "no direction"),
                    "median of 1 - cos": float(x.orientation.nanmedian()),
                    **interval("mean of |h student| - |h teacher|", longer),
                    "standard deviation": float(x.strength.std()),
                    "the mean over the teacher's mean strength": (
                        longer.value / x.teacher_strength if x.teacher_strength else None
                    ),
                    "regions": int(x.orientation.isfinite().sum()),
                }
            )
    return rows


def differences(found: Iterable[Difference]) -> list[Row]:
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
        for d in found
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
                    **dict(zip(("in A", "in B"), c.told(k, i, r), strict=True)),
                }
            )
    return rows


def moved_images(c: Comparison) -> list[Row]:
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


def frames(c: Comparison) -> list[Row]:
    """How well the categories' directions of A and B agree, in the frame of A."""
    return [
        {"category": name, "cosine of its directions in A and B": float(cosine)}
        for name, cosine in zip(c.categories, c.alignment.cosine, strict=True)
    ]
