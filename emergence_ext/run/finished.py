"""A finished run, taken up again: what it found, what it learned, and the network it looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emergence_ext.method import Frame, RegionalProjection, RegionImportance, SampleProjection
from emergence_ext.network import FeatureSet
from emergence_ext.run.emerging import Emergence, file_name
from emergence_ext.run.subject import Subject, SubjectSpec
from emergence_ext.settings import Settings
from emergence_ext.store import StoreError


@dataclass(frozen=True)
class Learned:
    """What was learned of one checkpoint, in the frame that all checkpoints share.

    Attributes:
        frame: priors, directions and concentrations.
        samples: the projection of samples, `g = M f`.
        importance: layer -> w and v of the images that regions were learned on.
        regional: layer -> the projection of regions, with the factor that makes layers comparable.
    """

    frame: Frame
    samples: SampleProjection
    importance: Mapping[str, RegionImportance]
    regional: Mapping[str, RegionalProjection]


@dataclass(frozen=True)
class FinishedRun:
    """What `emergence run` left in a folder; files are read when they are asked for.

    Attributes:
        folder: the run directory.
        config: what `config.json` says.
    """

    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> FinishedRun:
        """Look for a finished run in a folder.

        Raises:
            FileNotFoundError: none is there.
            StoreError: what is there cannot be read.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file() or not (folder / "fits" / "emergence.json").is_file():
            raise FileNotFoundError(
                f"run: {folder} holds no finished run; `emergence run --out {folder}` makes one"
            )
        try:
            config = json.loads(path.read_bytes())
        except ValueError as error:
            raise StoreError(f"run: {path} is no JSON ({error}); run again to write it") from error
        return cls(folder, config)

    @cached_property
    def found(self) -> Emergence:
        """Everything that the run found."""
        return Emergence.load(self.folder / "fits" / "emergence")

    def features(self, checkpoint: int = -1) -> FeatureSet:
        """Return the features of all images at one checkpoint."""
        return FeatureSet.load(self.folder / "features" / file_name(self.found.labels[checkpoint]))

    def learned(self, checkpoint: int = -1) -> Learned:
        """Return the fits of one checkpoint."""
        found, fits = self.found, self.folder / "fits"
        label = file_name(found.labels[checkpoint])
        last = checkpoint in (-1, len(found.labels) - 1)
        regional = {
            layer: RegionalProjection.load(fits / label / f"{file_name(layer)}.regional")
            for layer in found.layers
        }
        for layer, scale in zip(found.layers, found.scale[checkpoint].tolist(), strict=True):
            regional[layer].scale_ = scale
        return Learned(
            found.frame,
            SampleProjection.load(fits / "frame" if last else fits / label / "samples"),
            {
                layer: RegionImportance.load(fits / label / f"{file_name(layer)}.importance")
                for layer in found.layers
            },
            regional,
        )

    def subject(self, device: str = "cpu", **changes: Any) -> Subject:
        """Load the network, as its last checkpoint left it, and the images.

        Args:
            device: of the network's forward pass.
            changes: fields of the `SubjectSpec` to set otherwise, such as a folder that moved.

        Raises:
            ValueError: the run was made from Python, with objects that nobody wrote down, or its
                images are others now.
        """
        settings = self.config.get("subject")
        if settings is None:
            raise ValueError(
                f"run: {self.folder} was made from Python and does not say how to load its "
                "network; call the study from Python as well"
            )
        given = {name: value for name, value in changes.items() if value is not None}
        subject = SubjectSpec.from_settings({**settings, **given}).load(device)
        if list(subject.dataset.names) != self.found.names:
            raise ValueError(
                f"data: {subject.spec and subject.spec.data} holds other images than the run "
                f"in {self.folder} looked at"
            )
        return subject


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings of the fits that a run's `config.json` notes.

    Raises:
        StoreError: it does not note them.
    """
    try:
        there = config["settings"]
        return Settings(**{name: there[name] for name in Settings.__dataclass_fields__})
    except (KeyError, TypeError) as error:
        raise StoreError(f"run: config.json notes no setting {error}; make the run again") from None


def require_same_network(z: Tensor, before: Tensor, largest: float) -> None:
    """Refuse a network that says something else of images than it did in the run.

    What the run learned, its projections and w, says nothing of another network.

    Args:
        z: logits, now, of any shape.
        before: the same logits in the run; they may have been computed at another precision.
        largest: the largest logit of any image and category in the run, by size.

    Raises:
        ValueError: they differ by more than a twentieth of that.
    """
    if not torch.allclose(z, before, rtol=0, atol=0.05 * largest):
        raise ValueError(
            "weights: the network gives other logits for the clean images than in the run, what "
            "was learned there does not fit it. Give the weights and images of the run."
        )
