"""What a way to look inside a network is given, and the contact sheet that it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext.report.files import Row
from emergence_ext.run import FinishedRun, Subject


@dataclass(frozen=True)
class Scene:
    """A network, its images, and which of both to look at.

    Attributes:
        subject: the network, its layers and the data set.
        images: of the data set, those that are shown, by index.
        layers: of the subject, those that are looked at, by the name that is shown.
        run: what `emergence run` found of the same network; None where there is none.
        random_state: seed of every random choice.
        files: what the user measured, by what it is: `keypoints`, `boxes`, `attributes`,
            `annotators`, CSV.
        choices: numbers that the user chose: `window` and `stride` in pixels and `fill` in 0..1 of
            occlusion.
    """

    subject: Subject
    images: Sequence[int]
    layers: Sequence[str]
    run: FinishedRun | None = None
    random_state: int = 0
    files: Mapping[str, Path] = field(default_factory=dict)
    choices: Mapping[str, float] = field(default_factory=dict)

    def pixels(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return images of the data set, by default those that are shown, `[n, channels, H', W']`.

        Raises:
            ValueError: images of different sizes.
        """
        dataset = self.subject.dataset
        chosen = [dataset[int(i)][0] for i in (self.images if indices is None else indices)]
        if len({image.shape for image in chosen}) > 1:
            raise ValueError("images: expected one size of all that are shown; resize the images")
        return torch.stack(chosen)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return images `[n, channels, H', W']` in 0..1 as the network takes them, where it is."""
        subject = self.subject
        weight = next((p for p in subject.module.parameters() if p.is_floating_point()), pixels)
        return subject.preprocess(pixels.to(weight.device))

    def names(self, indices: Sequence[int] | None = None) -> list[str]:
        """Return the categories of images, by default of those that are shown."""
        dataset = self.subject.dataset
        chosen = self.images if indices is None else indices
        return [dataset.categories[dataset.labels[int(i)]] for i in chosen]

    def labels(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return the categories of images as numbers, `[n]`."""
        labels = self.subject.dataset.labels
        return torch.tensor([labels[int(i)] for i in (self.images if indices is None else indices)])

    def targets(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return the columns of the network's output for the true categories of images, `[n]`."""
        y, outputs = self.labels(indices), self.subject.outputs
        return y if outputs is None else torch.tensor(outputs)[y]


def pictures(pixels: Tensor) -> Tensor:
    """Return images `[n, channels, H', W']` as they can be drawn, in grey or RGB.

    Of images with other than one or three channels the mean of all is shown.
    """
    if pixels.shape[1] in (1, 3):
        return pixels
    return pixels.mean(dim=1, keepdim=True)


def sentence(text: object) -> str:
    """Return text, such as that of an error, with one mark at its end."""
    plain = str(text).rstrip()
    return plain if plain.endswith((".", "!", "?")) else f"{plain}."


@dataclass(frozen=True)
class Sheet:
    """A contact sheet.

    Attributes:
        title: of the sheet.
        text: what is to be seen and how it is made, in a few sentences.
        figures: file name without suffix -> figure.
        tables: file name without suffix -> rows.
        notes: what the user has to know of this network: warnings, numbers.
    """

    title: str
    text: str
    figures: Mapping[str, Figure]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    notes: Sequence[str] = ()
