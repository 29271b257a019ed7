"""The filters of the first convolution as images, and of the layers' convolutions as tiles."""

from __future__ import annotations

from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures
from emergence_ext.lookinside.filters import Filters, Smoothness, smoothness
from emergence_ext.lookinside.filters import filters as filters_of
from emergence_ext.report.files import Row
from emergence_ext.report.look.sheet import Scene, Sheet
from emergence_ext.run import file_name

FIRST: Final = 128
"""Filters of the first convolution for which there is room, the strongest."""

ROWS: Final = 10
COLUMNS: Final = 16


def filters(scene: Scene) -> Sheet:
    """Show the filters of the first convolution and of those that the layers come from.

    Raises:
        ValueError: no convolution runs in the network.
    """
    module, images = scene.subject.module, scene.inputs(scene.pixels(scene.images[:1]))
    first = filters_of(module, images)
    score = smoothness(first.weight, scene.random_state)
    plots = {"first": _first(first, score)}
    scored = {first.name: (first, score)}
    for layer in scene.layers:
        of_layer = filters_of(module, images, scene.subject.layers[layer])
        if of_layer.name in scored:
            continue
        scored[of_layer.name] = (of_layer, smoothness(of_layer.weight, scene.random_state))
        plots[f"deep_{file_name(layer)}"] = _deep(of_layer, layer)
    return Sheet(
        "Filters",
        "The weights themselves. Filters of the first convolution see pixels, so they can be read "
        "as images: those of a network that was trained well are smooth edges, blobs and colours. "
        "Later ones see channels; each tile is what a filter wants of one channel.",
        plots,
        {"filters": [row for name in scored for row in _rows(*scored[name])]},
        _notes(first, score),
    )


def _first(first: Filters, score: Smoothness) -> Figure:
    strongest = first.weight.flatten(1).norm(dim=1).argsort(descending=True, stable=True)
    kept = strongest[:FIRST].sort().values
    return figures.first_filters(
        first.weight[kept], score.score[kept], score.noisy[kept], first.name
    )


def _deep(convolution: Filters, layer: str) -> Figure:
    strength = convolution.weight.flatten(2).norm(dim=2)  # [K, channels]
    rows = strength.norm(dim=1).argsort(descending=True, stable=True)[:ROWS].sort().values
    columns = strength[rows].argsort(dim=1, descending=True, stable=True)[:, :COLUMNS]
    return figures.deep_filters(
        convolution.weight[rows[:, None], columns],
        rows,
        columns,
        f"{layer} ({convolution.name})" if layer != convolution.name else layer,
        (strength.shape[0], strength.shape[1]),
    )


def _rows(convolution: Filters, score: Smoothness) -> list[Row]:
    norm = convolution.weight.flatten(1).norm(dim=1)
    return [
        {
            "convolution": convolution.name,
            "filter": k,
            "norm": float(norm[k]),
            "smoothness": float(score.score[k]),
            "p": float(score.p[k]),
            "noisy": bool(score.noisy[k]),
        }
        for k in range(len(norm))
    ]


def _notes(first: Filters, score: Smoothness) -> list[str]:
    known = score.score[score.score.isfinite()]
    if not len(known):
        return [f"{first.name}: its filters have too few pixels for a score of smoothness."]
    K, h, w = len(first.weight), *first.weight.shape[2:]
    note = (
        f"{first.name}: {int(score.noisy.sum())} of {K} filters are no smoother than noise "
        f"(median smoothness {float(torch.median(known)):.2f}; noise has 0, a plain edge of "
        f"3 x 3 0.62). Noisy filters can show that a network was not trained for long enough, or "
        "with too little regularisation (CS231n)."
    )
    if h * w <= 9:
        note += f" In {h} x {w} pixels a fine pattern cannot be told from noise."
    return [note]
