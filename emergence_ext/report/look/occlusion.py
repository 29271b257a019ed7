"""What a class loses where the image, or a region of a layer, is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures
from emergence_ext.data import Samples, balanced_order
from emergence_ext.lookinside import occlusion as hide
from emergence_ext.lookinside.stream import layer_maps
from emergence_ext.method import mean_interval, spearman
from emergence_ext.report.files import Row
from emergence_ext.report.look.sheet import Scene, Sheet, pictures, sentence
from emergence_ext.run import FinishedRun, file_name
from emergence_ext.store import exists
from emergence_ext.studies.shapley import Shapley

SHAPLEY, W = "Shapley", "w"
"""What else is known of regions, by the name that is shown."""

FILL: Final = 0.5
"""What hides a part of an image: grey."""

SIDE: Final = 14
"""Rows and columns of regions at most, where no run says how many there are."""


def occlusion(scene: Scene) -> Sheet:
    """Show the probability of the true category with each part of the image hidden, and regions.

    Raises:
        ValueError: a window or stride that does not fit the images, or a network without logits.
    """
    subject, pixels = scene.subject, scene.pixels()
    inputs = scene.inputs(pixels)
    window, stride, fill = _choices(scene, min(inputs.shape[2:]))
    hidden = hide.occlusion(
        subject.module,
        inputs,
        scene.targets(),
        sliding_window_shapes=window,
        strides=stride,
        baselines=scene.inputs(torch.full_like(pixels, fill)),
        perturbations_per_eval=subject.batch_size,
    )
    dataset = subject.dataset
    scale = torch.tensor([pixels.shape[2] / inputs.shape[2], pixels.shape[3] / inputs.shape[3]])
    plots = {
        "windows": figures.occlusion_maps(
            pictures(pixels),
            hidden.p,
            hidden.p_whole,
            hidden.loss_of_odds,
            hidden.boxes * scale.repeat(2),
            scene.labels(),
            dataset.categories,
        )
    }
    tables = {"windows": _window_rows(scene, hidden)}
    notes = [
        f"A window of {window} x {window} pixels with a stride of {stride}: {hidden.p.shape[1]} x "
        f"{hidden.p.shape[2]} positions, filled with {fill:g}."
    ]
    of_regions, rows, more_notes = _regions(scene)
    return Sheet(
        "Occlusion",
        "The probability of the true category with a grey window over each position of the image "
        "(Zeiler and Fergus, 2014): dark is where the network needs what it sees. Where it stays "
        "sure everywhere, no single window holds what it goes by; the log odds still say where it "
        "is less sure (red). Regions of a layer are hidden in the same way as for Shapley values: "
        "set to zero in all channels.",
        plots | of_regions,
        tables | ({"regions": rows} if rows else {}),
        notes + more_notes,
    )


def _choices(scene: Scene, side: int) -> tuple[int, int, float]:
    """Window and stride in pixels and the grey of the window, as the user chose or by default."""
    window = int(scene.choices.get("window", hide.window_and_stride(side)[0]))
    stride = int(scene.choices.get("stride", max(1, window // 2)))
    fill = scene.choices.get("fill", FILL)
    if not 1 <= window <= side:
        raise ValueError(f"window: expected 1..{side} pixels, the side of the images, got {window}")
    if not 1 <= stride <= window:
        raise ValueError(f"stride: expected 1..{window} pixels, the window's side, got {stride}")
    if not 0 <= fill <= 1:
        raise ValueError(f"fill: expected a grey in 0..1, got {fill}")
    return window, stride, fill


def _window_rows(scene: Scene, hidden: hide.Occlusion) -> list[Row]:
    dataset = scene.subject.dataset
    rows: list[Row] = []
    for k, i in enumerate(scene.images):
        least = int(hidden.p[k].argmin())
        top, left, bottom, right = hidden.boxes.flatten(0, 1)[least].tolist()
        rows.append(
            {
                "image": dataset.names[i],
                "category": dataset.categories[dataset.labels[i]],
                "p of the whole image": float(hidden.p_whole[k]),
                "least p": float(hidden.p[k].min()),
                "largest loss of log odds": float(hidden.loss_of_odds[k].max()),
                "window of the least p: top": top,
                "left": left,
                "bottom": bottom,
                "right": right,
            }
        )
    return rows


def _regions(scene: Scene) -> tuple[dict[str, Figure], list[Row], list[str]]:
    """Figures, rows and notes of the regions of every layer."""
    subject, run, values = scene.subject, scene.run, _shapley(scene.run)
    images = list(scene.images) if run is None else _weighed(scene, run, values)
    pixels = scene.pixels(images)
    inputs, plots, rows, notes = scene.inputs(pixels), {}, [], []
    if set(images) - set(scene.images):
        notes.append(
            "Regions are shown of other images too, since w is known only of those that it was "
            "learned on."
        )
    for layer in scene.layers:
        dotted = subject.layers[layer]
        try:
            own = layer_maps(subject.module, inputs[:1], dotted).shape[2:]
        except ValueError as error:
            notes.append(sentence(f"{layer} has no regions: {error}"))
            continue
        grid = (min(own[0], SIDE), min(own[1], SIDE)) if run is None else run.emergence.grid
        if own[0] < grid[0] or own[1] < grid[1]:
            notes.append(
                f"{layer}: its map of {own[0]} x {own[1]} is smaller than the run's grid of "
                f"{grid[0]} x {grid[1]} regions, so none can be hidden alone."
            )
            continue
        hidden = hide.region_occlusion(
            subject.module,
            dotted,
            inputs,
            scene.targets(images),
            grid,
            perturbations_per_eval=subject.batch_size,
        )
        loss = hidden.loss.flatten(1)
        others = {
            name: (x, spearman(x, loss)) for name, x in _others(run, values, layer, images).items()
        }
        plots[f"regions_{file_name(layer)}"] = figures.occlusion_regions(
            pictures(pixels), loss, others, grid, scene.labels(images), subject.dataset.categories
        )
        rows += _region_rows(subject.dataset, images, layer, hidden, others)
        for name, (_, rho) in others.items():
            mean = mean_interval(rho, scene.random_state)
            if mean is not None:
                notes.append(
                    f"{layer}: rank correlation of occlusion with {name}, mean over images, "
                    f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})."
                )
    return plots, rows, notes


def _region_rows(
    dataset: Samples,
    images: Sequence[int],
    layer: str,
    hidden: hide.Occlusion,
    others: dict[str, tuple[Tensor, Tensor]],
) -> list[Row]:
    loss = hidden.loss.flatten(1)
    return [
        {
            "layer": layer,
            "image": dataset.names[i],
            "category": dataset.categories[dataset.labels[i]],
            "logit of all regions": float(hidden.z_whole[k]),
            "largest loss of a region (logits)": float(loss[k].max()),
            "its row": int(loss[k].argmax()) // hidden.p.shape[2],
            "its column": int(loss[k].argmax()) % hidden.p.shape[2],
            # All rows have the same columns, whatever is known of their layer.
            **{
                f"Spearman with {name}": float(others[name][1][k]) if name in others else None
                for name in (SHAPLEY, W)
            },
        }
        for k, i in enumerate(images)
    ]


def _others(
    run: FinishedRun | None, values: Shapley | None, layer: str, images: Sequence[int]
) -> dict[str, Tensor]:
    """Other importances of the regions, `[n, R]`, around what is neutral."""
    others: dict[str, Tensor] = {}
    if values is not None and layer in values.layers:
        places = values.index.tolist()
        of_layer = values.values[values.layers.index(layer)]
        others[SHAPLEY] = of_layer[[places.index(i) for i in images]]
    if run is not None and layer in run.emergence.layers:
        places = run.emergence.region_images.tolist()
        w = run.emergence.w[-1, run.emergence.layers.index(layer)]
        others[W] = w[[places.index(i) for i in images]] * w.shape[1] - 1
    return others


def _weighed(scene: Scene, run: FinishedRun, values: Shapley | None) -> list[int]:
    """As many images that w, and Shapley values, are known of; those asked for come first."""
    known = (run.emergence.region_images if values is None else values.index).tolist()
    asked = [i for i in scene.images if i in known]
    others = sorted(set(known) - set(asked))
    chosen = balanced_order(run.emergence.y[others], scene.random_state)
    more = [others[k] for k in chosen[: len(scene.images) - len(asked)].tolist()]
    return asked + sorted(more, key=lambda i: (int(run.emergence.y[i]), i))


def _shapley(run: FinishedRun | None) -> Shapley | None:
    """What `emergence shapley` left in the run; None where it was not called, or of another one."""
    path = None if run is None else run.inside.result("shapley")
    if run is None or path is None or not exists(path) or not run.owns(path):
        return None
    return Shapley.load(path)
