"""Activations as sorted grids, filters that never fire, and sparsity by layer and checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures
from emergence_ext.lookinside.activations import Sparsity, sparsity
from emergence_ext.lookinside.activations import activations as activate
from emergence_ext.network import load_weights
from emergence_ext.report.files import Row
from emergence_ext.report.look.sheet import Scene, Sheet, pictures
from emergence_ext.run import Subject, file_name

IMAGES: Final = 4
"""Images beside whose channels there is room."""

CHANNELS: Final = 45
"""Channels of an image and layer that are shown."""


def activations(scene: Scene) -> Sheet:
    """Show the strongest channels of each layer, and count what is never above zero.

    Raises:
        ValueError: a layer without maps, or values that are not finite.
    """
    subject, layers = scene.subject, list(scene.layers)
    counts = _by_checkpoint(subject, layers)
    labels = list(counts)
    last = counts[labels[-1]]
    images = list(scene.images)[:IMAGES]
    plots = {f"maps_{file_name(layer)}": _grid(scene, layer, images) for layer in layers}
    plots["sparsity"] = figures.layer_sparsity(
        torch.tensor([[counts[t][layer].zero_share for layer in layers] for t in labels]),
        torch.tensor([[int(counts[t][layer].dead.sum()) for layer in layers] for t in labels]),
        torch.tensor([len(last[layer].peak) for layer in layers]),
        layers,
        labels,
    )
    return Sheet(
        "Activations",
        "The channels of each layer that an image excites most, by falling peak; after a ReLU "
        "black is nothing. With training activations usually become sparser and more local. A "
        "filter that is above zero in no image of the data set is dead: it tells nothing apart.",
        plots,
        {"sparsity": _rows(counts), "dead_filters": _dead(counts)},
        _notes(last),
    )


def _by_checkpoint(subject: Subject, layers: Sequence[str]) -> dict[str, Mapping[str, Sparsity]]:
    """Counts of every checkpoint by its label, of every layer by the name that is shown."""

    def count() -> Mapping[str, Sparsity]:
        dotted = [subject.layers[layer] for layer in layers]
        counts = sparsity(
            subject.module,
            subject.dataset,
            dotted,
            preprocess=subject.preprocess,
            batch_size=subject.batch_size,
            precision=subject.precision,
        )
        return {layer: counts[name] for layer, name in zip(layers, dotted, strict=True)}

    if len(subject.checkpoints) < 2:
        return {"network": count()}
    kept = {name: x.clone() for name, x in subject.module.state_dict().items()}
    counts = {}
    try:
        for state in subject.checkpoints:
            load_weights(subject.module, state.path)
            counts[state.label] = count()
    finally:
        subject.module.load_state_dict(kept)
    return counts


def _grid(scene: Scene, layer: str, images: Sequence[int]) -> Figure:
    pixels = scene.pixels(images)
    active = activate(scene.subject.module, scene.inputs(pixels), scene.subject.layers[layer])
    order = active.order[:, :CHANNELS]
    index = order[..., None, None].expand(-1, -1, *active.maps.shape[2:])
    return figures.activation_grid(
        pictures(pixels),
        active.maps.gather(1, index),
        order,
        layer,
        active.maps.shape[1],
        names=scene.names(images),
    )


def _rows(counts: Mapping[str, Mapping[str, Sparsity]]) -> list[Row]:
    return [
        {
            "checkpoint": label,
            "layer": layer,
            "filters": len(x.peak),
            "dead": int(x.dead.sum()),
            "share of zeros": x.zero_share,
            "share of images that fire a filter, mean": float(x.firing.mean()),
            "values below zero": x.signed,
        }
        for label, layers in counts.items()
        for layer, x in layers.items()
    ]


def _dead(counts: Mapping[str, Mapping[str, Sparsity]]) -> list[Row]:
    return [
        {"checkpoint": label, "layer": layer, "filter": k, "peak": float(x.peak[k])}
        for label, layers in counts.items()
        for layer, x in layers.items()
        for k in x.dead.nonzero().flatten().tolist()
    ]


def _notes(last: Mapping[str, Sparsity]) -> list[str]:
    notes = [
        f"{layer}: {int(x.dead.sum())} of {len(x.peak)} filters are above zero in none of the "
        f"{x.images} images ({_listed(x.dead.nonzero().flatten().tolist())}). Maps that are zero "
        "for many images show dead filters, and can be a symptom of a high learning rate (CS231n)."
        for layer, x in last.items()
        if x.dead.any()
    ]
    signed = [layer for layer, x in last.items() if x.signed]
    if signed:
        notes.append(
            f"{', '.join(signed)}: there are values below zero, so the output is not taken after "
            "a ReLU: its zeros are no sparsity, and a filter counts as dead where it is never "
            "above zero, though no ReLU may follow."
        )
    return notes or ["Every filter of these layers is above zero in some image: none is dead."]


def _listed(numbers: Sequence[int], most: int = 12) -> str:
    more = f", and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
