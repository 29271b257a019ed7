"""The sheets of the Mind's Eye: facets of a set of images, and directions of categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext import figures, tables
from emergence_ext.mindseye import Facets, MindsEye, Schedule, find_facets, minds_eye
from emergence_ext.mindseye.eye import layer_rows
from emergence_ext.mindseye.schedule import Preprocess
from emergence_ext.render import Objective, direction, measure, noise
from emergence_ext.sheets.sheet import Sheet
from emergence_ext.studies.emergence import file_name
from emergence_ext.studies.finished import FinishedRun
from emergence_ext.subject import Subject
from emergence_ext.tables import Row

STRIP: Final = 8
"""Iterations on the strip of a sequence."""

FRAMES: Final = 60
"""Iterations of a film."""

_PIXELS: Final = 224  # least side of a picture in a film


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images that are looked at together, and the network that looks.

    Attributes:
        module: the network.
        layers: name to show -> dotted name.
        images: in 0..1, `[N, channels, H', W']`.
        names: of the images, `[N]`.
        preprocess: from such images to the network's input.
        outputs: names of the columns of the network's output, as far as they have one.
        regions: name of a layer -> which regions count, bool `[N, H, W]`; empty: all.
        batch_size: images at a time.
    """

    module: nn.Module
    layers: Mapping[str, str]
    images: Tensor
    names: Sequence[str]
    preprocess: Preprocess = None
    outputs: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    batch_size: int = 16


def facet_sheet(
    given: ImageSet,
    facets: int = 1,
    top_k: Sequence[int] = (64,),
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> tuple[Sheet, dict[str, MindsEye]]:
    """Show the facets of images in every layer, and for every number of channels.

    Args:
        given: images and network.
        facets: number of facets.
        top_k: numbers of channels that are optimised; the first is shown in full.
        schedule: of the optimisation.
        random_state: seed.

    Returns:
        The sheet, and what was found, by layer, of the first number of channels.
    """
    schedule = schedule or Schedule()
    keep = sorted({round(x) for x in np.linspace(0, schedule.steps, FRAMES + 1)})
    found: dict[tuple[str, int], MindsEye] = {}
    for name, layer in given.layers.items():
        shared = _facets(given, name, facets, random_state)
        for k in top_k:
            found[name, k] = minds_eye(
                given.module,
                given.images,
                layer,
                facets=shared,
                top_k=k,
                schedule=schedule,
                regions=given.regions.get(name),
                preprocess=given.preprocess,
                keep=keep if k == top_k[0] else (),
                batch_size=given.batch_size,
                random_state=random_state,
            )
    main = {name: found[name, top_k[0]] for name in given.layers}
    several = len(top_k) > 1
    named = [(f"{name} k={k}" if several else name, eye) for (name, k), eye in found.items()]
    drawn: dict[str, Figure] = {}
    for name, eye in main.items():
        drawn |= _layer_figures(given, name, eye)
        if several:
            drawn[f"channels_{file_name(name)}"] = _sheet_of(
                {f"k = {k}": found[name, k] for k in top_k}
            )
    if len(main) > 1:
        drawn["layers"] = _sheet_of(main)
    drawn["losses"] = figures.losses(
        {
            f"facet {c + 1}/{of}/": eye.losses[:, c].tolist()
            for of, eye in named
            for c in range(len(eye.images))
        }
    )
    columns = max(
        (len(e.score.logits[0]) for _, e in named if e.score.logits is not None), default=0
    )
    outputs = [given.outputs.get(i, f"output {i}") for i in range(columns)]
    scores = tables.facet_scores(named, given.names, outputs)
    return Sheet(
        "The Mind's Eye",
        "What a set of images has in common in a layer: the images are grouped by the layer's "
        "activations; each facet's image is optimised from the mean of the images that stand for "
        "it until the layer's strongest channels answer as to these.",
        drawn,
        {
            "scores": scores,
            "members": tables.facet_members(named, given.names),
            "channels": tables.facet_channels(named),
        },
        [_told(row) for row in scores],
    ), main


def direction_sheet(
    run: FinishedRun,
    subject: Subject,
    categories: Sequence[str],
    layer: str,
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> Sheet:
    """Show what the network sees along the directions of categories in a layer, from noise.

    The component of `h = Lambda F` along `mu` is that of `F` along `Lambda^T mu`, so an image is
    optimised for the latter, averaged over regions.

    Args:
        run: what was learned of the network.
        subject: the run's network and images.
        categories: names.
        layer: name as in the run.
        schedule: of the optimisation; its lambda has no part in this.
        random_state: seed of the noise and the views.
    """
    schedule = schedule or Schedule()
    found, learned, module = run.found, run.learned(), subject.module
    projection = learned.regional[layer]
    device = next(module.parameters()).device
    first = subject.dataset[0][0]
    channels, height, width = first.shape
    start = noise(1, channels, (height, width), random_state=random_state).to(device)
    rows: list[Row] = []
    pictures, told = [], []
    for name in categories:
        c = found.categories.index(name)
        mu = found.frame.directions[c]
        objective = direction(subject.layers[layer], (projection.Lambda_.t() @ mu).to(device))
        image = schedule.run(
            module,
            start,
            -objective,
            preprocess=subject.preprocess,
            random_state=random_state,
            describe=f"mu of {name}",
        ).images
        real = torch.stack(
            [subject.dataset[i][0] for i in (found.y == c).nonzero().flatten().tolist()]
        ).to(device)
        component = [_component(subject, objective, x) for x in (image, start, real)]
        said, p = _said(subject, image, found.categories)
        rows.append(
            {
                "category": name,
                "layer": layer,
                "component along mu, image": float(component[0]),
                "noise": float(component[1]),
                "best real": float(component[2].max()),
                "image / best real": float(component[0] / component[2].max()),
                "network says": said,
                "probability": p,
            }
        )
        pictures.append(image[0].cpu())
        told.append(f"{said.replace('_', ' ')} {100 * p:.0f} %")
    return Sheet(
        "Along the directions of categories",
        f"From noise, optimised for the component of the regional features of {layer} along the "
        "direction of each category; below, what the network says of it.",
        _direction_figures(layer, categories, pictures, told),
        {"directions": rows},
        [
            f"{row['category']}: {row['image / best real']:.2f} times the best real image, network "
            f"says {row['network says']} ({row['probability']:.1%})"
            for row in rows
        ],
    )


def film_frames(eye: MindsEye) -> Iterator[NDArray[np.uint8]]:
    """Yield the facets of a result side by side after each kept iteration, `[height, width, 3]`."""
    last = eye.images
    scale = max(1, -(-_PIXELS // last.shape[2]))
    height, width = (2 * (-(-scale * x // 2)) for x in last.shape[2:])
    for _, images in sorted(eye.kept.items()):
        large = functional.interpolate(images.cpu(), (height, width), mode="nearest")
        if large.shape[1] not in (1, 3):
            raise ValueError(f"film: images must have 1 or 3 channels, got {large.shape[1]}")
        row = torch.cat(list(large.expand(-1, 3, -1, -1)), dim=2)
        yield (255 * row.permute(1, 2, 0)).round().byte().numpy()


def _facets(given: ImageSet, name: str, count: int, random_state: int) -> Facets:
    rows = layer_rows(
        given.module,
        given.layers[name],
        given.images,
        regions=given.regions.get(name),
        preprocess=given.preprocess,
        batch_size=given.batch_size,
    )
    return find_facets(rows, count, random_state=random_state)


def _layer_figures(given: ImageSet, name: str, eye: MindsEye) -> dict[str, Figure]:
    chosen = eye.facets.facets
    rows = [f"facet {c + 1}" for c in range(len(chosen))]
    s = eye.score
    pictures, told = [], []
    for c, facet in enumerate(chosen):
        best = int(s.real[c].argmax())
        near = int(facet.members[0])
        pictures.append([eye.initial[c], eye.images[c], given.images[near], given.images[best]])
        values = (s.initial[c], s.rendered[c], s.real[c, near], s.real[c, best])
        told.append([f"activation {float(x):.3g}" for x in values])
    steps = sorted(eye.kept)
    strip = [steps[round(x)] for x in np.linspace(0, len(steps) - 1, min(STRIP, len(steps)))]
    file = file_name(name)
    return {
        f"embedding_{file}": figures.facet_embedding(
            eye.facets.points,
            eye.facets.labels,
            eye.facets.centres,
            [f.members for f in chosen],
            [f.weights for f in chosen],
            [given.images[f.members] for f in chosen],
        ),
        f"facets_{file}": figures.picture_sheet(
            pictures, rows, ["initial", "image", "nearest real", "best real"], told
        ),
        f"iterations_{file}": figures.picture_sheet(
            [[eye.kept[t][c] for t in strip] for c in range(len(chosen))],
            rows,
            [f"{t}" if t else "start" for t in strip],
        ),
    }


def _sheet_of(eyes: Mapping[str, MindsEye]) -> Figure:
    """The images of all facets, a column for each named result."""
    count = len(next(iter(eyes.values())).images)
    return figures.picture_sheet(
        [[eye.images[c] for eye in eyes.values()] for c in range(count)],
        [f"facet {c + 1}" for c in range(count)],
        list(eyes),
    )


def _component(subject: Subject, objective: Objective, images: Tensor) -> Tensor:
    return measure(
        subject.module,
        images,
        objective,
        preprocess=subject.preprocess,
        batch_size=subject.batch_size,
    )


def _direction_figures(
    layer: str, categories: Sequence[str], pictures: Sequence[Tensor], told: Sequence[str]
) -> dict[str, Figure]:
    """Sheets of five pictures at most."""
    drawn = {}
    for b in range(0, len(pictures), 5):
        name = f"directions_{file_name(layer)}{f'_{b // 5 + 1}' if len(pictures) > 5 else ''}"
        heads = [x.replace("_", " ") for x in categories[b : b + 5]]
        drawn[name] = figures.picture_sheet([pictures[b : b + 5]], [""], heads, [told[b : b + 5]])
    return drawn


def _said(subject: Subject, image: Tensor, categories: Sequence[str]) -> tuple[str, float]:
    with torch.no_grad():
        z = subject.module(subject.preprocess(image))[0]
    columns = range(len(categories)) if subject.outputs is None else subject.outputs
    best = int(z.argmax())
    names = dict(zip(columns, categories, strict=True))
    return names.get(best, f"output {best}"), float(z.softmax(0)[best])


def _told(row: Mapping[str, Any]) -> str:
    def number(name: str) -> str:
        return "undefined" if row[name] is None else f"{row[name]:.2f}"

    said = (
        ""
        if row["network says"] is None
        else (f"; network says {row['network says']} ({row['probability']:.1%})")
    )
    return (
        f"{row['of']}, facet {row['facet']}: target channels {number('image / initial')} times the "
        f"initial image's activation, {number('image / best real')} times the best real one's{said}"
    )
