"""Which regions of images count: those on annotated objects, and at least one of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor

from emergence_ext.data.annotations import (
    Box,
    boxes_on_grid,
    find_masks,
    mask_on_grid,
    read_boxes,
)
from emergence_ext.data.reading import read_bytes
from emergence_ext.store import digest

_FINE: Final = 16  # parts of a region's side, where an object covers no region's centre


@dataclass(frozen=True)
class Masks:
    """The objects of images, outside of which nothing counts.

    Attributes:
        of: name of an image -> its boxes, in shares of the image as it is analysed, or the file of
            its mask, see `mask_on_grid`.

    Examples:
        >>> from emergence_ext import data
        >>> masks = data.Masks({"cat.jpg": [(0.0, 0.0, 0.5, 1.0)]})
        >>> masks.on_grid(["cat.jpg"], (2, 2))
        tensor([[ True, False,  True, False]])
    """

    of: Mapping[str, Sequence[Box] | Path]
    _known: dict[tuple[str, tuple[int, int]], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def read(
        cls, names: Sequence[str], *, boxes: Path | None = None, masks: Path | None = None
    ) -> Self | None:
        """Find the objects of images; None where neither boxes nor masks are given.

        Args:
            names: of the images.
            boxes: CSV file, see `read_boxes`.
            masks: folder of masks, see `find_masks`.

        Raises:
            ValueError: both are given, one cannot be read, or an image has none.
            FileNotFoundError: no such file.
        """
        if boxes is None and masks is None:
            return None
        if boxes is not None and masks is not None:
            raise ValueError("masks: give either --boxes FILE or --masks DIR, not both")
        there: Mapping[str, Sequence[Box] | Path] = {}
        if boxes is not None:
            there = read_boxes(boxes)
        elif masks is not None:
            there = find_masks(masks, names)
        without = [name for name in names if name not in there]
        if without:
            raise ValueError(
                f"{'masks' if boxes is None else 'boxes'}: {len(without)} of {len(names)} images "
                f"have none, {without[0]!r} first; names are those of the images from their folder "
                "on. Add theirs, or leave these images out"
            )
        return cls({name: there[name] for name in names})

    def on_grid(self, names: Sequence[str], grid: tuple[int, int]) -> Tensor:
        """Say which regions of images count, `[n, H W]` bool.

        Those whose centre lies on the object, or, where that is none, the one with most of it.

        Args:
            names: of the images, `[n]`.
            grid: `(H, W)`.

        Raises:
            ValueError: a mask that cannot be read, or without anything in it.
        """
        if not names:
            return torch.zeros(0, grid[0] * grid[1], dtype=torch.bool)
        return torch.stack([self._of(name, grid) for name in names])

    def _of(self, name: str, grid: tuple[int, int]) -> Tensor:
        if (name, grid) not in self._known:  # each state of a network asks again
            self._known[name, grid] = self._found(name, grid)
        return self._known[name, grid]

    def _found(self, name: str, grid: tuple[int, int]) -> Tensor:
        inside = self._centres(name, grid)
        if bool(inside.any()):
            return inside
        (H, W), k = grid, _FINE
        fine = self._centres(name, (H * k, W * k)).view(H, k, W, k).sum((1, 3)).flatten()
        if not bool(fine.any()):
            raise ValueError(
                f"masks: nothing of image {name!r} is on its object, at {H * k} x {W * k} places; "
                "mend its mask or box, or leave the image out"
            )
        return torch.arange(H * W) == fine.argmax()

    def _centres(self, name: str, grid: tuple[int, int]) -> Tensor:
        own = self.of[name]
        return mask_on_grid(own, grid) if isinstance(own, Path) else boxes_on_grid([own], grid)[0]

    def digest(self) -> str:
        """SHA-256 of names and boxes, or of the files of masks."""
        parts = {
            name: read_bytes(own, "masks") if isinstance(own, Path) else list(own)
            for name, own in self.of.items()
        }
        return digest({name: digest(part) for name, part in parts.items()})
