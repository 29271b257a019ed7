"""From a network and images to arrays: regional features of layers, sample features, logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy
import torch
from torch import Tensor, nn

from emergence_ext import parallel
from emergence_ext.data import ONE_OUTPUT, MapStyle, Samples, as_samples
from emergence_ext.lookup import require_kind
from emergence_ext.network.batches import in_batches, read_ahead
from emergence_ext.network.calling import preserved
from emergence_ext.network.feature_set import FeatureSet
from emergence_ext.network.forward_pass import (
    ForwardPass,
    check_batch,
    check_finite,
    flat_features,
    moved_to,
)
from emergence_ext.network.hooks import (
    find_head,
    find_layers,
    live_statistics,
    recorder,
    regions,
)
from emergence_ext.network.layout import Layout, read_layouts, strips
from emergence_ext.settings import Precision, require_count
from emergence_ext.store import Part, fill_rows, rows_per_shard

logger = logging.getLogger(__name__)

Grid = Literal["last"] | tuple[int, int]
MasksOnGrid = Callable[[Sequence[str], tuple[int, int]], Tensor]


class StreamOptions(TypedDict, total=False):
    """How a network is run over images.

    Attributes:
        preprocess: applied to every batch of images before the network.
        last_linear: module whose input is the sample feature; by default the fully connected layer
            or convolution that gives the network's output (`find_head`). An input with places is
            averaged over them.
        outputs: columns of the network's output that are the categories, in their order.
        grid: `(H, W)` that every layer is resized to by adaptive average pooling; `"last"`, the
            default, takes that of the last listed layer.
        batch_size: images at a time, 32 by default; halved with a warning where memory runs out.
        precision: `"bfloat16"` runs the network in autocast, quicker and coarser, where the
            hardware has such products; elsewhere it is float32, and the log says so.
        device: where to run; the module is moved there and back. By default where it is.
        random_state: seed of the random state that the network sees, which is one of each batch:
            any batch can be computed without those before it.
        example: image `[channels, H, W]` in 0..1 that the network is tried on in place of the first
            of the data set, where that may be a strange one.
        masks: which regions count, `[n, H W]` bool, from names of images and the grid `(H, W)`;
            None: all. The network sees whole images for all that.

    Examples:
        >>> from emergence_ext import network
        >>> options: network.StreamOptions = {"batch_size": 8, "grid": (4, 4)}
        >>> sorted(options)
        ['batch_size', 'grid']
    """

    preprocess: Callable[[Tensor], Tensor] | None
    last_linear: str | None
    outputs: Sequence[int] | None
    grid: Grid
    batch_size: int
    precision: Precision
    device: torch.device | str | None
    random_state: int
    example: Tensor | None
    masks: MasksOnGrid | None


def extract(
    module: nn.Module,
    dataset: MapStyle | Iterable[Any],
    layers: Mapping[str, str] | Sequence[str],
    *,
    keep: Path | None = None,
    made_from: Mapping[str, str] | None = None,
    **options: Unpack[StreamOptions],
) -> FeatureSet:
    """Run a network once over a data set and keep regional features, sample features and logits.

    Args:
        module, dataset, layers: as `feature_stream` takes them.
        keep: path without a suffix where the result is kept, as by `FeatureSet.save`, and what is
            done of it meanwhile, in shards: who was killed goes on with the next, and the processes
            of a job share them.
        made_from: digest of each thing that the features depend on, kept with them; what is there
            of others is made anew.
        options: see `StreamOptions`.

    Raises:
        StoreError: what is kept is damaged.
        ValueError: as `feature_stream`.

    Examples:
        >>> import emergence_ext as ee
        >>> net = ee.load_model("small_vgg28", num_classes=10)
        >>> images = [(torch.rand(1, 28, 28), label) for label in range(10)]  # any data set
        >>> features = ee.extract(net.module, images, net.layers)
        >>> features.z.shape, list(features.layers)
        (torch.Size([10, 10]), ['conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3'])
    """
    with feature_stream(module, dataset, layers, **options) as stream:
        if keep is None:
            return stream.all()
        origins = dict(made_from or {})
        stream.fill(keep, origins)
    parallel.first(lambda: FeatureSet.finish(keep, list(stream.layers), stream.about, origins))
    return FeatureSet.load(keep)


@contextmanager
def feature_stream(
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
    masks: MasksOnGrid | None = None,
) -> Iterator[FeatureStream]:
    """Hold a network ready to give regional features, sample features and logits of images.

    The module is run in eval mode without gradients and comes back as it was. A layer's output is
    taken as the module gives it: name modules whose output is after the ReLU. Tokens are regions
    too, without those in front that are no places. Which axes are places, and that they are those
    of the image in the order of rows, is found by changing strips of the first image (`layout.py`).

    Args:
        module: the network, images `[B, 3, H, W]` to logits `[B, C]`.
        dataset: map-style or iterable, (image `[3, H, W]` in 0..1, label); see `data.as_samples`,
            which also has worker processes read it.
        layers: dotted names, or the name to use -> dotted name; first to last layer.
        preprocess, last_linear, outputs, grid, batch_size, precision, device, random_state,
            example, masks: see `StreamOptions`.

    Raises:
        ValueError: an unknown or unusable layer; NaN or infinite values, with image and layer; no
            images; categories that do not match the outputs.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> with network.feature_stream(net, images, ["0"], batch_size=8) as stream:
        ...     print([(rows.start, rows.stop) for rows, _ in stream.batches()])
        ...
        [(0, 8), (8, 12)]
    """
    layers = [layers] if isinstance(layers, str) else layers
    require_kind(layers=(layers, Iterable))
    named = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
    if not named:
        raise ValueError("layers: expected at least one layer, got none")
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
    require_count("batch_size", batch_size, 1)
    if not isinstance(random_state, Integral):  # any one: a run takes digests for it
        raise TypeError(f"random_state: expected a whole number, got {random_state!r}")
    _require_grid(grid)
    find_layers(module, named.values())
    samples = as_samples(dataset)
    with preserved(module), moved_to(module, device) as target, torch.no_grad():
        run = ForwardPass(module, preprocess, outputs, precision, target)
        image = run.images(samples, slice(1)) if example is None else example[None]
        first = run.prepared(image)
        head = last_linear or _head(run, first)
        layouts = read_layouts(module, first, find_layers(module, named.values()))
        shape, categories, row_bytes = _probe(
            run, samples, image, named, head, layouts, grid, _has_categories(dataset)
        )
        mask = None if masks is None else masks(samples.names, shape)
        yield FeatureStream(
            run, samples, named, head, layouts, shape, categories, batch_size, random_state,
            row_bytes, mask,
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureStream:
    """A network that gives the features of images batch by batch, as long as it is held.

    Attributes:
        run: the forward pass.
        samples: the images.
        layers: name -> dotted name of each layer.
        head: module whose input is the sample feature.
        layouts: of the layers' outputs.
        grid: `(H, W)` of the regions.
        categories: names, `[C]`.
        batch_size: images at a time.
        random_state: seed.
        row_bytes: of all features of one image.
        mask: which regions count, `[N, R]` bool; None: all.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> with network.feature_stream(net, images, ["0"]) as stream:
        ...     print(len(stream), stream.grid, stream.head)
        ...
        12 (14, 14) 2
    """

    run: ForwardPass
    samples: Samples
    layers: Mapping[str, str]
    head: str
    layouts: Mapping[str, Layout]
    grid: tuple[int, int]
    categories: list[str]
    batch_size: int
    random_state: int
    row_bytes: int
    mask: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def about(self) -> dict[str, Any]:
        """The fields of a `FeatureSet` of all images that are no arrays."""
        return {
            "grid": self.grid,
            "names": list(self.samples.names),
            "categories": self.categories,
        }

    def all(self) -> FeatureSet:
        """The features of all images, in memory."""
        arrays: dict[str, Tensor] = {}
        with closing(self.batches()) as batches:  # also where something is raised: it holds hooks
            for batch, parts in batches:
                for name, part in parts.items():
                    if name not in arrays:
                        shape = (len(self), *part.shape[1:])
                        arrays[name] = torch.empty(shape, dtype=part.dtype)
                    arrays[name][batch] = part
        return FeatureSet.of_arrays(arrays, self.about)

    def fill(
        self,
        path: Path,
        made_from: Mapping[str, str],
        rows: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda arrays: arrays,
        row_bytes: int | None = None,
    ) -> None:
        """Fill shards with the features of all images, or what is made of them; nothing else stays.

        Args:
            path, made_from: as of `store.fill_rows`.
            rows: from the arrays of a batch, named as those of a `FeatureSet`, to those to keep.
            row_bytes: of what is kept of one image; None: of its features.
        """
        fill_rows(
            path,
            # Where batches are divided is in the last bits of what the network gives.
            {**made_from, "batches": f"of {self.batch_size}, each with a random state of its own"},
            len(self),
            rows_per_shard(len(self), row_bytes or self.row_bytes, self.batch_size),
            lambda ranges: ((batch, rows(arrays)) for batch, arrays in self.batches(ranges)),
        )

    def batches(self, ranges: Sequence[range] | None = None) -> Generator[Part, None, None]:
        """Yield batches of images and their arrays, named as those of a `FeatureSet`.

        What comes of a batch depends on that alone: on no batch before it.

        Args:
            ranges: of the images, as of `in_batches`; each begins where a batch does if all were
                run. None: all.
        """
        rows: dict[str, Sequence[int]] = {}
        run, names, labels = self.run, self.samples.names, self.samples.labels
        with (
            recorder(
                run.module,
                self.layers.values(),
                inputs=[self.head],
                keep=partial(regions, grid=self.grid),
                layouts=self.layouts,
            ) as record,
            read_ahead(self.samples, ranges) as images,
        ):

            def logits(batch: slice) -> Tensor:
                seed = _seed(self.random_state, batch.start)
                torch.manual_seed(seed)  # of a data set that draws numbers
                read = images(batch)
                torch.manual_seed(seed)  # of the network
                return run.logits(read)

            for batch, z in in_batches(
                logits, len(self), self.batch_size, description="features", ranges=ranges
            ):
                parts = {
                    f"layer {n!r}": record.outputs[dotted] for n, dotted in self.layers.items()
                }
                parts["the sample feature"] = flat_features(record.inputs[self.head], self.head)
                parts["the logits"] = z
                for what, part in parts.items():
                    row = rows.setdefault(what, part.shape[1:])
                    check_batch(part, what, (batch.stop - batch.start, *row))
                    check_finite(part, what, names[batch])
                layers = {
                    f"layers/{name}": parts[f"layer {name!r}"].float() for name in self.layers
                }
                f, y = parts["the sample feature"], torch.tensor(labels[batch])
                arrays = {**layers, "f": f, "z": z, "y": y}
                yield batch, arrays if self.mask is None else _masked(arrays, self.mask[batch])


def _masked(arrays: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The arrays of a batch with nothing where no region counts, and the mask `[B, R]`."""
    cleared = {
        name: F.masked_fill(~mask[..., None].to(F.device), 0)
        for name, F in arrays.items()
        if name.startswith("layers/")
    }
    return {**arrays, **cleared, "mask": mask}


def _seed(random_state: int, start: int) -> int:
    """Seed of the batch that begins with an image: far from those of other batches and states."""
    entropy = (random_state % 2**64, start)
    return int(numpy.random.SeedSequence(entropy).generate_state(1, numpy.uint64)[0])


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
) -> tuple[tuple[int, int], list[str], int]:
    """Grid, categories and bytes of a row, by passes over two images that find what is unusable."""
    images = strips(image)
    with recorder(
        run.module,
        named.values(),
        inputs=[head],
        keep=lambda maps: maps.shape[1:],
        layouts=layouts,
    ) as record:
        z, other = (_logits_of_pair(run, images[[0, k]]) for k in (2, 4))
    silent = [name for name in named.values() if name not in record.outputs]
    silent += [head] if head not in record.inputs else []
    if silent:
        raise ValueError(f"features: layer {silent[0]!r} never runs in the forward pass")
    f = flat_features(record.inputs[head], head)
    for what, part in (("the sample feature", f), ("the logits", z)):
        check_batch(part, what, (2, *part.shape[1:]))
    scale = float(z.abs().nan_to_num().max())  # what is not finite is refused with its image later
    if not torch.allclose(z[0], other[0], 1e-3, 1e-4 * scale, equal_nan=True):
        live = live_statistics(run.module)
        logger.warning(
            "what the network gives for an image depends on the other images of its batch, and so "
            "does the result%s",
            f": {', '.join(live)} use statistics of the batch" if live else "",
        )
    if grid == "last":
        _, height, width = record.outputs[list(named.values())[-1]]
    else:
        height, width = grid
    categories = list(samples.categories)
    if len(categories) != z.shape[1]:
        if z.shape[1] == 1:
            raise ValueError(ONE_OUTPUT)
        if has_categories or max(samples.labels) >= z.shape[1]:
            raise ValueError(
                f"outputs: the data set has {len(categories)} categories and the network "
                f"{z.shape[1]} outputs. Say which output stands for which category by a class map "
                "(`outputs`)."
            )
        categories = [str(column) for column in range(z.shape[1])]
    channels = sum(record.outputs[name][0] for name in named.values())
    numbers = channels * height * width + f.shape[1] + z.shape[1]
    return (int(height), int(width)), categories, 4 * int(numbers) + 8


def _logits_of_pair(run: ForwardPass, images: Tensor) -> Tensor:
    torch.manual_seed(0)  # so that a network that draws numbers draws the same for either pair
    return run.logits(images)


def _require_grid(grid: Any) -> None:
    """Refuse what is neither "last" nor `(H, W)`."""
    sides = grid if isinstance(grid, tuple | list) else ()
    if grid != "last" and not (
        len(sides) == 2 and all(isinstance(side, Integral) and int(side) >= 1 for side in sides)
    ):
        raise ValueError(f'grid: expected "last" or two numbers of at least 1, got {grid!r}')


def _has_categories(dataset: MapStyle | Iterable[Any]) -> bool:
    return any(getattr(dataset, name, None) is not None for name in ("categories", "classes"))
