"""Accuracy as a function of what the images are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from emergence_ext import figures
from emergence_ext.data import Samples, read_boxes
from emergence_ext.lookinside.attributes import (
    Group,
    accuracy_by,
    image_attributes,
    object_attributes,
    odd_word,
    read_attributes,
)
from emergence_ext.lookinside.targets import dataset_logits
from emergence_ext.report.files import Row, interval
from emergence_ext.report.look.sheet import Scene, Sheet, pictures

EXAMPLES: Final = 5
"""Images below a panel, from the least to the largest value."""


AMONG: Final = (
    "With a class map the network's probabilities are among the categories that are present: its "
    "other outputs take no part."
)


def attributes(scene: Scene) -> Sheet:
    """Draw accuracy against brightness, contrast, sharpness, and what the user measured.

    Raises:
        ValueError: a file of boxes or attributes that does not fit the images, or a network without
            logits.
    """
    subject = scene.subject
    right = network_logits(scene).argmax(1) == torch.tensor(subject.dataset.labels)
    overall = float(right.float().mean())
    measured = _measured(scene)
    groups = {name: accuracy_by(values, right) for name, values in measured.items()}
    return Sheet(
        "Accuracy and attributes of images",
        f"Accuracy on all {len(right)} images, in groups that are alike in one attribute, with "
        "95 % intervals (Wilson); groups of numbers hold about as many images each. Sharpness is "
        "the variance of the Laplacian, small where an image is blurred. An attribute may go with "
        f"the category, and then its groups differ by that alone. {AMONG}",
        {
            "accuracy": figures.accuracy_by_attribute(
                {name: _panel(subject.dataset, measured[name], g) for name, g in groups.items()},
                overall,
            )
        },
        {"accuracy": _rows(groups)},
        [
            *_notes(groups, overall),
            *(note for name, values in measured.items() for note in _odd(scene, name, values)),
        ],
    )


def network_logits(scene: Scene) -> Tensor:
    """Logits of all images, `[N, C]`, those of the run where there is one."""
    if scene.run is not None:
        return scene.run.emergence.logits()
    subject = scene.subject
    return dataset_logits(
        subject.module,
        subject.dataset,
        preprocess=subject.preprocess,
        outputs=subject.outputs,
        batch_size=subject.batch_size,
        precision=subject.precision,
    )


def _odd(scene: Scene, name: str, values: Tensor | list[str]) -> list[str]:
    """Name the cell that makes words of a column that is mostly numbers."""
    odd = None if isinstance(values, Tensor) else odd_word(values)
    if odd is None:
        return []
    image = scene.subject.dataset.names[odd]
    return [
        f"{name} is taken as words, since {values[odd]!r} of image {image!r} is no number; leave "
        "the cell empty where there is none."
    ]


def _measured(scene: Scene) -> dict[str, Tensor | list[str]]:
    dataset, size = scene.subject.dataset, scene.subject.batch_size
    parts = [
        image_attributes(scene.pixels(range(start, min(start + size, len(dataset)))))
        for start in range(0, len(dataset), size)
    ]
    measured: dict[str, Tensor | list[str]] = {
        name: torch.cat([part[name] for part in parts]) for name in parts[0]
    }
    if "boxes" in scene.files:
        measured |= object_attributes(read_boxes(scene.files["boxes"]), dataset.names)
    if "attributes" in scene.files:
        measured |= read_attributes(scene.files["attributes"], dataset.names)
    return measured


def _panel(
    dataset: Samples, values: Tensor | list[str], groups: Sequence[Group]
) -> figures.AttributePanel:
    examples = None
    if isinstance(values, Tensor):
        known = values.isfinite().nonzero().flatten()
        order = known[values[known].argsort(stable=True)]
        count = min(EXAMPLES, len(order))
        spread = order[(torch.linspace(0, 1, count) * (len(order) - 1)).round().long()]
        examples = pictures(torch.stack([dataset[int(i)][0] for i in spread]))
    return figures.AttributePanel(
        names=[group.name for group in groups if group.name],
        spans=[[group.low, group.high] for group in groups],
        middle=[group.middle for group in groups],
        accuracy=figures.Band.of([group.accuracy for group in groups]),
        images=[group.images for group in groups],
        examples=examples,
    )


def _rows(groups: Mapping[str, Sequence[Group]]) -> list[Row]:
    return [
        {
            "attribute": name,
            "value": group.name or None,
            "from": group.low,
            "to": group.high,
            "median": group.middle,
            "images": group.images,
            **interval("accuracy", group.accuracy),
        }
        for name, of_attribute in groups.items()
        for group in of_attribute
    ]


def _notes(groups: Mapping[str, Sequence[Group]], overall: float) -> list[str]:
    total = sum(len(of_attribute) for of_attribute in groups.values())
    apart = [
        f"{name}, {group.name or f'{group.low:.3g} to {group.high:.3g}'}: "
        f"{group.accuracy.value:.0%} ({group.accuracy.low:.0%} to {group.accuracy.high:.0%}) of "
        f"{group.images} images."
        for name, of_attribute in groups.items()
        for group in of_attribute
        if not group.accuracy.low <= overall <= group.accuracy.high
    ]
    return [
        f"Accuracy on all images: {overall:.1%}. In {len(apart)} of {total} groups that is outside "
        f"of the interval; about {total / 20:.1f} would be by chance.",
        *apart,
    ]
