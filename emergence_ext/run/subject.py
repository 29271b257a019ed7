"""What an analysis looks at: a network with its states and layers, and images; and its description.

A `Subject` holds the objects, a `SubjectSpec` says in plain values how to load them, so that what
was done with a network can be taken up again in another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

import torch
from torch import nn

from emergence_ext import data, network
from emergence_ext.data import Samples
from emergence_ext.network import CheckpointFile, FeatureSet, load_checkpoints
from emergence_ext.settings import Precision

DIGITS: Final = "digits"
"""The name, in place of a folder, of the left-out digits that the demo looks at."""


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

    def extract(
        self, module: nn.Module | None = None, grid: tuple[int, int] | Literal["last"] = "last"
    ) -> FeatureSet:
        """Extract the features of all images and layers.

        Args:
            module: another network of the same layers; None: the subject's, as it is.
            grid: `(H, W)` of the regions, or the last layer's own.
        """
        return network.extract(
            self.module if module is None else module,
            self.dataset,
            self.layers,
            grid=grid,
            preprocess=self.preprocess,
            last_linear=self.last_linear,
            outputs=self.outputs,
            precision=self.precision,
            batch_size=self.batch_size,
            device=self.device,
        )


@dataclass(frozen=True)
class SubjectSpec:
    """How to load a `Subject`, in values that JSON can hold.

    Attributes:
        data: folder of images (its val/ where it has one), or "digits".
        model: name, as `network.load_model` takes it.
        weights: file of weights; None for those that the network comes with.
        checkpoints: pattern of files instead of weights; the last is the finished network.
        layers: names with commas between; None for the network's own or suggested ones.
        last_linear: module whose input is the sample feature; None: the one that gives the output.
        size: side of the images in pixels.
        preprocess: as `network.preprocess` takes it, or "auto".
        class_map: JSON file from folder names to columns of the output.
        per_class: images of a category, at most.
        precision: of the forward pass.
        random_state: seed of what is chosen or initialised.
    """

    data: str
    model: str
    weights: str | None = None
    checkpoints: str | None = None
    layers: str | None = None
    last_linear: str | None = None
    size: int = 224
    preprocess: str = "auto"
    class_map: str | None = None
    per_class: int | None = None
    precision: str = "float32"
    random_state: int = 0

    def load(self, device: str = "cpu") -> Subject:
        """Load network and images.

        Raises:
            ValueError: weights beside checkpoints, an unknown precision, or anything about network
                or images that does not fit.
            FileNotFoundError: a file or folder that is not there.
        """
        if self.checkpoints and self.weights:
            raise ValueError("weights: give either --weights or --checkpoints, not both")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: expected float32 or bfloat16, got {self.precision!r}")
        dataset = self._dataset()
        states = load_checkpoints(self.checkpoints) if self.checkpoints else []
        first = states[-1].path if states else self.weights and Path(self.weights)
        loaded = network.load_model(
            self.model, weights=first, image_size=self.size, random_state=self.random_state
        )
        name = loaded.preprocess if self.preprocess == "auto" else self.preprocess
        prepare = network.preprocess(name)
        example = prepare(dataset[0][0][None])
        return Subject(
            loaded.module,
            self._layers(loaded, example),
            dataset,
            preprocess=prepare,
            checkpoints=states,
            outputs=data.class_map(
                self.class_map and Path(self.class_map),
                dataset.categories,
                _width(loaded.module, example),
            ),
            precision=self.precision,  # type: ignore[arg-type]
            device=device,
            last_linear=self.last_linear,
            spec=replace(self, preprocess=name),
        )

    def settings(self) -> dict[str, Any]:
        """Everything as JSON holds it, files and folders by their whole path."""
        values = asdict(self)
        for name in ("data", "weights", "checkpoints", "class_map"):
            if values[name] and values[name] != DIGITS:
                values[name] = str(Path(values[name]).absolute())
        return values

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Read what `settings` gave.

        Raises:
            ValueError: a name that is missing or unknown.
        """
        known = {entry.name for entry in fields(cls)}
        if not {"data", "model"} <= set(settings) <= known:
            raise ValueError(f"subject: expected data, model and some of {sorted(known)}")
        return cls(**settings)

    def _dataset(self) -> Samples:
        if self.data == DIGITS:
            return data.digits(train=False)
        root = Path(self.data)
        split = "val" if "val" in data.splits(root) else None
        return data.ImageFolder(
            root,
            split=split,
            size=self.size,
            per_class=self.per_class,
            random_state=self.random_state,
        )

    def _layers(self, loaded: network.LoadedModel, example: torch.Tensor) -> Mapping[str, str]:
        if self.layers:
            names = [name.strip() for name in self.layers.split(",")]
            return {name: loaded.layers.get(name, name) for name in names}
        return loaded.layers or network.suggest_layers(loaded.module, example)


def _width(module: nn.Module, example: torch.Tensor) -> int:
    """Number of outputs of the network."""
    with torch.no_grad():
        z = module(example)
    if not isinstance(z, torch.Tensor) or z.ndim != 2:
        got = list(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(f"model: expected logits [B, C] as the network's output, got {got}")
    return z.shape[1]
