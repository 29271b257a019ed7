"""The sheet of facets: what a set of images has in common in layers of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn import functional

from emergence_ext import figures
from emergence_ext.mindseye import (
    Facets,
    MindsEye,
    Schedule,
    find_facets,
    layer_rows,
    minds_eye,
)
from emergence_ext.render import maps_of
from emergence_ext.report.look import Sheet
from emergence_ext.report.look.sheet import pictures
from emergence_ext.report.mindseye.images import ImageSet, hidden_channels
from emergence_ext.report.mindseye.rows import (
    facet_channels,
    facet_members,
    facet_note,
    facet_scores,
)
from emergence_ext.run import file_name

TOP_K: Final = 64
"""Channels that are optimised where nobody says how many, at most."""

STRIP: Final = 8
"""Iterations on the strip of a sequence."""

FRAMES: Final = 60
"""Iterations of a film."""

_TEXT: Final = (
    "What a set of images has in common in a layer: the images are grouped by the layer's "
    "activations; each facet's image is optimised from the mean of the images that stand for it "
    "until the layer's strongest channels answer as to these."
)
_PIXELS: Final = 224  # least side of a picture in a film
_FILM: Final = 1920  # largest side of a film


def facet_sheet(
    image_set: ImageSet,
    facets: int = 1,
    top_k: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> tuple[Sheet, dict[str, MindsEye]]:
    """Show the facets of images in every layer, and for every number of channels.

    Args:
        image_set: images and network.
        facets: number of facets.
        top_k: numbers of channels that are optimised; the first is shown in full. Left out: 64, or
            all of a layer that has fewer.
        schedule: of the optimisation.
        random_state: seed.

    Returns:
        The sheet, and what was found, by layer, of the first number of channels.

    Raises:
        ValueError: before anything is optimised: an unknown layer, a number of channels that a
            layer does not have, or more facets than a layer tells images apart.
    """
    schedule = schedule or Schedule()
    counts = _channel_counts(image_set, top_k)
    groups = {name: _groups(image_set, name, facets, random_state) for name in image_set.layers}
    keep = sorted({round(x) for x in np.linspace(0, schedule.steps, FRAMES + 1)})
    eyes = {
        (name, k): minds_eye(
            image_set.module,
            image_set.images,
            layer,
            facets=groups[name],
            top_k=k,
            schedule=schedule,
            regions=image_set.regions.get(name),
            preprocess=image_set.preprocess,
            keep=keep if k == counts[name][0] else (),
            batch_size=image_set.batch_size,
            random_state=random_state,
        )
        for name, layer in image_set.layers.items()
        for k in counts[name]
    }
    several = any(len(x) > 1 for x in counts.values())
    named = [(f"{name} k={k}" if several else name, eye) for (name, k), eye in eyes.items()]
    scores = facet_scores(named, image_set.names, _output_columns(image_set, named))
    sheet = Sheet(
        "The Mind's Eye",
        _TEXT,
        _facet_figures(image_set, counts, eyes, named),
        {
            "scores": scores,
            "members": facet_members(named, image_set.names),
            "channels": facet_channels(named),
        },
        [*map(facet_note, scores), *hidden_channels(image_set.images)],
    )
    return sheet, {name: eyes[name, counts[name][0]] for name in image_set.layers}


def film_frames(eye: MindsEye) -> Iterator[NDArray[np.uint8]]:
    """Yield the facets of a result in a grid after each kept iteration, `[height, width, 3]`.

    Height and width are even, as films need it, and stay below 1,920.
    """
    count, _, height, width = eye.images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    scale = max(1.0, float(np.ceil(_PIXELS / height)))
    scale = min(scale, _FILM / (columns * width), _FILM / (rows * height))
    side = (2 * max(1, int(scale * height / 2)), 2 * max(1, int(scale * width / 2)))
    for _, images in sorted(eye.kept.items()):
        small = pictures(images).cpu()
        mode = "nearest" if scale >= 1 else "area"
        cells = functional.interpolate(small, side, mode=mode).expand(-1, 3, -1, -1)
        page = torch.cat([cells, cells.new_ones(rows * columns - count, 3, *side)])
        grid = page.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
        yield (255 * grid.flatten(0, 1).flatten(1, 2)).round().byte().numpy()


def _channel_counts(image_set: ImageSet, top_k: Sequence[int] | None) -> dict[str, list[int]]:
    """Numbers of channels by layer, of which each layer has so many."""
    if top_k is not None and not top_k:
        raise ValueError("top_k: expected a number of channels at least")
    maps = maps_of(
        image_set.module,
        image_set.layers.values(),
        image_set.images[:1],
        preprocess=image_set.preprocess,
    )
    counts = {}
    for name, layer in image_set.layers.items():
        K = maps[layer].shape[1]
        counts[name] = [min(TOP_K, K)] if top_k is None else list(dict.fromkeys(top_k))
        wrong = next((k for k in counts[name] if not 1 <= k <= K), None)
        if wrong is not None:
            raise ValueError(f"top_k: expected 1 to {K}, the channels of {name}, got {wrong}")
    return counts


def _groups(image_set: ImageSet, name: str, count: int, random_state: int) -> Facets:
    rows = layer_rows(
        image_set.module,
        image_set.layers[name],
        image_set.images,
        regions=image_set.regions.get(name),
        preprocess=image_set.preprocess,
        batch_size=image_set.batch_size,
    )
    return find_facets(rows, count, random_state=random_state)


def _output_columns(image_set: ImageSet, named: Sequence[tuple[str, MindsEye]]) -> list[str]:
    """Names of all columns of the network's output, those of none by their number."""
    logits = [eye.score.logits for _, eye in named if eye.score.logits is not None]
    columns = range(max((z.shape[1] for z in logits), default=0))
    return [image_set.outputs.get(i, f"output {i}") for i in columns]


def _facet_figures(
    image_set: ImageSet,
    counts: Mapping[str, Sequence[int]],
    eyes: Mapping[tuple[str, int], MindsEye],
    named: Sequence[tuple[str, MindsEye]],
) -> dict[str, Figure]:
    plots: dict[str, Figure] = {}
    for name, chosen in counts.items():
        plots |= _layer_figures(image_set, name, eyes[name, chosen[0]])
        if len(chosen) > 1:
            plots[f"channels_{file_name(name)}"] = _sheet_of(
                {f"k = {k}": eyes[name, k] for k in chosen}
            )
    main = {name: eyes[name, chosen[0]] for name, chosen in counts.items()}
    # Layers group the images each in its own way: facet 2 of one is not facet 2 of another.
    if len(main) > 1 and all(len(eye.images) == 1 for eye in main.values()):
        plots["layers"] = _sheet_of(main)
    losses = figures.losses(
        {
            f"facet/{of}/facet {c + 1}": eye.losses[:, c].tolist()
            for of, eye in named
            for c in range(len(eye.images))
        }
    )
    for axes in losses.axes:
        axes.set_xlabel("iteration")
    return {**plots, "losses": losses}


def _layer_figures(image_set: ImageSet, name: str, eye: MindsEye) -> dict[str, Figure]:
    chosen = eye.facets.facets
    rows = [f"facet {c + 1}" for c in range(len(chosen))]
    s = eye.score
    initial, optimised, real = (pictures(x) for x in (eye.initial, eye.images, image_set.images))
    rows_of_pictures, captions = [], []
    for c, facet in enumerate(chosen):
        best = int(s.real[c].argmax())
        near = int(facet.members[0])
        rows_of_pictures.append([initial[c], optimised[c], real[near], real[best]])
        values = (s.initial[c], s.rendered[c], s.real[c, near], s.real[c, best])
        captions.append([f"activation {float(x):.3g}" for x in values])
    steps = sorted(eye.kept)
    strip = [steps[round(x)] for x in np.linspace(0, len(steps) - 1, min(STRIP, len(steps)))]
    after = [pictures(eye.kept[t]) for t in strip]
    file = file_name(name)
    return {
        f"embedding_{file}": figures.facet_embedding(
            eye.facets.points,
            eye.facets.labels,
            eye.facets.centres,
            [f.members for f in chosen],
            [f.weights for f in chosen],
            [real[f.members] for f in chosen],
        ),
        f"facets_{file}": figures.picture_sheet(
            rows_of_pictures, rows, ["initial", "image", "nearest real", "best real"], captions
        ),
        f"iterations_{file}": figures.picture_sheet(
            [[x[c] for x in after] for c in range(len(chosen))],
            rows,
            [f"{t}" if t else "start" for t in strip],
        ),
    }


def _sheet_of(eyes: Mapping[str, MindsEye]) -> Figure:
    """The images of all facets, a column for each named result."""
    rows = list(zip(*(pictures(eye.images) for eye in eyes.values()), strict=True))
    return figures.picture_sheet(rows, [f"facet {c + 1}" for c in range(len(rows))], list(eyes))
