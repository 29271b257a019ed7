"""How much of where things are a layer preserves: matches between images, and which are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from emergence_ext import figures
from emergence_ext.data import balanced_order
from emergence_ext.lookinside.correspondence import (
    ALPHA,
    Transfer,
    correspond,
    enlarged,
    read_keypoints,
    region_centres,
    shared_keypoints,
    transfer,
)
from emergence_ext.lookinside.stream import maps_of_layers
from emergence_ext.method import bootstrap_ratio
from emergence_ext.network import regions
from emergence_ext.report.files import Row, interval
from emergence_ext.report.look.sheet import Scene, Sheet, pictures
from emergence_ext.run import file_name

PAIRS: Final = 6
"""Pairs of images that are drawn."""

SCORED: Final = 50
"""Images in which their enlarged parts are looked for, at most."""

SHARE: Final = 0.75
"""Of height and width that such a part has: the upper left of the image."""

TRANSFERRED: Final = 200
"""Pairs of images between which keypoints are transferred, at most."""

_FINEST: Final = 28  # rows and columns of regions; the maps of first layers are pooled to these
_LINES: Final = 5  # fields down and across, of each of which the best match is drawn

Keypoints = Mapping[str, Mapping[str, tuple[float, float]]]


def correspondence(scene: Scene) -> Sheet:
    """Draw which regions of images match, and score how well places are found again.

    Raises:
        ValueError: a layer without maps, one image alone, or a file of keypoints that is none or
            does not fit the images.
    """
    keypoints = _keypoints(scene)
    scores: dict[str, dict[str, list[Transfer]]] = {"enlarged part": _enlarged(scene)}
    if keypoints:
        scores["keypoints"] = _transferred(scene, keypoints)
    rows = [
        {**_score(layer, what, by_layer[layer]), "images or pairs": len(by_layer[layer])}
        for what, by_layer in scores.items()
        for layer in scene.layers
    ]
    plots = _lines(scene, keypoints)
    plots["scores"] = _curves(rows, list(scores), scene.layers)
    last = rows[len(scene.layers) - 1]
    notes = [
        f"{last['layer']}: {last['PCK']:.0%} of the regions of an enlarged part are found again in "
        f"the whole image, within {ALPHA:g} of its side ({last['chance']:.0%} by chance, "
        f"{_unmoved():.0%} if every region were found at its own place)."
    ]
    if keypoints:
        notes.append(
            f"{rows[-1]['layer']}: {rows[-1]['PCK']:.0%} of the keypoints are found in another "
            f"image of the category ({rows[-1]['chance']:.0%} by chance)."
        )
    return Sheet(
        "Correspondence",
        "How much spatial information a layer preserves: each region of the left image is matched "
        "with the region of the right one whose feature has the highest cosine. The score is the "
        "share of places that are found again: from an enlarged part of an image in the whole of "
        "it, where the right answer is known, and, where keypoints are given, from other images of "
        "the category. One of many alike regions, as of an empty ground, is rarely found. Maps "
        f"finer than {_FINEST} x {_FINEST} are averaged to that.",
        plots,
        {"scores": rows},
        notes,
    )


def _unmoved() -> float:
    """What a layer would score on enlarged parts that went by absolute places alone."""
    centres = region_centres((100, 100))
    return float(((1 - SHARE) * centres).norm(dim=1).le(ALPHA).float().mean())


def _features(scene: Scene, pixels: Tensor) -> dict[str, tuple[Tensor, tuple[int, int]]]:
    """Regional features `[n, R, K]` of images, and their grid, by layer."""
    dotted = {layer: scene.subject.layers[layer] for layer in scene.layers}
    maps = maps_of_layers(scene.subject.module, scene.inputs(pixels), list(dotted.values()))
    features = {}
    for layer, name in dotted.items():
        height, width = maps[name].shape[2:]
        grid = (min(height, _FINEST), min(width, _FINEST))
        features[layer] = (regions(maps[name], grid).cpu(), grid)
    return features


def _enlarged(scene: Scene) -> dict[str, list[Transfer]]:
    """Regions of enlarged parts of images, looked for in the whole images, by layer."""
    by_layer = defaultdict(list)
    labels = torch.tensor(scene.subject.dataset.labels)
    chosen = balanced_order(labels, scene.random_state)[:SCORED].tolist()
    for i in tqdm(chosen, desc="enlarged parts", leave=False, disable=None):
        image = scene.pixels([i])
        height, width = image.shape[2:]
        part = image[:, :, : round(SHARE * height), : round(SHARE * width)]
        part = interpolate(part, (height, width), mode="bilinear")
        for layer, (F, grid) in _features(scene, torch.cat([part, image])).items():
            by_layer[layer].append(enlarged(F[0], F[1], grid, share=SHARE))
    return by_layer


def _transferred(scene: Scene, keypoints: Keypoints) -> dict[str, list[Transfer]]:
    """Keypoints carried over between images of a category, by layer."""
    dataset = scene.subject.dataset
    place = {name: i for i, name in enumerate(dataset.names)}
    pairs = [
        (a, b)
        for a, b in combinations([place[name] for name in keypoints], 2)
        if dataset.labels[a] == dataset.labels[b]
        and keypoints[dataset.names[a]].keys() & keypoints[dataset.names[b]].keys()
    ]
    if not pairs:
        raise ValueError("keypoints: no two images of a category share a keypoint")
    labels = torch.tensor([dataset.labels[a] for a, _ in pairs])
    chosen = balanced_order(labels, scene.random_state)[:TRANSFERRED].tolist()
    by_layer = defaultdict(list)
    for n in tqdm(chosen, desc="keypoints", leave=False, disable=None):
        points = shared_keypoints(keypoints, [dataset.names[i] for i in pairs[n]])
        for layer, (F, grid) in _features(scene, scene.pixels(pairs[n])).items():
            by_layer[layer].append(transfer(correspond(F[0], F[1]), *points, grid))
    return by_layer


def _keypoints(scene: Scene) -> Keypoints:
    if "keypoints" not in scene.files:
        return {}
    keypoints = read_keypoints(scene.files["keypoints"])
    absent = sorted(keypoints.keys() - set(scene.subject.dataset.names))
    if absent:
        known = scene.subject.dataset.names
        raise ValueError(
            f"keypoints: {len(absent)} of {len(keypoints)} names are no image of the data set, "
            f"such as {absent[0]!r}; its images are named like {known[0]!r}"
        )
    return keypoints


def _score(layer: str, what: str, transfers: Sequence[Transfer]) -> Row:
    near = torch.tensor([float(x.near.sum()) for x in transfers])
    count = torch.tensor([float(len(x.near)) for x in transfers])
    distance = torch.cat([x.distance for x in transfers])
    return {
        "layer": layer,
        "found again": what,
        **interval("PCK", bootstrap_ratio(near, count)),
        "chance": float(torch.cat([x.chance for x in transfers]).mean()),
        "possible": float(torch.cat([x.possible for x in transfers]).float().mean()),
        "median distance": float(distance.median()),
    }


def _curves(rows: Sequence[Row], kinds: Sequence[str], layers: Sequence[str]) -> Figure:
    of_kind = {kind: [row for row in rows if row["found again"] == kind] for kind in kinds}

    def column(kind: str, name: str) -> list[Any]:
        return [row[name] for row in of_kind[kind]]

    return figures.correspondence_scores(
        {
            kind: figures.Band(*(column(kind, f"PCK{end}") for end in ("", ", low", ", high")))
            for kind in kinds
        },
        {kind: column(kind, "chance") for kind in kinds},
        column(kinds[0], "possible"),
        layers,
    )


def _pairs(scene: Scene, keypoints: Keypoints) -> list[tuple[int, int]]:
    """Each image that is shown with another one of its category, or else the one after it."""
    dataset = scene.subject.dataset
    if len(dataset) < 2:
        raise ValueError("images: correspondence needs two images, the data set has one")
    pairs: list[tuple[int, int]] = []
    for a in scene.images:
        like = [i for i, y in enumerate(dataset.labels) if y == dataset.labels[a] and i != a]
        among_shown = [i for i in like if i in scene.images]
        marked = [i for i in like if keypoints.get(dataset.names[i])]
        b = (among_shown or marked or like or [(a + 1) % len(dataset)])[0]
        if (b, a) not in pairs:
            pairs.append((a, b))
    return pairs[:PAIRS]


def _lines(scene: Scene, keypoints: Keypoints) -> dict[str, Figure]:
    dataset, pairs = scene.subject.dataset, _pairs(scene, keypoints)
    features = [_features(scene, scene.pixels(pair)) for pair in pairs]
    pixels = torch.stack([pictures(scene.pixels(pair)) for pair in pairs])
    names = [" and ".join(dict.fromkeys(scene.names(pair))) for pair in pairs]
    plots = {}
    for layer in scene.layers:
        starts, ends, sure = zip(*(_matched(*of_pair[layer]) for of_pair in features), strict=True)
        plots[f"lines_{file_name(layer)}"] = figures.correspondences(
            pixels, starts, ends, sure, layer, names=names,
            remark=f"The best of each of {_LINES} x {_LINES} fields of the left image; dotted: its "
            "own best match on the left is another region.",
        )  # fmt: skip
        marked = [
            (n, shared_keypoints(keypoints, [dataset.names[i] for i in pair]))
            for n, pair in enumerate(pairs)
        ]
        marked = [(n, points) for n, points in marked if len(points[0])]
        if marked:
            plots[f"keypoints_{file_name(layer)}"] = _carried(
                layer, pixels, names, features, marked
            )
    return plots


def _matched(F: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends and certainty of the best match of each of some fields of the first image."""
    matches = correspond(F[0], F[1])
    centres = region_centres(grid)
    field = (centres * _LINES).long()
    field_of = field[:, 1] * _LINES + field[:, 0]
    best = []
    for n in field_of.unique().tolist():
        inside = (field_of == n).nonzero().flatten()
        # A match that both agree on goes before any other.
        best.append(int(inside[(matches.cosine + 2 * matches.mutual)[inside].argmax()]))
    return centres[best], centres[matches.region[best]], matches.mutual[best]


def _carried(
    layer: str,
    pixels: Tensor,
    names: Sequence[str],
    features: Sequence[Mapping[str, tuple[Tensor, tuple[int, int]]]],
    marked: Sequence[tuple[int, tuple[Tensor, Tensor]]],
) -> Figure:
    """Keypoints of the left images, where a layer finds them, and where they are."""
    ends, near = [], []
    for n, (a, b) in marked:
        F, grid = features[n][layer]
        carried = transfer(correspond(F[0], F[1]), a, b, grid)
        ends.append(carried.place)
        near.append(carried.near)
    chosen = [n for n, _ in marked]
    return figures.correspondences(
        pixels[chosen], [a for _, (a, _) in marked], ends, near, layer,
        truth=[b for _, (_, b) in marked], names=[names[n] for n in chosen],
        remark=f"Ring: where the keypoint is; drawn through: found within {ALPHA:g} of the side.",
    )  # fmt: skip
