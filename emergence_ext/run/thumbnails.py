"""The images of a run, small enough to be kept with it: figures are drawn again from these."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext import parallel
from emergence_ext.network import receptive_field, region_boxes
from emergence_ext.run.subject import Subject
from emergence_ext.store import Saved

logger = logging.getLogger(__name__)

SIDE: Final = 128  # pixels of the longer side, at most
_WHOLE: Final = 0.8  # of the image: boxes that cover more say nothing


@dataclass(frozen=True, eq=False)
class Thumbnails(Saved):
    """Images of a run in the order of its data set; of many, some.

    Attributes:
        pixels: `[n, channels, H', W']`, uint8.
        fields: what each region of the last layer sees, `[R, 4]`, top, left, bottom and right in
            pixels of these images; `[0, 4]` where that is unknown, or nearly the whole image.
        index: places of these images in the run, `[n]`, ascending; None: all of them.

    Examples:
        >>> import emergence_ext as ee
        >>> small = ee.FinishedRun.open("runs/demo").thumbnails
        >>> small.pixels.shape, small.pixels.dtype
        (torch.Size([48, 3, 16, 16]), torch.uint8)
    """

    pixels: Tensor
    fields: Tensor
    index: Tensor | None = None

    def images(self, index: Tensor) -> Tensor:
        """Some of the images in 0..1, by their place in the run, `[n, channels, H', W']`.

        Raises:
            ValueError: one that is not among these.
        """
        if self.index is not None:
            if not bool(torch.isin(index, self.index).all()):
                raise ValueError(f"index: there are {len(self.index)} images, not all of these")
            index = torch.searchsorted(self.index, index)
        return self.pixels[index].float() / 255

    @property
    def alone(self) -> Thumbnails:
        """The same, by their place among these instead of that in the run."""
        return replace(self, index=None)

    @classmethod
    def of(
        cls, subject: Subject, grid: tuple[int, int], images: Tensor | None = None
    ) -> Thumbnails:
        """Shrink the images of a subject, and find what the regions of its last layer see.

        The processes of a job, which call this together, share the images.

        Args:
            subject: network and images.
            grid: `(H, W)` of the regions.
            images: indices of those to shrink, ascending; None: all.

        Raises:
            PeerError: a process of the job ended.
        """
        chosen = range(len(subject.dataset)) if images is None else images.tolist()
        first = _shrunk(subject.dataset[0][0])
        each = -(-len(chosen) // parallel.world())
        pixels = first.new_empty(each * parallel.world(), *first.shape)
        mine = range(len(chosen))[parallel.rank() * each :][:each]
        with closing(subject.dataset.read(chosen[k] for k in mine)) as read:
            for place, image in zip(mine, read, strict=True):
                pixels[place] = _shrunk(image)
        parallel.share_rows(pixels)
        return cls(pixels[: len(chosen)], _fields(subject, grid, first), images)


def thumbnail_size(image: Tensor) -> int:
    """Bytes of an image `[channels, H, W]` when it is shrunk."""
    return _shrunk(image).nbytes


def _shrunk(image: Tensor) -> Tensor:
    """An image `[channels, H, W]` in 0..1 as uint8, its longer side `SIDE` at most."""
    ratio = SIDE / max(image.shape[1:])
    if ratio < 1:
        size = [max(1, round(ratio * side)) for side in image.shape[1:]]
        image = functional.interpolate(
            image[None].float(), size, mode="bilinear", align_corners=False, antialias=True
        )[0]
    return (255 * image).round().clamp(0, 255).byte()


def _fields(subject: Subject, grid: tuple[int, int], thumbnail: Tensor) -> Tensor:
    """The boxes of `Thumbnails.fields`."""
    nothing = torch.zeros(0, 4, dtype=torch.int64)
    image = subject.dataset[0][0]
    size = (image.shape[1], image.shape[2])
    if subject.preprocess(image[None]).shape[2:] != image.shape[1:]:
        return nothing
    try:
        field = receptive_field(subject.module, list(subject.layers.values())[-1], size)
    except (ValueError, RuntimeError) as error:
        logger.debug("no receptive fields: %s", error)
        return nothing
    boxes = region_boxes(field, grid).fields
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).float().mean()
    if area >= _WHOLE * size[0] * size[1]:
        return nothing
    scale = torch.tensor([thumbnail.shape[k + 1] / size[k] for k in (0, 1)]).repeat(2)
    return (boxes * scale).round().long()
