"""From a network and images to arrays: regional features of layers, sample features, logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from emergence_ext.data import MapStyle, Samples, as_samples
from emergence_ext.network.batches import in_batches, read_ahead, stacked
from emergence_ext.network.calling import classify, fitted, preserved
from emergence_ext.network.feature_set import FeatureSet
from emergence_ext.network.hooks import (
    find_head,
    find_layers,
    live_statistics,
    recorder,
    regions,
)
from emergence_ext.network.layout import Layout, read_layouts, strips
from emergence_ext.settings import Precision
from emergence_ext.store import ShardWriter, in_words, remove_rows

logger = logging.getLogger(__name__)

Grid = Literal["last"] | tuple[int, int]
_Batches = Generator[tuple[slice, dict[str, Tensor]], None, None]


def extract(
    module: nn.Module,
    dataset: MapStyle | Iterable[Any],
    layers: Mapping[str, str] | Sequence[str],
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    last_linear: str | None = None,
    outputs: Sequence[int] | None = None,
    grid: Grid = "last",
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
    random_state: int = 0,
    example: Tensor | None = None,
    keep: Path | None = None,
    made_from: Mapping[str, str] | None = None,
) -> FeatureSet:
    """Run a network once over a data set and keep regional features, sample features and logits.

    The module is run in eval mode without gradients and comes back as it was. A layer's output is
    taken as the module gives it: name modules whose output is after the ReLU. Tokens are regions
    too, without those in front that are no places. Which axes are places, and that they are those
    of the image in the order of rows, is found by changing strips of the first image (`layout.py`).

    Args:
        module: the network, images `[B, 3, H, W]` to logits `[B, C]`.
        dataset: map-style or iterable, (image `[3, H, W]` in 0..1, label); see `data.as_samples`,
            which also has worker processes read it.
        layers: dotted names, or the name to use -> dotted name; first to last layer.
        preprocess: applied to every batch of images before the network.
        last_linear: module whose input is the sample feature; by default the fully connected layer
            or convolution that gives the network's output (`find_head`). An input with places is
            averaged over them.
        outputs: columns of the network's output that are the categories, in their order.
        grid: `(H, W)` that every layer is resized to by adaptive average pooling; `"last"` takes
            that of the last listed layer.
        batch_size: images at a time; halved with a warning where memory runs out.
        precision: `"bfloat16"` runs the network in autocast, which is quicker and coarser.
        device: where to run; the module is moved there and back. By default where it is.
        random_state: seed of the random state that the network sees.
        example: image `[channels, H, W]` in 0..1 that the network is tried on in place of the first
            of the data set, where that may be a strange one.
        keep: path without a suffix where the result is kept, as by `FeatureSet.save`, and what is
            done of it meanwhile, in shards: who was killed goes on with the next.
        made_from: digest of each thing that the features depend on, kept with them; what is there
            of others is made anew.

    Raises:
        StoreError: what is kept is damaged.
        ValueError: an unknown or unusable layer; NaN or infinite values, with image and layer; no
            images; categories that do not match the outputs.
    """
    named = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
    if not named:
        raise ValueError("layers: expected at least one layer, got none")
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
    find_layers(module, named.values())
    samples = as_samples(dataset)
    with preserved(module), moved_to(module, device) as target, torch.no_grad():
        run = ForwardPass(module, preprocess, outputs, precision, target)
        image = run.images(samples, slice(1)) if example is None else example[None]
        first = run.prepared(image)
        head = last_linear or _head(run, first)
        layouts = read_layouts(module, first, find_layers(module, named.values()))
        shape, categories = _probe(
            run, samples, image, named, head, layouts, grid, _has_categories(dataset)
        )
        batches = partial(
            _stream, run, samples, named, head, layouts, shape, batch_size, random_state
        )
        about = {"grid": shape, "names": list(samples.names), "categories": categories}
        if keep is None:
            return _in_memory(batches(0), len(samples), about)
        origins = dict(made_from or {})
        # Where batches are divided is in the last bits of what the network gives.
        with _rows(keep, {**origins, "batch_size": str(batch_size)}) as rows:
            # Numbers that a network draws depend on all batches before.
            anew = len(rows) > 0 and _draws(run, image)
            _append(rows, batches(0 if anew else len(rows)))
    return FeatureSet.finish(keep, list(named), about, origins)


def _in_memory(batches: _Batches, count: int, about: Mapping[str, Any]) -> FeatureSet:
    """The features of all batches."""
    arrays: dict[str, Tensor] = {}
    with closing(batches):  # also where something is raised: it holds hooks
        for batch, parts in batches:
            for name, part in parts.items():
                if name not in arrays:
                    arrays[name] = torch.empty((count, *part.shape[1:]), dtype=part.dtype)
                arrays[name][batch] = part
    return FeatureSet.of_arrays(arrays, about)


def _append(rows: ShardWriter, batches: _Batches) -> None:
    """Keep the features of all batches, less the rows that are there."""
    with closing(batches):
        for batch, parts in batches:
            there = len(rows) - batch.start
            if there < batch.stop - batch.start:
                rows.append({name: part[there:] for name, part in parts.items()})


def _rows(keep: Path, made_from: Mapping[str, str]) -> ShardWriter:
    """What is kept of the features so far, where it is of the same things."""
    different = remove_rows(keep, made_from)
    if different:
        logger.warning("%s is made anew: it was of other %s", keep, in_words(different))
    return ShardWriter(keep, made_from)


def _draws(run: ForwardPass, image: Tensor) -> bool:
    """Whether the network draws random numbers."""

    def states() -> list[Tensor]:
        device = run.device
        return [
            torch.get_rng_state(),
            *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []),
        ]

    before = states()
    run.logits(image)
    return not all(map(torch.equal, before, states()))


@dataclass(frozen=True)
class ForwardPass:
    """How one batch of images `[B, 3, H, W]` goes through the network."""

    module: nn.Module
    preprocess: Callable[[Tensor], Tensor] | None
    outputs: Sequence[int] | None
    precision: Precision
    device: torch.device

    def images(self, samples: Samples, batch: slice) -> Tensor:
        """Stack the images of a batch, `[B, 3, H, W]`.

        Raises:
            ValueError: images of different sizes.
        """
        images = [samples[index][0] for index in range(*batch.indices(len(samples)))]
        return stacked(images, samples.names[batch])

    def prepared(self, images: Tensor) -> Tensor:
        """Bring images to the device and into the form that the network expects."""
        images = images.to(self.device)
        if self.preprocess is not None:
            images = self.preprocess(images)
        images = fitted(self.module, images)
        # Convolutions on the CPU are quicker where the channels are innermost.
        return images.to(memory_format=torch.channels_last) if images.ndim == 4 else images

    def logits(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` of images that are not yet preprocessed."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            result = classify(self.module, self.prepared(images))
        if self.outputs is None:
            return result.float()
        wrong = [column for column in self.outputs if not 0 <= column < result.shape[1]]
        if wrong:
            raise ValueError(
                f"outputs: the network has outputs 0..{result.shape[1] - 1}, not {wrong}"
            )
        return result[:, list(self.outputs)].float()


def _head(run: ForwardPass, image: Tensor) -> str:
    name, gives_output = find_head(run.module, image)
    if not gives_output:
        logger.warning(
            "the output of the network is not that of %r, whose input is taken as sample feature; "
            "if it ends in a softmax, its outputs are no logits",
            name,
        )
    return name


def _probe(
    run: ForwardPass,
    samples: Samples,
    image: Tensor,
    named: dict[str, str],
    head: str,
    layouts: Mapping[str, Layout],
    grid: Grid,
    has_categories: bool,
) -> tuple[tuple[int, int], list[str]]:
    """Grid and categories, from passes over two images that also find what is not usable."""
    images = strips(image)
    with recorder(
        run.module,
        named.values(),
        inputs=[head],
        keep=lambda maps: maps.shape[2:],
        layouts=layouts,
    ) as record:
        z, other = (_logits_of_pair(run, images[[0, k]]) for k in (2, 4))
    silent = [name for name in named.values() if name not in record.outputs]
    silent += [head] if head not in record.inputs else []
    if silent:
        raise ValueError(f"features: layer {silent[0]!r} never runs in the forward pass")
    f = flat_features(record.inputs[head], head)
    for what, part in (("the sample feature", f), ("the logits", z)):
        _check_batch(part, what, (2, *part.shape[1:]))
    scale = float(z.abs().nan_to_num().max())  # what is not finite is refused with its image later
    if not torch.allclose(z[0], other[0], 1e-3, 1e-4 * scale, equal_nan=True):
        live = live_statistics(run.module)
        logger.warning(
            "what the network gives for an image depends on the other images of its batch, and so "
            "does the result%s",
            f": {', '.join(live)} use statistics of the batch" if live else "",
        )
    if grid == "last":
        height, width = record.outputs[list(named.values())[-1]]
    else:
        height, width = grid
    categories = list(samples.categories)
    if len(categories) != z.shape[1]:
        if has_categories or max(samples.labels) >= z.shape[1]:
            raise ValueError(
                f"outputs: the data set has {len(categories)} categories and the network "
                f"{z.shape[1]} outputs. Say which output stands for which category by a class map "
                "(`outputs`)."
            )
        categories = [str(column) for column in range(z.shape[1])]
    return (int(height), int(width)), categories


def _logits_of_pair(run: ForwardPass, images: Tensor) -> Tensor:
    torch.manual_seed(0)  # so that a network that draws numbers draws the same for either pair
    return run.logits(images)


def _check_batch(part: Tensor, what: str, expected: Sequence[int]) -> None:
    """Refuse what has another shape, before it is copied to images that it is not of."""
    if list(part.shape) != list(expected):
        raise ValueError(
            f"features: {what} has shape {list(part.shape)} for {expected[0]} images, expected "
            f"{list(expected)}: one row for each image"
        )


def _stream(
    run: ForwardPass,
    samples: Samples,
    named: dict[str, str],
    head: str,
    layouts: Mapping[str, Layout],
    grid: tuple[int, int],
    batch_size: int,
    random_state: int,
    start: int,
) -> _Batches:
    """Yield batches from one image on, and their arrays, named as those of a `FeatureSet`."""
    rows: dict[str, Sequence[int]] = {}
    keep = partial(regions, grid=grid)
    with (
        recorder(run.module, named.values(), inputs=[head], keep=keep, layouts=layouts) as record,
        read_ahead(samples, start) as images,
    ):
        torch.manual_seed(random_state)
        for batch, z in in_batches(
            lambda batch: run.logits(images(batch)),
            len(samples),
            batch_size,
            description="features",
            start=start,
        ):
            parts = {f"layer {name!r}": record.outputs[dotted] for name, dotted in named.items()}
            parts["the sample feature"] = flat_features(record.inputs[head], head)
            parts["the logits"] = z
            for what, part in parts.items():
                row = rows.setdefault(what, part.shape[1:])
                _check_batch(part, what, (batch.stop - batch.start, *row))
                check_finite(part, what, samples.names[batch])
            layers = {f"layers/{name}": parts[f"layer {name!r}"].float() for name in named}
            f, y = parts["the sample feature"], torch.tensor(samples.labels[batch])
            yield batch, {**layers, "f": f, "z": z, "y": y}


def flat_features(f: Tensor, head: str) -> Tensor:
    """Give the input of the last linear layer as `[B, E]`, averaged over places and tokens.

    Raises:
        ValueError: another shape.
    """
    if f.ndim == 4:
        return f.float().mean(dim=(2, 3))
    if f.ndim == 3:
        return f.float().mean(dim=1)
    if f.ndim != 2:
        raise ValueError(
            f"features: the input of {head!r} has shape {list(f.shape)}, expected the sample "
            "feature [B, E]"
        )
    return f.float()


def check_finite(part: Tensor, what: str, names: Sequence[str]) -> None:
    """Refuse values `[B, ...]` that are not finite, and name the image they are of.

    Raises:
        ValueError: a value that is not finite.
    """
    finite = part.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = names[int(finite.logical_not().nonzero()[0])]
        raise ValueError(
            f"features: NaN or infinite values in {what} for image {bad!r}. Check that image, the "
            "weights and the preprocessing."
        )


def _has_categories(dataset: MapStyle | Iterable[Any]) -> bool:
    return any(getattr(dataset, name, None) is not None for name in ("categories", "classes"))


@contextmanager
def moved_to(module: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Have the module on a device for the length of the block."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    home = torch.device("cpu") if first is None else first.device
    target = home if device is None else torch.device(device)
    if target == home:
        yield target
        return
    try:
        module.to(target)
        yield target
    finally:
        module.to(home)
