"""What figures show where a run holds more than a page can: tables hold all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from emergence_ext.figures import distinct_names
from emergence_ext.run import Emergence

CATEGORIES: Final = 20
"""That a reader can tell apart by colour and mark, and whose names fit on a page."""

STEPS: Final = 12
"""Checkpoints or layers: panels of a page, or lines of a panel."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Categories, checkpoints and layers of a run that its figures show, by number.

    Attributes:
        categories: those with the most reliable knowledge points on held-out images, all where they
            are few; ascending, `[c]`.
        checkpoints, layers: at even distances from the first to the last.
        totals: of the three in the run.
        samples: how many of how many images figures look at, where it is not all.
    """

    categories: Tensor
    checkpoints: list[int]
    layers: list[int]
    totals: tuple[int, int, int]
    samples: tuple[int, int] | None = None

    @classmethod
    def of(cls, e: Emergence) -> Shown:
        """Choose from what a run found."""
        totals = len(e.categories), len(e.labels), len(e.layers)
        categories = torch.arange(totals[0])
        if totals[0] > CATEGORIES:
            reliable, y = e.points_per_image()[1, e.held_out], e.y[e.held_out]
            # Before categories without a point come those without a held-out image.
            worth = reliable + 1 / (1 + len(y))
            ranks = torch.zeros(totals[0]).double().index_add_(0, y, worth.double())
            order = ranks.argsort(descending=True, stable=True)
            categories = order[:CATEGORIES].sort().values
        samples = (len(e.sampled), len(e.names)) if e.stores else None
        return cls(categories, _evenly(totals[1]), _evenly(totals[2]), totals, samples)

    @property
    def every_category(self) -> bool:
        """Whether no category is left out."""
        return len(self.categories) == self.totals[0]

    @property
    def steps(self) -> tuple[list[int], list[int]]:
        """Checkpoints and layers."""
        return self.checkpoints, self.layers

    def names(self, e: Emergence) -> list[str]:
        """Names of the categories, as figures tell them apart."""
        return distinct_names([e.categories[c] for c in self.categories], 16)

    def layer_names(self, e: Emergence, layers: Sequence[int] | None = None) -> list[str]:
        """Names of the layers, or of some others, as figures tell them apart."""
        chosen = self.layers if layers is None else layers
        return distinct_names([e.layers[k] for k in chosen], 13)

    def images(self, y: Tensor, index: Tensor) -> Tensor:
        """Those images of an index `[n]` whose category in y `[N]` is shown."""
        return index[torch.isin(y[index], self.categories)]

    def labels(self, y: Tensor) -> Tensor:
        """Shown categories, by their place among those that are shown."""
        return torch.searchsorted(self.categories, y)

    def note(self, *what: str) -> str:
        """What a figure says that leaves out `categories`, `checkpoints`, `layers` or `images`."""
        counts = len(self.categories), len(self.checkpoints), len(self.layers)
        kinds = "categories", "checkpoints", "layers"
        parts = [
            f"{count} of {total} {kind}"
            + (" (those with the most reliable knowledge points)" if kind == kinds[0] else "")
            for kind, count, total in zip(kinds, counts, self.totals, strict=True)
            if kind in what and count < total
        ]
        if self.samples is not None and "images" in what:
            parts.append(f"{self.samples[0]:,} of {self.samples[1]:,} images")
        return f"Shown: {', '.join(parts)}." if parts else ""


def _evenly(count: int) -> list[int]:
    """Up to `STEPS` numbers below `count`, the first and the last among them."""
    steps = min(count, STEPS)
    return [round(k * (count - 1) / max(steps - 1, 1)) for k in range(steps)]
