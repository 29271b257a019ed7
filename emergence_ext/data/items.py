"""What one item of a user's data set holds: image and label are recognised, or refused by name."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emergence_ext.data.pixels import eight_bits

__all__ = ["IMAGE", "LABEL", "as_label", "as_pixels", "image_and_label"]

IMAGE: Final = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")
LABEL: Final = ("label", "labels", "target", "cls")
"""How items that are mappings, as those of Hugging Face's `datasets` and WebDataset, call them."""


def image_and_label(item: Any) -> Any:
    """Return (image, label) of an item that may be a mapping.

    Raises:
        TypeError: a mapping of other keys, or no pair.
    """
    if not isinstance(item, Mapping):
        if isinstance(item, Tensor | np.ndarray | Image.Image) or not hasattr(item, "__getitem__"):
            shape = f" of {list(item.shape)}" if isinstance(item, Tensor | np.ndarray) else ""
            raise TypeError(
                f"the item is a {type(item).__name__}{shape}; give a data set whose items are "
                "(image, label)"
            )
        return item
    found = [[item[key] for key in keys if key in item] for keys in (IMAGE, LABEL)]
    if not all(len(values) == 1 for values in found):
        raise TypeError(
            f"items are mappings of {', '.join(map(str, item))}; give a data set whose items are "
            "(image, label), or name these keys 'image' and 'label'"
        )
    return found[0][0], found[1][0]


def as_label(label: Any) -> int:
    """Return a label as an integer, of whatever holds one.

    Raises:
        TypeError: anything else.
    """
    if isinstance(label, Tensor | np.ndarray | np.generic):
        size = label.numel() if isinstance(label, Tensor) else label.size
        if size != 1:
            raise TypeError(
                f"the label has shape {list(label.shape)}, expected one integer; of one-hot labels "
                "take the argmax"
            )
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    try:
        return operator.index(label)
    except TypeError:
        advice = "; number the categories" if isinstance(label, str) else ""
        raise TypeError(f"the label is {label!r:.60}, expected an integer{advice}") from None


def as_pixels(image: Any, name: str) -> Tensor:
    """Return an image as `[channels, H, W]`, its values as they are; `pixels.unit` scales them.

    Args:
        image: a PIL image, tensor or array, see `as_samples`.
        name: of its sample, for the error.

    Raises:
        TypeError: no image.
        ValueError: the channels are not where they belong, or PIL pixels of unknown range.
    """
    where = f"dataset: sample {name}"
    if isinstance(image, Image.Image):
        try:
            image = np.asarray(eight_bits(image))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and _last(image.shape[::-1]):
            raise ValueError(
                f"{where} is an array of {list(image.shape)}, expected [H, W, channels]; give "
                "x.transpose(1, 2, 0), or a tensor"
            )
        if image.dtype.kind not in "buif":
            raise TypeError(f"{where} is an array of {image.dtype}, expected numbers")
        # A copy in the machine's own order of bytes, as others have no tensor.
        image = torch.from_numpy(np.array(image, dtype=image.dtype.newbyteorder("=")))
        image = image.unsqueeze(0) if image.ndim == 2 else image.movedim(-1, 0)
    elif isinstance(image, Tensor) and image.ndim == 3 and _last(image.shape):
        raise ValueError(
            f"{where} is a tensor of {list(image.shape)}, expected [channels, H, W]; give "
            "x.permute(2, 0, 1)"
        )
    if isinstance(image, Tensor) and image.requires_grad:
        image = image.detach()
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.numel():
        got = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"dataset: expected an image [channels, H, W] for sample {name}, got {got}")
    return image


def _last(shape: Sequence[int]) -> bool:
    """Whether channels can only be the last axis."""
    return shape[0] > 4 and shape[2] in (1, 3, 4)
