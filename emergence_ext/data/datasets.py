"""A user's own data sets: what their items hold is recognised, or refused with what to do."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from emergence_ext.data.pixels import eight_bits, unit
from emergence_ext.data.samples import Samples
from emergence_ext.lookup import UserCodeError, user_code

__all__ = ["MapStyle", "as_samples"]

logger = logging.getLogger(__name__)

_KEYS: Final = (("image", "img"), ("label", "labels"))
"""How items that are mappings, as those of Hugging Face's `datasets`, call image and label."""


class MapStyle(Protocol):
    """What `as_samples` accepts: a length, and (image, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _Wrapped(Samples):
    def __init__(
        self,
        dataset: MapStyle,
        categories: Sequence[str],
        labels: Sequence[int],
        names: Sequence[str],
    ) -> None:
        super().__init__(categories, labels, names)
        self._dataset = dataset

    def _image(self, index: int) -> Tensor:
        return _to_image(_pair(_item(self._dataset, index))[0], self.names[index])


def as_samples(
    dataset: MapStyle,
    *,
    categories: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Samples:
    """Give any map-style data set of (image, label) categories and names.

    Labels are what the items say; all are read once for that, but where torchvision's own data sets
    list them and nothing changes them.

    Args:
        dataset: images as PIL images, tensors `[channels, H, W]` or arrays `[H, W]` or `[H, W,
            channels]`, of uint8, uint16 (65535 is white), bool, or floating point in 0..1; of PIL
            images 16 bits are scaled and transparency is laid over white, as for files. Labels are
            integers. Items are pairs, or mappings with `image` and `label`.
        categories: names, `[C]`; else the set's `categories` or `classes`, through `Subset` and
            `ConcatDataset` too, else the numbers of the labels.
        names: name of each sample, `[N]`; else the set's `names`, else its index.

    Raises:
        TypeError: no length, no (image, label) by index, or, when it is read, an image of another
            kind.
        ValueError: an empty set, labels that are no categories, or, when it is read, an image of
            values outside of their range.
    """
    if isinstance(dataset, Samples) and categories is None and names is None:
        return dataset
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"dataset: expected a length and (image, label) by index, got {type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise ValueError("dataset: it is empty")
    labels = _known_labels(dataset)
    labels = _labels_of_items(dataset) if labels is None else labels
    categories = categories or _categories(dataset) or [str(n) for n in range(max(labels) + 1)]
    names = names or _names(dataset) or [str(index) for index in range(len(labels))]
    return _Wrapped(dataset, categories, labels, names)


def _known_labels(dataset: Any) -> list[int] | None:
    """Labels that are certainly those of the items, without reading these."""
    if isinstance(dataset, Samples):
        return dataset.labels
    if type(dataset) is Subset:
        known = _known_labels(dataset.dataset)
        return None if known is None else [known[index] for index in dataset.indices]
    if type(dataset) is ConcatDataset:
        parts = [_known_labels(part) for part in dataset.datasets]
        return None if None in parts else list(chain.from_iterable(parts))  # type: ignore[arg-type]
    own = getattr(type(dataset), "__getitem__", None)
    if not getattr(own, "__module__", "").startswith("torchvision.datasets."):
        return None
    # A joint `transforms=` of the user's may change labels; torchvision's own holds the other two.
    joint = getattr(dataset, "transforms", None)
    if _target_transform(dataset) is not None or not (
        joint is None or type(joint).__name__ == "StandardTransform"
    ):
        return None
    listed = getattr(dataset, "targets", None)
    listed = getattr(dataset, "labels", None) if listed is None else listed
    if listed is None or len(listed) != len(dataset):
        return None
    try:
        return [_label(label) for label in listed]
    except TypeError:
        return None


def _labels_of_items(dataset: MapStyle) -> list[int]:
    index = 0
    try:
        labels = []
        for index in range(len(dataset)):  # for the error
            labels.append(_label(_pair(_item(dataset, index))[1]))
        return labels
    except UserCodeError:
        raise
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise TypeError(
            f"dataset: expected (image, integer label) by index, sample {index} is none ({error})"
        ) from error


def _item(dataset: MapStyle, index: int) -> Any:
    with user_code(f"dataset: sample {index}"):
        return dataset[index]


def _pair(item: Any) -> Any:
    """Return (image, label) of an item that may be a mapping."""
    if not isinstance(item, Mapping):
        return item
    found = [[item[key] for key in keys if key in item] for keys in _KEYS]
    if not all(len(values) == 1 for values in found):
        raise TypeError(
            f"items are mappings of {', '.join(map(str, item))}; give a data set whose items are "
            "(image, label), or name these keys 'image' and 'label'"
        )
    return found[0][0], found[1][0]


def _label(label: Any) -> int:
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
        raise TypeError(f"the label is {label!r:.60}, expected an integer") from None


def _target_transform(dataset: Any) -> Any:
    return getattr(dataset, "target_transform", None)


def _categories(dataset: Any) -> list[str] | None:
    """Names of the categories, of the set itself or of what it is made of."""
    for attribute in ("categories", "classes"):
        found = getattr(dataset, attribute, None)
        if isinstance(found, Mapping):
            found = sorted(found, key=found.__getitem__)
        if isinstance(found, list | tuple | np.ndarray) and len(found):
            return _moved([str(name) for name in found], _target_transform(dataset))
    # As `datasets` of Hugging Face has them.
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        for key in _KEYS[1]:
            if getattr(features.get(key), "names", None):
                return list(features[key].names)
    parts = getattr(dataset, "datasets", None) if isinstance(dataset, ConcatDataset) else None
    if parts is None and hasattr(dataset, "dataset"):
        parts = [dataset.dataset]
    of_parts = [_categories(part) for part in parts or ()]
    if any(names != of_parts[0] for names in of_parts):
        raise ValueError(
            f"dataset: its parts have different categories ({of_parts[0]} and "
            f"{next(names for names in of_parts if names != of_parts[0])}); give each the same"
        )
    return of_parts[0] if of_parts else None


def _moved(names: list[str], target_transform: Any) -> list[str] | None:
    """Names in the order of the labels that come out of a transform; None where it joins some."""
    if target_transform is None:
        return names
    try:
        moved = [_label(target_transform(place)) for place in range(len(names))]
    except Exception:  # it is the user's, and may want another kind of label
        moved = []
    if sorted(moved) != list(range(len(names))):
        logger.warning(
            "the data set's target_transform makes other labels than it has names for; categories "
            "are called by their numbers"
        )
        return None
    return [names[moved.index(place)] for place in range(len(names))]


def _names(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "names", None)
    if isinstance(names, list | tuple | np.ndarray) and len(names) == len(dataset):
        return [str(name) for name in names]
    if type(dataset) is Subset:
        inner = _names(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    return None


def _to_image(image: Any, name: str) -> Tensor:
    """Return an image as `[channels, H, W]` in 0..1."""
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
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.numel():
        got = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"dataset: expected an image [channels, H, W] for sample {name}, got {got}")
    return unit(image, where)


def _last(shape: Sequence[int]) -> bool:
    """Whether channels can only be the last axis."""
    return shape[0] > 4 and shape[2] in (1, 3, 4)
