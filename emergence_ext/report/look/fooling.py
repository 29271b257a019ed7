"""The sheet of fooling images: sure of a class that nobody sees in them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from emergence_ext import figures
from emergence_ext.lookinside.fooling import Fooling, fool
from emergence_ext.network import moved_to
from emergence_ext.render import noise
from emergence_ext.report.files import Row
from emergence_ext.report.look.sheet import Scene, Sheet, pictures

SHOWN: Final = 4
"""Images, and as many times noise."""


def fooling(scene: Scene) -> Sheet:
    """Change images, and noise, until the network is sure of another category."""
    subject, chosen = scene.subject, list(scene.images)[:SHOWN]
    images = scene.pixels(chosen)
    names = subject.dataset.categories
    C = len(names)
    if C < 2:
        raise ValueError("categories: fooling needs another category, and there is only one")
    columns = torch.tensor(range(C) if subject.outputs is None else list(subject.outputs))
    y = scene.labels(chosen)
    # Half of the categories on, so that neighbours in the alphabet are not each other's aim.
    aims = {
        "image": (y + max(1, C // 2)) % C,
        "noise": torch.arange(len(chosen)) * C // len(chosen),
    }
    n, channels, height, width = images.shape
    starts = {
        "image": images,
        "noise": noise(n, channels, (height, width), random_state=scene.random_state),
    }
    with moved_to(subject.module, subject.device) as device:
        fooled = {
            kind: fool(
                subject.module,
                start.to(device),
                columns[aims[kind]],
                preprocess=scene.inputs,
                batch_size=subject.batch_size,
            )
            for kind, start in starts.items()
        }
    labels = _output_names(fooled["image"].before, columns, names)
    plots = {
        f"fooling_{kind}": figures.fooling(
            pictures(x.start), pictures(x.images), x.before, x.after, x.target, labels
        )
        for kind, x in fooled.items()
    }
    names_of = {"image": [subject.dataset.names[i] for i in chosen], "noise": ["noise"] * n}
    rows = [row for kind, x in fooled.items() for row in _rows(kind, x, names_of[kind], labels)]
    notes = [
        f"From {kind}: {int(x.fooled.sum())} of {n} reach {x.confidence:.0%}, root mean square "
        f"of what was added {float(x.norms()['root mean square'].mean()):.4f} on average."
        for kind, x in fooled.items()
    ]
    if channels not in (1, 3):
        notes.append(
            f"Pictures show the mean of the {channels} channels, and so does what is written above "
            "what was added; the table is of all channels."
        )
    return Sheet(
        "Fooling images",
        "Start, what was added (around grey, scaled to its largest value), and result. The network "
        "is sure of a category that nobody sees in the picture.",
        plots,
        {"fooling": rows},
        notes,
    )


def _rows(kind: str, x: Fooling, image_names: list[str], labels: list[str]) -> list[Row]:
    norms = x.norms()
    return [
        {
            "from": kind,
            "image": image_names[i],
            "network says before": labels[int(x.before[i].argmax())],
            "target": labels[int(x.target[i])],
            "p(target) before": float(x.before[i, x.target[i]]),
            "p(target) after": float(x.reached[i]),
            "steps": int(x.steps[i]),
            **{f"{name} of what was added": float(values[i]) for name, values in norms.items()},
        }
        for i in range(len(x.target))
    ]


def _output_names(p: Tensor, columns: Tensor, names: list[str]) -> list[str]:
    """Name every column of the output `[n, C]`; those of no category by their number."""
    known = dict(zip(columns.tolist(), names, strict=True))
    return [known.get(c, f"output {c}") for c in range(p.shape[1])]
