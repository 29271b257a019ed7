"""The sheets of the Mind's Eye: facets of a set of images, and directions of categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext import figures
from emergence_ext.method import RegionalProjection
from emergence_ext.mindseye import (
    Facets,
    MindsEye,
    Preprocess,
    Schedule,
    find_facets,
    layer_rows,
    logits_of,
    minds_eye,
)
from emergence_ext.render import direction, maps_of, measure, noise
from emergence_ext.report.files import Row
from emergence_ext.report.look.mindseye_rows import (
    direction_note,
    facet_channels,
    facet_members,
    facet_note,
    facet_scores,
)
from emergence_ext.report.look.sheet import Sheet, pictures
from emergence_ext.run import FinishedRun, Subject, file_name

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
    top_k: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> tuple[Sheet, dict[str, MindsEye]]:
    """Show the facets of images in every layer, and for every number of channels.

    Args:
        given: images and network.
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
    counts = _channel_counts(given, top_k)
    groups = {name: _groups(given, name, facets, random_state) for name in given.layers}
    keep = sorted({round(x) for x in np.linspace(0, schedule.steps, FRAMES + 1)})
    found = {
        (name, k): minds_eye(
            given.module,
            given.images,
            layer,
            facets=groups[name],
            top_k=k,
            schedule=schedule,
            regions=given.regions.get(name),
            preprocess=given.preprocess,
            keep=keep if k == counts[name][0] else (),
            batch_size=given.batch_size,
            random_state=random_state,
        )
        for name, layer in given.layers.items()
        for k in counts[name]
    }
    several = any(len(x) > 1 for x in counts.values())
    named = [(f"{name} k={k}" if several else name, eye) for (name, k), eye in found.items()]
    scores = facet_scores(named, given.names, _output_columns(given, named))
    sheet = Sheet(
        "The Mind's Eye",
        _TEXT,
        _facet_figures(given, counts, found, named),
        {
            "scores": scores,
            "members": facet_members(named, given.names),
            "channels": facet_channels(named),
        },
        [*map(facet_note, scores), *_hidden_channels(given.images)],
    )
    return sheet, {name: found[name, counts[name][0]] for name in given.layers}


def direction_sheet(
    run: FinishedRun,
    subject: Subject,
    categories: Sequence[str],
    layers: Sequence[str],
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> Sheet:
    """Show what the network sees along the directions of categories in layers, from noise.

    The component of `h = scale Lambda F` along `mu` is `scale |Lambda^T mu|` times that of `F`
    along `Lambda^T mu`, so an image is optimised for the latter, averaged over regions.

    Args:
        run: what was learned of the network.
        subject: the run's network and images.
        categories: names.
        layers: names as in the run.
        schedule: of the optimisation; its lambda has no part in this.
        random_state: seed of the noise and the views.
    """
    regional = run.learned().regional
    device = next(subject.module.parameters()).device
    channels, height, width = subject.dataset[0][0].shape
    start = noise(1, channels, (height, width), random_state=random_state).to(device)
    schedule = schedule or Schedule()
    rows: list[Row] = []
    drawn: dict[str, Figure] = {}
    for layer in layers:
        made = [
            _along(run, subject, regional[layer], layer, name, start, schedule, random_state)
            for name in categories
        ]
        rows += [row for row, _ in made]
        drawn |= _direction_figures(layer, [row for row, _ in made], [image for _, image in made])
    return Sheet(
        "Along the directions of categories",
        "From noise, optimised for the component of the regional features of a layer along the "
        "direction of each category; below, what the network says of it.",
        drawn,
        {"directions": rows},
        [*map(direction_note, rows), *_hidden_channels(start)],
    )


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
        shown = pictures(images).cpu()
        mode = "nearest" if scale >= 1 else "area"
        cells = functional.interpolate(shown, side, mode=mode).expand(-1, 3, -1, -1)
        page = torch.cat([cells, cells.new_ones(rows * columns - count, 3, *side)])
        grid = page.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
        yield (255 * grid.flatten(0, 1).flatten(1, 2)).round().byte().numpy()


def output_names(subject: Subject, categories: Sequence[str]) -> dict[int, str]:
    """Name the columns of a network's output that stand for categories."""
    columns = range(len(categories)) if subject.outputs is None else subject.outputs
    return dict(zip(columns, categories, strict=True))


def _channel_counts(given: ImageSet, top_k: Sequence[int] | None) -> dict[str, list[int]]:
    """Numbers of channels by layer, of which each layer has so many."""
    if top_k is not None and not top_k:
        raise ValueError("top_k: expected a number of channels at least")
    maps = maps_of(
        given.module, given.layers.values(), given.images[:1], preprocess=given.preprocess
    )
    counts = {}
    for name, layer in given.layers.items():
        K = maps[layer].shape[1]
        counts[name] = [min(TOP_K, K)] if top_k is None else list(dict.fromkeys(top_k))
        wrong = next((k for k in counts[name] if not 1 <= k <= K), None)
        if wrong is not None:
            raise ValueError(f"top_k: expected 1 to {K}, the channels of {name}, got {wrong}")
    return counts


def _groups(given: ImageSet, name: str, count: int, random_state: int) -> Facets:
    rows = layer_rows(
        given.module,
        given.layers[name],
        given.images,
        regions=given.regions.get(name),
        preprocess=given.preprocess,
        batch_size=given.batch_size,
    )
    return find_facets(rows, count, random_state=random_state)


def _output_columns(given: ImageSet, named: Sequence[tuple[str, MindsEye]]) -> list[str]:
    """Names of all columns of the network's output, those of none by their number."""
    logits = [eye.score.logits for _, eye in named if eye.score.logits is not None]
    columns = range(max((z.shape[1] for z in logits), default=0))
    return [given.outputs.get(i, f"output {i}") for i in columns]


def _facet_figures(
    given: ImageSet,
    counts: Mapping[str, Sequence[int]],
    found: Mapping[tuple[str, int], MindsEye],
    named: Sequence[tuple[str, MindsEye]],
) -> dict[str, Figure]:
    drawn: dict[str, Figure] = {}
    for name, chosen in counts.items():
        drawn |= _layer_figures(given, name, found[name, chosen[0]])
        if len(chosen) > 1:
            drawn[f"channels_{file_name(name)}"] = _sheet_of(
                {f"k = {k}": found[name, k] for k in chosen}
            )
    main = {name: found[name, chosen[0]] for name, chosen in counts.items()}
    # Layers group the images each in its own way: facet 2 of one is not facet 2 of another.
    if len(main) > 1 and all(len(eye.images) == 1 for eye in main.values()):
        drawn["layers"] = _sheet_of(main)
    losses = figures.losses(
        {
            f"facet/{of}/facet {c + 1}": eye.losses[:, c].tolist()
            for of, eye in named
            for c in range(len(eye.images))
        }
    )
    for axes in losses.axes:
        axes.set_xlabel("iteration")
    return {**drawn, "losses": losses}


def _layer_figures(given: ImageSet, name: str, eye: MindsEye) -> dict[str, Figure]:
    chosen = eye.facets.facets
    rows = [f"facet {c + 1}" for c in range(len(chosen))]
    s = eye.score
    initial, images, real = (pictures(x) for x in (eye.initial, eye.images, given.images))
    shown, told = [], []
    for c, facet in enumerate(chosen):
        best = int(s.real[c].argmax())
        near = int(facet.members[0])
        shown.append([initial[c], images[c], real[near], real[best]])
        values = (s.initial[c], s.rendered[c], s.real[c, near], s.real[c, best])
        told.append([f"activation {float(x):.3g}" for x in values])
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
            shown, rows, ["initial", "image", "nearest real", "best real"], told
        ),
        f"iterations_{file}": figures.picture_sheet(
            [[x[c] for x in after] for c in range(len(chosen))],
            rows,
            [f"{t}" if t else "start" for t in strip],
        ),
    }


def _sheet_of(eyes: Mapping[str, MindsEye]) -> Figure:
    """The images of all facets, a column for each named result."""
    shown = list(zip(*(pictures(eye.images) for eye in eyes.values()), strict=True))
    return figures.picture_sheet(shown, [f"facet {c + 1}" for c in range(len(shown))], list(eyes))


def _along(
    run: FinishedRun,
    subject: Subject,
    projection: RegionalProjection,
    layer: str,
    category: str,
    start: Tensor,
    schedule: Schedule,
    random_state: int,
) -> tuple[Row, Tensor]:
    """What came of noise `[1, channels, H', W']` along a category's direction, and the image."""
    found, c = run.emergence, run.emergence.categories.index(category)
    vector = projection.Lambda_.t() @ found.frame.directions[c]
    objective = direction(subject.layers[layer], vector.to(start.device))
    image = schedule.run(
        subject.module,
        start,
        -objective,
        preprocess=subject.preprocess,
        random_state=random_state,
        describe=f"mu of {category}, {layer}",
    ).images
    real = [subject.dataset[i][0] for i in (found.y == c).nonzero().flatten().tolist()]
    # The objective's vector is brought to length 1.
    unit = projection.scale_ * float(vector.norm())
    everything = torch.cat([image, start, torch.stack(real).to(start.device)])
    h = unit * measure(
        subject.module,
        everything,
        objective,
        preprocess=subject.preprocess,
        batch_size=subject.batch_size,
    )
    made, before, best = float(h[0]), float(h[1]), float(h[2:].max())
    said, p = _said(subject, image, found.categories)
    row = {
        "category": category,
        "layer": layer,
        "component along mu, image": made,
        "noise": before,
        "best real": best,
        "image / best real": made / best if best > 0 else None,
        "network says": said,
        "probability": p,
    }
    return row, pictures(image)[0].cpu()


def _direction_figures(
    layer: str, rows: Sequence[Row], images: Sequence[Tensor]
) -> dict[str, Figure]:
    """Sheets of five pictures at most."""
    drawn = {}
    heads = [row["category"].replace("_", " ") for row in rows]
    told = [
        f"{row['network says'].replace('_', ' ')} {100 * row['probability']:.0f} %"
        if row["network says"]
        else ""
        for row in rows
    ]
    for b in range(0, len(images), 5):
        name = f"directions_{file_name(layer)}{f'_{b // 5 + 1}' if len(images) > 5 else ''}"
        shown, told_here = [images[b : b + 5]], [told[b : b + 5]]
        drawn[name] = figures.picture_sheet(shown, [""], heads[b : b + 5], told_here)
    return drawn


def _said(
    subject: Subject, image: Tensor, categories: Sequence[str]
) -> tuple[str | None, float | None]:
    """What the network takes an image `[1, channels, H', W']` for, and how probable that is."""
    z = logits_of(subject.module, image, preprocess=subject.preprocess)
    if z is None:
        return None, None
    best = int(z[0].argmax())
    name = output_names(subject, categories).get(best, f"output {best}")
    return name, float(z[0].softmax(0)[best])


def _hidden_channels(images: Tensor) -> list[str]:
    channels = images.shape[1]
    return [] if channels in (1, 3) else [f"Pictures show the mean of the {channels} channels."]
