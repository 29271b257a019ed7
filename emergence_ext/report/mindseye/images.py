"""The images that are looked at together: those of a folder, or of a category of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from emergence_ext.data import image_set
from emergence_ext.mindseye import Preprocess
from emergence_ext.network import load_model, preprocess, published_size, read_origin
from emergence_ext.run import Emergence, FinishedRun, Subject

logger = logging.getLogger(__name__)


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


def folder_images(
    folder: Path,
    model: str,
    layers: Sequence[str],
    *,
    weights: Path | None = None,
    size: int | None = None,
    prepared: str = "auto",
    output: str | None = None,
    device: str = "cpu",
    random_state: int = 0,
) -> ImageSet:
    """Read the images of a folder, whatever their category, and load a network beside them.

    Args:
        folder: of images.
        model, weights: as `network.load_model` takes them.
        layers: dotted, or the paper's names.
        size: side in pixels; None: that of the training, where the weights say it, or that which
            the network is published for, or else 224.
        output: likewise.
        prepared: name for `network.preprocess`; auto: likewise, or the model's own.
        device: of network and images.
        random_state: seed of weights that are not given.

    Raises:
        ValueError: no images there, or a network that takes neither one nor three channels.
    """
    origin = read_origin(weights)
    size = origin.size_for(size, size or published_size(model, weights))
    samples = image_set(folder, size=size)
    loaded = load_model(
        model, weights=weights, image_size=size, output=output, random_state=random_state
    )
    pixels = torch.stack([*samples.read(range(len(samples)))])
    return ImageSet(
        loaded.module.to(device),
        {name: loaded.layers.get(name, name) for name in layers},
        _as_taken(pixels, loaded.module).to(device),
        samples.names,
        preprocess(origin.preprocess_for(prepared, loaded.preprocess)),
    )


def category_images(
    run: FinishedRun,
    subject: Subject,
    categories: Sequence[str],
    layers: Sequence[str],
    *,
    points: bool = False,
    facets: int = 1,
) -> Iterator[tuple[str, ImageSet]]:
    """Yield the images of each category of a run, one after another, with its name.

    Args:
        run: it knows the images' categories.
        subject: the run's network, where images go to, and images.
        categories, layers: names as in the run.
        points: of each image only regions that are reliable knowledge points in the finished
            network; images without any in one of the layers are left out.
        facets: images that each category has to have.

    Raises:
        ValueError: before the first: too few images of a category, or no point in any of them.
    """
    e = run.emergence
    chosen = _chosen(e, categories, layers, points)
    few = next((name for name, (index, _) in chosen.items() if len(index) < facets), None)
    if few is not None:
        raise ValueError(
            f"facets: expected at most {len(chosen[few][0])}, the images of {few}, got "
            f"{facets}; leave it out with --category"
        )
    device = next(subject.module.parameters()).device
    for category, (index, regions) in chosen.items():
        yield (
            category,
            ImageSet(
                subject.module,
                {name: subject.layers[name] for name in layers},
                torch.stack([subject.dataset[i][0] for i in index.tolist()]).to(device),
                [e.names[i] for i in index.tolist()],
                subject.preprocess,
                output_names(subject, e.categories),
                {name: x.unflatten(1, e.grid).to(device) for name, x in regions.items()},
                subject.batch_size,
            ),
        )


def output_names(subject: Subject, categories: Sequence[str]) -> dict[int, str]:
    """Name the columns of a network's output that stand for categories."""
    columns = range(len(categories)) if subject.outputs is None else subject.outputs
    return dict(zip(columns, categories, strict=True))


def hidden_channels(images: Tensor) -> list[str]:
    """Say of images `[n, channels, H', W']` what pictures of them do not show."""
    channels = images.shape[1]
    return [] if channels in (1, 3) else [f"Pictures show the mean of the {channels} channels."]


def _as_taken(pixels: Tensor, module: nn.Module) -> Tensor:
    """RGB images `[N, 3, H', W']` with as many channels as the network's first convolution takes.

    Raises:
        ValueError: that is neither one nor three.
    """
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels == 3:
        return pixels
    if first.in_channels != 1:
        raise ValueError(
            f"images: the network takes images of {first.in_channels} channels, and those of a "
            "folder have three; call emergence_ext.mindseye.minds_eye from Python with such images"
        )
    # Luma of ITU-R BT.601, as Pillow's mode L.
    return torch.einsum("nchw,c->nhw", pixels, torch.tensor([0.299, 0.587, 0.114]))[:, None]


def _chosen(
    e: Emergence, categories: Sequence[str], layers: Sequence[str], points: bool
) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Images of each category, by index, and for each layer the regions that count, `[n, R]`."""
    chosen = {c: (e.y == e.categories.index(c)).nonzero().flatten() for c in categories}
    if not points:
        return {category: (index, {}) for category, index in chosen.items()}
    reliable = {name: e.reliable(-1, e.layers.index(name)) for name in layers}
    some = torch.stack([x.any(1) for x in reliable.values()]).all(0)
    chosen = {category: index[some[index]] for category, index in chosen.items()}
    where = ", ".join(layers) + (" at once" if len(layers) > 1 else "")
    if not any(len(index) for index in chosen.values()):
        raise ValueError(
            f"points: no image of {', '.join(categories)} has a reliable point in {where}"
        )
    for category, index in chosen.items():
        if not len(index):
            logger.warning(
                "%s is left out: none of its images has a reliable point in %s", category, where
            )
    return {
        category: (index, {name: x[index] for name, x in reliable.items()})
        for category, index in chosen.items()
        if len(index)
    }
