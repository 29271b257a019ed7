"""What excites channels most, and random directions, and the directions that a run has learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from emergence_ext import figures
from emergence_ext.lookinside.excite import Excited, random_directions
from emergence_ext.lookinside.excite import excite as most_exciting
from emergence_ext.lookinside.stream import maps_of_layers
from emergence_ext.method import bootstrap_ratio
from emergence_ext.network import receptive_field, region_boxes
from emergence_ext.report.files import Row, interval
from emergence_ext.report.look.sheet import Scene, Sheet, pictures
from emergence_ext.run import file_name

logger = logging.getLogger(__name__)

SHOWN: Final = 5
"""Channels, and as many random directions, that are shown of a layer."""

COMPARED: Final = 64
"""Channels, and as many random directions, on which the comparison of both rests."""

IMAGES: Final = 9
"""Images of each direction."""

CATEGORIES: Final = 12
"""Categories whose mu is drawn; tables have all."""

WHOLE: Final = 0.8
"""Share of the image from which on a receptive field tells no place any more."""


def excite(scene: Scene) -> Sheet:
    """Show what excites channels, random directions, rows of Lambda and mu of categories most.

    Raises:
        ValueError: a layer without maps, or values that are not finite.
    """
    subject = scene.subject
    example = scene.inputs(scene.pixels(scene.images[:1]))
    dotted = {layer: subject.layers[layer] for layer in scene.layers}
    maps = maps_of_layers(subject.module, example, list(dotted.values()))
    named = {
        layer: _directions(scene, layer, maps[name].shape[1]) for layer, name in dotted.items()
    }
    exciting = most_exciting(
        subject.module,
        subject.dataset,
        {
            dotted[layer]: normalize(torch.cat(list(kinds.values())))
            for layer, kinds in named.items()
        },
        k=IMAGES,
        preprocess=subject.preprocess,
        batch_size=subject.batch_size,
        precision=subject.precision,
    )
    plots: dict[str, Figure] = {}
    rows: list[Row] = []
    shares: list[Row] = []
    for layer in scene.layers:
        of_layer = exciting[dotted[layer]]
        names = _names(scene, layer, named[layer])
        plots |= _layer_figures(scene, layer, of_layer, names)
        rows += _rows(scene, layer, of_layer, names)
        shares += _shares(scene, layer, of_layer, {k: len(x) for k, x in named[layer].items()})
    return Sheet(
        "What excites a unit most",
        "The images of the data set on which single channels of a layer are highest, each at its "
        "best region, with what that region sees. Beside them random directions of the same space "
        "(rows of a random rotation): where they pick images as alike as channels do, single "
        "channels are nothing special. Directions have length 1, so that values compare.",
        plots,
        {"exciting": rows, "alike": shares},
        _notes(shares, len(subject.dataset.categories)),
    )


def _directions(scene: Scene, layer: str, K: int) -> dict[str, Tensor]:
    """Directions `[D, K]` by their kind."""
    generator = torch.Generator().manual_seed(scene.random_state)
    # Drawn, not chosen for what they show: only then the comparison with random ones is fair.
    channels = torch.randperm(K, generator=generator)[:COMPARED].sort().values
    kinds = {
        "channel": torch.eye(K)[channels],
        "random": random_directions(min(COMPARED, K), K, scene.random_state),
    }
    if scene.run is not None and layer in scene.run.emergence.layers:
        learned = scene.run.learned()
        Lambda = learned.regional[layer].Lambda_.float()
        if Lambda.shape[1] == K:
            kinds["Lambda"] = Lambda
            kinds["mu"] = learned.frame.directions.to(Lambda) @ Lambda
    return kinds


def _names(scene: Scene, layer: str, kinds: Mapping[str, Tensor]) -> list[str]:
    """What each direction is called, in the order of `kinds`."""
    called = {
        "channel": [f"channel {int(row.argmax())}" for row in kinds["channel"]],
        "random": [f"random {d}" for d in range(len(kinds["random"]))],
    }
    if "mu" in kinds and scene.run is not None:
        called["Lambda"] = [f"Lambda row {d + 1}" for d in range(len(kinds["Lambda"]))]
        called["mu"] = [f"mu {name.replace('_', ' ')}" for name in scene.run.emergence.categories]
    return [name for kind in kinds for name in called[kind]]


def _layer_figures(
    scene: Scene, layer: str, exciting: Excited, names: Sequence[str]
) -> dict[str, Figure]:
    """Figures of a layer: channels beside random directions, and what the run has learned."""
    of_kind: dict[str, list[int]] = {}
    for d, name in enumerate(names):
        of_kind.setdefault(name.split(" ")[0], []).append(d)
    some = of_kind["channel"][:SHOWN] + of_kind["random"][:SHOWN]
    learned = of_kind.get("Lambda", []) + of_kind.get("mu", [])[:CATEGORIES]
    boxes, whole = _boxes(scene, layer, exciting.grid)
    plots = {}
    for what, chosen in (("channels", some), ("learned", learned)):
        if not chosen:
            continue
        images = exciting.images[chosen]
        pixels = pictures(scene.pixels(images.flatten().tolist())).unflatten(0, images.shape)
        place = exciting.places[chosen]
        seen = boxes[place[..., 0] * exciting.grid[1] + place[..., 1]]  # [D, k, 4]
        called = [names[d] for d in chosen]
        values = exciting.values[chosen]
        plots[f"{what}_{file_name(layer)}"] = figures.exciting_images(
            pixels, seen, values, called, layer, whole=whole
        )
        if not whole:
            patches = [
                [
                    x[:, top:bottom, left:right]
                    for x, (top, left, bottom, right) in zip(row, fields, strict=True)
                ]
                for row, fields in zip(pixels, seen.tolist(), strict=True)
            ]
            plots[f"{what}_{file_name(layer)}_patches"] = figures.exciting_patches(
                patches, values, called, layer
            )
    return plots


def _boxes(scene: Scene, layer: str, grid: tuple[int, int]) -> tuple[Tensor, bool]:
    """What each region sees in pixels, `[R, 4]`; or its cell, and True, where that is all."""
    subject, pixels = scene.subject, scene.pixels(scene.images[:1])
    size = (pixels.shape[2], pixels.shape[3])
    cells = region_boxes(size, grid).cells
    if scene.inputs(pixels).shape[2:] != pixels.shape[2:]:
        return cells, True
    try:
        field = receptive_field(subject.module, subject.layers[layer], size)
    except (ValueError, RuntimeError) as error:
        logger.debug("no receptive fields: %s", error)
        return cells, True
    fields = region_boxes(field, grid).fields
    area = ((fields[:, 2] - fields[:, 0]) * (fields[:, 3] - fields[:, 1])).float().mean()
    return (fields, False) if area < WHOLE * size[0] * size[1] else (cells, True)


def _rows(scene: Scene, layer: str, exciting: Excited, names: Sequence[str]) -> list[Row]:
    dataset = scene.subject.dataset
    return [
        {
            "layer": layer,
            "direction": name,
            "place": place + 1,
            "image": dataset.names[index],
            "index": index,
            "category": dataset.categories[dataset.labels[index]],
            "value": value,
            "row": row,
            "column": column,
        }
        for d, name in enumerate(names)
        for place, (index, value, (row, column)) in enumerate(
            zip(
                exciting.images[d].tolist(),
                exciting.values[d].tolist(),
                exciting.places[d].tolist(),
                strict=True,
            )
        )
    ]


def _shares(scene: Scene, layer: str, exciting: Excited, kinds: Mapping[str, int]) -> list[Row]:
    """How alike the images of a direction are: the share of their commonest category."""
    labels = torch.tensor(scene.subject.dataset.labels)[exciting.images]  # [D, k]
    alike = torch.stack([row.bincount().max() / len(row) for row in labels])
    rows: list[Row] = []
    start = 0
    for kind, count in kinds.items():
        part = alike[start : start + count]
        share = bootstrap_ratio(part, torch.ones_like(part), scene.random_state)
        rows.append(
            {
                "layer": layer,
                "directions": kind,
                "number": count,
                **interval("share of the commonest category", share),
            }
        )
        start += count
    return rows


def _notes(shares: Sequence[Row], categories: int) -> list[str]:
    """What the last layer says on whether channels are special, and what is not drawn."""
    share = {
        row["directions"]: row["share of the commonest category"]
        for row in shares
        if row["layer"] == shares[-1]["layer"]
    }
    means = ", ".join(f"{kind} {value:.0%}" for kind, value in share.items())
    notes = [
        f"{shares[-1]['layer']}: share of the commonest category among the {IMAGES} images, mean "
        f"over directions: {means}."
    ]
    if categories > CATEGORIES and any(row["directions"] == "mu" for row in shares):
        notes.append(
            f"The mu of the first {CATEGORIES} of {categories} categories are drawn; all are in "
            "exciting.csv."
        )
    return notes
