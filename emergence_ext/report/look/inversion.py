"""The sheet of inversions: what each layer still knows of an image."""

from __future__ import annotations

from typing import Final

import torch

from emergence_ext import figures
from emergence_ext.lookinside.inversion import invert
from emergence_ext.network import moved_to
from emergence_ext.report.look.sheet import Scene, Sheet, pictures

SHOWN: Final = 3
"""Images that are inverted: every one takes hundreds of passes through every layer."""


def inversion(scene: Scene) -> Sheet:
    """Invert the codes of the first images in every layer (Mahendran and Vedaldi, CVPR 2015)."""
    subject, chosen = scene.subject, list(scene.images)[:SHOWN]
    images = scene.pixels(chosen)
    with moved_to(subject.module, subject.device) as device:
        inverted = [
            invert(
                subject.module,
                subject.layers[name],
                images.to(device),
                preprocess=scene.inputs,
                batch_size=subject.batch_size,
                random_state=scene.random_state,
            )
            for name in scene.layers
        ]
    rows = [
        {
            "layer": name,
            "image": subject.dataset.names[i],
            "relative code error": float(result.error[n]),
            "of the noise it starts from": float(result.start_error[n]),
        }
        for name, result in zip(scene.layers, inverted, strict=True)
        for n, i in enumerate(chosen)
    ]
    plot = figures.inversions(
        pictures(images),
        [pictures(x.images) for x in inverted],
        torch.stack([x.error for x in inverted]),
        scene.layers,
    )
    means = ", ".join(
        f"{name} {float(x.error.mean()):.3f}"
        for name, x in zip(scene.layers, inverted, strict=True)
    )
    return Sheet(
        "Inversion of codes",
        "Each picture was found from noise so that a layer answers to it as it does to the image "
        "in the first column. What differs from the image, the layer does not tell apart. The "
        "code error is |F - F0| / |F0|.",
        {"inversion": plot},
        {"inversion": rows},
        [f"Mean relative code error: {means}."],
    )
