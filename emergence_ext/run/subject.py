"""What an analysis looks at: a network with its states and layers, and images; and its description.

A `Subject` holds the objects, a `SubjectSpec` says in plain values how to load them, so that what
was done with a network can be taken up again in another process.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, Unpack, get_args

import torch
from torch import nn

from emergence_ext import data, network
from emergence_ext.data import Masks, Samples
from emergence_ext.lookup import require_kind
from emergence_ext.network import CheckpointFile, FeatureSet, load_checkpoints
from emergence_ext.settings import Precision

logger = logging.getLogger(__name__)

_PATHS: Final = ("data", "weights", "checkpoints", "class_map", "masks", "boxes")
"""Fields of `SubjectSpec`."""

_NUMBERS: Final = ("size", "per_class", "random_state")


@dataclass(frozen=True)
class Subject:
    """What is looked at: a network, its states, its layers, and images.

    Attributes:
        module: the network; comes back as it was, weights included.
        layers: name to show -> dotted module name, in the order of depth.
        dataset: images in 0..1 with labels.
        preprocess: from such images to the network's input.
        checkpoints: states in the order of training; none: the network as it is.
        outputs: column of the network's output for each category; None where they are one to one.
        precision, batch_size, device: of the network's forward pass.
        spec: how it was loaded, where it was.
        last_linear: module whose input is the sample feature; None: the one that gives the output.
        masks: outside of which no region counts; None: all count.

    Examples:
        >>> import emergence_ext as ee
        >>> subject = ee.FinishedRun.open("runs/demo").subject()
        >>> dict(subject.layers), len(subject.dataset)
        ({'conv1_1': 'conv1_1', 'conv2_1': 'conv2_1'}, 48)
    """

    module: nn.Module
    layers: Mapping[str, str]
    dataset: Samples
    preprocess: nn.Module = field(default_factory=nn.Identity)
    checkpoints: Sequence[CheckpointFile] = ()
    outputs: Sequence[int] | None = None
    precision: Precision = "float32"
    batch_size: int = 32
    device: str = "cpu"
    spec: SubjectSpec | None = None
    last_linear: str | None = None
    masks: Masks | None = None

    def __post_init__(self) -> None:
        require_kind(layers=(self.layers, Mapping), dataset=(self.dataset, Samples))

    def extract(
        self,
        module: nn.Module | None = None,
        grid: tuple[int, int] | Literal["last"] = "last",
        *,
        example: torch.Tensor | None = None,
        keep: Path | None = None,
        made_from: Mapping[str, str] | None = None,
    ) -> FeatureSet:
        """Extract the features of all images and layers.

        Args:
            module: another network of the same layers; None: the subject's, as it is.
            grid: `(H, W)` of the regions, or the last layer's own.
            example: as `network.extract` takes it.
            keep, made_from: as `network.extract` takes them.
        """
        return network.extract(
            self.module if module is None else module,
            self.dataset,
            self.layers,
            keep=keep,
            made_from=made_from,
            **self._options(grid=grid, example=example),
        )

    def stream(
        self, *, example: torch.Tensor | None = None
    ) -> AbstractContextManager[network.FeatureStream]:
        """Hold the network ready to give the features of its images, see `FeatureStream`.

        Args:
            example: as `network.extract` takes it.
        """
        return network.feature_stream(
            self.module, self.dataset, self.layers, **self._options(example=example)
        )

    def _options(self, **more: Unpack[network.StreamOptions]) -> network.StreamOptions:
        return {
            "preprocess": self.preprocess,
            "last_linear": self.last_linear,
            "outputs": self.outputs,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "device": self.device,
            "masks": None if self.masks is None else self.masks.on_grid,
            **more,
        }


@dataclass(frozen=True)
class SubjectSpec:
    """How to load a `Subject`, in values that JSON can hold.

    Attributes:
        data: folder of images, tar files as `data.tar_paths` takes them, or a name of
            `data.SHIPPED`.
        model: name, as `network.load_model` takes it.
        weights: file of weights, or "DEFAULT" for those that the network's own library publishes;
            None for those that the network comes with.
        checkpoints: pattern of files instead of weights; the last is the finished network.
        layers: names with commas between; None for the network's own or suggested ones.
        last_linear: module whose input is the sample feature; None: the one that gives the output.
        size: side of the images in pixels; None for what the weights were trained at, or the
            network is published for, or else 224.
        preprocess: as `network.preprocess` takes it, or "auto" for what the weights were trained
            with, or else what the network is known to need.
        class_map: file that says which column of the output each folder is, as `data.class_map`
            takes it; None for the order of the training, where the weights say it, for
            `labels.txt` in `data`, for the network's own names, for ImageNet's, or one to one.
        per_class: images of a category, at most.
        precision: of the forward pass.
        output: key, field or index of the logits, for networks that give more than those; None:
            that of the training, where the weights say it, or else as `calling.logits` finds them.
        random_state: seed of what is chosen or initialised.
        split: of the images, as `data.ImageFolder` takes it; None for the validation images where
            the folder is split, else the test images.
        masks: folder of masks, see `data.find_masks`, outside of which no region counts.
        boxes: CSV file of boxes that are such masks, see `data.read_boxes`.

    Examples:
        >>> from emergence_ext import run
        >>> spec = run.SubjectSpec(data="photos", model="torchvision:resnet18", weights="DEFAULT")
        >>> spec.preprocess, spec.size  # as the weights say
        ('auto', None)
    """

    data: str
    model: str
    weights: str | None = None
    checkpoints: str | None = None
    layers: str | None = None
    size: int | None = None
    last_linear: str | None = None
    preprocess: str = "auto"
    class_map: str | None = None
    per_class: int | None = None
    precision: str = "float32"
    output: str | None = None
    random_state: int = 0
    split: str | None = None
    masks: str | None = None
    boxes: str | None = None

    def load(self, device: str = "cpu", images: Callable[[int], Samples] | None = None) -> Subject:
        """Load network and images.

        Args:
            device: of the network's forward pass.
            images: from the side of an image in pixels to other images, of the same categories,
                than those in `data`.

        Raises:
            ValueError: weights beside checkpoints, an unknown precision, masks beside boxes, an
                image without one, or anything about network or images that does not fit.
            FileNotFoundError: a file or folder that is not there.
        """
        if self.checkpoints and self.weights:
            raise ValueError("weights: give either --weights or --checkpoints, not both")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: expected float32 or bfloat16, got {self.precision!r}")
        states = load_checkpoints(self.checkpoints) if self.checkpoints else []
        first = states[-1].path if states else network.weights_file(self.model, self.weights)
        origin = network.read_origin(first)
        published = self.size or network.published_size(self.model, self.weights)
        size = origin.size_for(self.size, published)
        output = origin.output_for(self.output)
        dataset = self.images(size) if images is None else images(size)
        masks = self.objects(dataset.names)
        loaded = network.load_model(
            self.model,
            weights=first,
            image_size=size,
            output=output,
            random_state=self.random_state,
        )
        name = origin.preprocess_for(self.preprocess, loaded.preprocess)
        return assembled(
            loaded,
            dataset,
            network.preprocess(name),
            layers=self.layers or None,
            class_map=self.class_map or origin.class_map(dataset.categories) or self._labels(),
            checkpoints=states,
            precision=self.precision,
            device=device,
            spec=replace(
                self,
                weights=str(first) if self.weights else None,
                size=size,
                preprocess=name,
                output=output,
            ),
            last_linear=self.last_linear,
            masks=masks,
        )

    def settings(self, folder: Path | None = None) -> dict[str, Any]:
        """Everything as JSON holds it, files and folders by their whole path.

        Args:
            folder: of a run; what lies in it is named from there, so that a run can be moved.
        """
        values = asdict(self)
        place = self.model.removeprefix("hf:")
        if place != self.model and os.path.isdir(place):
            values["model"] = f"hf:{os.path.abspath(place)}"
        for name in _PATHS:
            if values[name] and not (name == "data" and values[name] in data.SHIPPED):
                whole = os.path.abspath(values[name])
                values[name] = whole if folder is None else _inside(whole, folder)
        return values

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: Path | None = None) -> Self:
        """Read what `settings` gave.

        Args:
            settings: names and values.
            folder: of the run, where it is now.

        Raises:
            ValueError: a name that is missing or unknown, or a value of another kind.
        """
        known = {entry.name for entry in fields(cls)}
        if not {"data", "model"} <= set(settings) <= known:
            raise ValueError(f"subject: expected data, model and some of {sorted(known)}")
        values = dict(settings)
        for name, value in values.items():
            kind = int if name in _NUMBERS else str
            if value is not None and type(value) is not kind:
                raise ValueError(f"subject: {name} must be {kind.__name__}, got {value!r:.60}")
        for name in _PATHS:
            value = values.get(name)
            shipped = name == "data" and value in data.SHIPPED
            if value and not shipped and folder is not None and not os.path.isabs(value):
                # The folder's own name is no pattern.
                whole = os.path.abspath(folder)
                values[name] = os.path.join(
                    glob.escape(whole) if name == "checkpoints" else whole, value
                )
        return cls(**values)

    def images(self, size: int, *, listed: bool = False) -> Samples:
        """Load the images alone, `size` pixels on a side.

        Args:
            size: pixels of a side.
            listed: whether to list them alone, see `data.ImageFiles`.
        """
        if self.data in data.SHIPPED:
            if self.split is not None:
                raise ValueError(f"split: {self.data} has none to choose; leave --split out")
            return data.SHIPPED[self.data](False)
        tars = data.tar_paths(self.data)
        if tars:
            if self.split is not None:
                raise ValueError("split: tar files have none to choose; leave --split out")
            return data.TarFiles(
                tars,
                size=size,
                per_class=self.per_class,
                random_state=self.random_state,
                listed=listed,
            )
        root = Path(self.data)
        split = self.split
        if split is None:
            split = data.held_out(root)
            if split is not None:
                others = ", ".join(name for name in data.splits(root).values() if name != split)
                more = f"; --split takes another ({others})" if others else ""
                logger.info("images are those of %s/%s", split, more)
        return data.ImageFolder(
            root,
            split=split,
            size=size,
            per_class=self.per_class,
            random_state=self.random_state,
            listed=listed,
        )

    def objects(self, names: Sequence[str]) -> Masks | None:
        """The masks or boxes of images by their names; None where all regions count."""
        boxes, masks = (None if x is None else Path(x) for x in (self.boxes, self.masks))
        return Masks.read(names, boxes=boxes, masks=masks)

    def _labels(self) -> Path | None:
        """Where the folder of images says what the outputs are called."""
        file = Path(self.data, data.LABELS)
        return file if file.is_file() else None


def assembled(
    loaded: network.LoadedModel,
    dataset: Samples,
    prepare: nn.Module,
    *,
    layers: Mapping[str, str] | Sequence[str] | str | None,
    class_map: Mapping[str, int] | Path | str | None,
    **others: Any,
) -> Subject:
    """Bring a network and images together, after the network was tried on one.

    Args:
        loaded: the network.
        dataset: the images.
        prepare: from such images to the network's input.
        layers: dotted names or those that `loaded` knows, with commas between or one by one; name
            to show -> dotted name; or None for the network's own or suggested ones.
        class_map: as `data.class_map` takes it.
        others: further fields of the subject.

    Raises:
        ValueError: what does not fit.
        FileNotFoundError: a file that is not there.
    """
    example = prepare(dataset[0][0][None])
    width = network.first_logits(loaded.module, example).shape[1]
    if isinstance(layers, str):
        layers = [name.strip() for name in layers.split(",")]
    if layers is None:
        layers = loaded.layers or network.suggest_layers(loaded.module, example)
    elif not isinstance(layers, Mapping):
        several = isinstance(layers, Iterable) and not isinstance(layers, nn.Module)
        listed: Iterable[Any] = layers if several else [layers]  # which is then refused
        layers = {name: loaded.layers.get(name, name) for name in listed}
    if class_map is None:
        names = loaded.outputs or network.imagenet_names(width)
        # As many categories as outputs may as well be another thousand than ImageNet's.
        strict = len(dataset.categories) != width
        class_map = data.by_name(dataset.categories, names, _whose(loaded), strict=strict)
    columns = data.class_map(class_map, dataset.categories, width)
    return Subject(loaded.module, layers, dataset, preprocess=prepare, outputs=columns, **others)


def _whose(loaded: network.LoadedModel) -> str:
    return "the network's own names" if loaded.outputs else "ImageNet's names"


def _inside(path: str, folder: Path) -> str:
    """A whole path, or pattern of paths, from a folder on where it lies in there."""
    root = os.path.abspath(folder)
    for start in (root, glob.escape(root)):
        if path.startswith(start + os.sep):
            return path[len(start) + 1 :]
    return path
