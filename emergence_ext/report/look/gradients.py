"""Gradient, SmoothGrad, DeconvNet, guided backpropagation and Grad-CAM, beside random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from emergence_ext import figures
from emergence_ext.lookinside import gradients as methods
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
    inputs, layer = scene.inputs(pixels), list(scene.layers)[-1]
    targets = scene.targets()
    notes: list[str] = []
    maps = _attributions(scene, subject.module, inputs, targets, notes)
    random: Mapping[str, Tensor] = {}
    try:
        random = _attributions(
            scene, methods.randomised(subject.module, scene.random_state), inputs, targets, []
        )
    except ValueError as error:
        notes.append(sentence(f"There is no column of random weights: {error}"))
    similarity = torch.full((len(maps), len(images)), torch.nan)
    for k, name in enumerate(maps):
        if random:
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
                    _visible(name, random[name][part]) if random else None,
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


def _attributions(
    scene: Scene, module: nn.Module, inputs: Tensor, targets: Tensor, notes: list[str]
) -> dict[str, Tensor]:
    """Maps of every method as they are drawn; why a rule at ReLUs has no meaning goes to notes."""
    layer = list(scene.layers)[-1]
    size, seed = scene.subject.batch_size, scene.random_state
    maps = {
        "gradient": methods.magnitude(methods.saliency(module, inputs, targets, batch_size=size)),
        "SmoothGrad": methods.magnitude(
            methods.smooth_grad(
                module, inputs, targets, perturbations_per_eval=size, random_state=seed
            )
        ),
    }
    rules: tuple[Callable[..., Tensor], ...] = (methods.deconvnet, methods.guided_backprop)
    for name, method in zip(SIGNED, rules, strict=True):
        try:
            maps[name] = pictures(method(module, inputs, targets, batch_size=size))
        except ValueError as error:
            notes.append(sentence(f"{name} is left out: {error}"))
    try:
        cam = methods.grad_cam(
            module, scene.subject.layers[layer], inputs, targets, batch_size=size
        )
        maps[GRAD_CAM] = cam
    except ValueError as error:
        notes.append(sentence(f"{GRAD_CAM} is left out: {error}"))
    return maps


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
