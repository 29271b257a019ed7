"""Gradient, SmoothGrad, DeconvNet, guided backpropagation and Grad-CAM, beside random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from emergence_ext import figures
from emergence_ext.lookinside import gradients as methods
from emergence_ext.network import last_reached
from emergence_ext.report.files import Row
from emergence_ext.report.look.sheet import Scene, Sheet, pictures, sentence

IMAGES: Final = 8
"""Images on a sheet."""

SIGNED: Final = ("DeconvNet", "guided backprop.")
GRAD_CAM: Final = "Grad-CAM"


def gradients(scene: Scene) -> Sheet:
    """Show which pixels the true category depends on, by five methods.

    Raises:
        ValueError: a network without logits, or whose gradient does not reach the images.
        ImportError: captum is absent.
    """
    subject, images = scene.subject, list(scene.images)
    pixels = scene.pixels()
    inputs = scene.inputs(pixels)
    targets = scene.targets()
    notes: list[str] = []
    layer = _layer(scene, inputs, notes)
    maps = _attributions(scene, subject.module, layer, inputs, targets, notes)
    if not maps:
        raise ValueError(" ".join(notes))
    notes += _nothing(scene, maps)
    random: Mapping[str, Tensor] = {}
    try:
        again = methods.randomised(subject.module, scene.random_state)
        random = _attributions(scene, again, layer, inputs, targets, [])
    except ValueError as error:
        notes.append(sentence(f"There is no column of random weights: {error}"))
    similarity = torch.full((len(maps), len(images)), torch.nan)
    for k, name in enumerate(maps):
        if name in random:
            pair = (_as_map(maps[name]), _as_map(random[name]))
            similarity[k] = methods.map_similarity(*pair)
            notes.append(
                f"{name}: rank correlation with random weights, mean over images, "
                f"{float(similarity[k].nanmean()):.2f}."
            )
    if maps.keys() & set(SIGNED) and (hidden := methods.hidden_relus(subject.module, inputs)):
        notes.append(
            f"ReLUs that hooks on ReLU modules miss or mix up: {_listed(hidden)}. Here they follow "
            "the rules of DeconvNet and guided backpropagation like the others."
        )
    plots = {}
    for start in range(0, len(images), IMAGES):
        part = slice(start, start + IMAGES)
        plots[f"attributions_{start // IMAGES + 1}"] = figures.attributions(
            pictures(pixels[part]),
            {
                name: (
                    _visible(name, x[part]),
                    _visible(name, random[name][part]) if name in random else None,
                )
                for name, x in maps.items()
            },
            similarity[:, part],
            scene.labels()[part],
            subject.dataset.categories,
            signed=SIGNED,
            laid_over=[GRAD_CAM],
        )
    return Sheet(
        "Gradients",
        "Which pixels the logit of the true category depends on: its gradient, and the mean "
        "gradient of noisy copies (largest absolute value over the colours), DeconvNet and guided "
        f"backpropagation (signed, around grey), and Grad-CAM of {layer} after its ReLU. The "
        "second map of each pair is that of the same network with random weights: a method whose "
        "maps hardly change (high rank correlation ρ, of Grad-CAM before its ReLU) shows edges of "
        "the image, not what the network learned (Adebayo et al., 2018).",
        plots,
        {"random_weights": _rows(scene, list(maps), similarity) if random else []},
        notes,
    )


def _layer(scene: Scene, inputs: Tensor, notes: list[str]) -> str:
    """The last layer, or the last that the output depends on; that it is another goes to notes."""
    names = {scene.subject.layers[name]: name for name in scene.layers}
    last = list(scene.layers)[-1]
    try:
        reached = last_reached(scene.subject.module, inputs[:1], list(names))
    except ValueError:
        return last  # the reason is told where its Grad-CAM is left out
    if reached is None or names[reached] == last:
        return last
    notes.append(
        f"The output does not depend on the patches after {last}: {GRAD_CAM} is of "
        f"{names[reached]}, the last of the layers that it depends on."
    )
    return names[reached]


def _attributions(
    scene: Scene,
    module: nn.Module,
    layer: str,
    inputs: Tensor,
    targets: Tensor,
    notes: list[str],
) -> dict[str, Tensor]:
    """Maps of every method as they are drawn; why one has no meaning goes to notes."""
    size, seed = scene.subject.batch_size, scene.random_state
    deconvnet, guided = SIGNED
    jobs: dict[str, Callable[[], Tensor]] = {
        "gradient": lambda: methods.magnitude(
            methods.saliency(module, inputs, targets, batch_size=size)
        ),
        "SmoothGrad": lambda: methods.magnitude(
            methods.smooth_grad(
                module, inputs, targets, perturbations_per_eval=size, random_state=seed
            )
        ),
        deconvnet: lambda: pictures(methods.deconvnet(module, inputs, targets, batch_size=size)),
        guided: lambda: pictures(methods.guided_backprop(module, inputs, targets, batch_size=size)),
        GRAD_CAM: lambda: methods.grad_cam(
            module, scene.subject.layers[layer], inputs, targets, batch_size=size
        ),
    }
    maps = {}
    for name, job in jobs.items():
        try:
            maps[name] = job()
        except ValueError as error:
            notes.append(sentence(f"{name} is left out: {error}"))
    return maps


def _nothing(scene: Scene, maps: Mapping[str, Tensor]) -> list[str]:
    """Say of which images a method shows nothing at all."""
    told = []
    for name, values in maps.items():
        empty = [
            i for i, x in zip(scene.images, values, strict=True) if not x.ne(x.flatten()[0]).any()
        ]
        if empty:
            named = _listed([scene.subject.dataset.names[i] for i in empty])
            told.append(f"{name} is the same everywhere, so it shows nothing, in: {named}.")
    return told


def _visible(name: str, values: Tensor) -> Tensor:
    """What is drawn of the maps of a method: of Grad-CAM what is after its ReLU."""
    return values.relu() if name == GRAD_CAM else values


def _as_map(values: Tensor) -> Tensor:
    return values if values.ndim == 3 else methods.magnitude(values)


def _rows(scene: Scene, names: list[str], similarity: Tensor) -> list[Row]:
    dataset = scene.subject.dataset
    return [
        {
            "image": dataset.names[i],
            "category": dataset.categories[dataset.labels[i]],
            **{f"Spearman, {name}": float(similarity[k, n]) for k, name in enumerate(names)},
        }
        for n, i in enumerate(scene.images)
    ]


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
