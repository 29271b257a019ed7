"""A user's own data sets: what their items hold is recognised, or refused with what to do."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from emergence_ext.data.ahead import in_processes
from emergence_ext.data.items import LABEL, as_label, as_pixels, image_and_label
from emergence_ext.data.iterables import Kept, read_all
from emergence_ext.data.pixels import unit
from emergence_ext.data.samples import MAX_MEMORY, Samples
from emergence_ext.lookup import UserCodeError, user_code
from emergence_ext.settings import require_count

__all__ = ["MapStyle", "as_samples"]

logger = logging.getLogger(__name__)


class MapStyle(Protocol):
    """What `as_samples` accepts: a length, and (image, label) by index.

    Examples:
        >>> from emergence_ext import data
        >>> pairs: data.MapStyle = [(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8), 1)]
        >>> len(data.as_samples(pairs))
        2
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _Wrapped(Samples):
    def __init__(
        self,
        dataset: MapStyle,
        categories: Sequence[str],
        labels: Sequence[int],
        names: Sequence[str],
        workers: int,
    ) -> None:
        super().__init__(categories, labels, names)
        self._dataset = dataset
        self._workers = workers

    def read(self, indices: Iterable[int]) -> Generator[Tensor, None, None]:
        """Yield the images at `indices`, in order, from the worker processes."""
        return in_processes(self._image, indices, self._workers)

    def _image(self, index: int) -> Tensor:
        name = self.names[index]
        image = as_pixels(image_and_label(_item(self._dataset, index))[0], name)
        return unit(image, f"dataset: sample {name}")


def as_samples(
    dataset: MapStyle | Iterable[Any],
    *,
    categories: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    workers: int = 0,
    max_memory: int = MAX_MEMORY,
) -> Samples:
    """Give any data set of (image, label), map-style or iterable, categories and names.

    Labels are what the items say; all are read once for that, but where torchvision's own data sets
    list them and nothing changes them. Of an iterable data set, whose length need not be known, one
    pass is made, and its images are kept.

    Args:
        dataset: images as PIL images, tensors `[channels, H, W]` or arrays `[H, W]` or `[H, W,
            channels]`, of uint8, uint16 (65535 is white), bool, or floating point in 0..1; of PIL
            images 16 bits are scaled and transparency is laid over white, as for files. Labels are
            integers. Items are pairs, or mappings with `image` and `label`, or with `jpg` and `cls`
            as those of WebDataset.
        categories: names, `[C]`; else the set's `categories` or `classes`, through `Subset` and
            `ConcatDataset` too, else the numbers of the labels.
        names: name of each sample, `[N]`; else the set's `names`, or the `__key__` of an iterable's
            items, else its index.
        workers: processes that read a map-style data set ahead, as `DataLoader(num_workers=...)`.
        max_memory: bytes of an iterable data set's images to keep at most.

    Raises:
        TypeError: neither (image, label) by index and a length nor an iterable of them, or, when
            it is read, an image of another kind.
        ValueError: an empty set, labels that are no categories, an iterable of more than
            `max_memory`, workers for one, or, when it is read, an image of values outside of their
            range.

    Examples:
        >>> from emergence_ext import data
        >>> pairs = [(torch.zeros(3, 8, 8), 0), (torch.ones(3, 8, 8), 1)]
        >>> samples = data.as_samples(pairs, categories=["dark", "bright"])
        >>> len(samples), samples.categories, samples.names
        (2, ['dark', 'bright'], ['0', '1'])
    """
    require_count("workers", workers, 0)
    if isinstance(dataset, str | Path):
        raise TypeError(
            f"dataset: expected images with labels, got the path {str(dataset)!r}; "
            "data.ImageFolder reads a folder, data.TarFiles tar files"
        )
    if isinstance(dataset, Samples) and categories is None and names is None:
        return dataset
    if _is_iterable(dataset):
        if workers:
            raise ValueError(
                "workers: an iterable data set is read in its own order, by one process; leave "
                "workers out, or give a map-style data set"
            )
        images, labels, keys = read_all(dataset, max_memory)  # type: ignore[arg-type]
        return Kept(
            images, labels, _categories_or_numbers(dataset, categories, labels), names or keys
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "dataset: expected a length and (image, label) by index, or an iterable of them, got "
            f"{type(dataset).__name__}"
        )
    by_index = cast(MapStyle, dataset)
    if len(by_index) == 0:
        raise ValueError("dataset: it is empty")
    known = _known_labels(dataset)
    labels = _labels_of_items(by_index, workers) if known is None else known
    categories = _categories_or_numbers(dataset, categories, labels)
    names = names or _names(dataset) or [str(index) for index in range(len(labels))]
    return _Wrapped(by_index, categories, labels, names, workers)


def _is_iterable(dataset: Any) -> bool:
    """Whether a data set can be read in its own order alone."""
    # The base of torch's own has a `__getitem__` that only raises.
    by_index = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    return isinstance(dataset, IterableDataset) or (hasattr(dataset, "__iter__") and not by_index)


def _categories_or_numbers(
    dataset: Any, categories: Sequence[str] | None, labels: Sequence[int]
) -> Sequence[str]:
    return categories or _categories(dataset) or [str(n) for n in range(max(labels) + 1)]


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
        return [as_label(label) for label in listed]
    except TypeError:
        return None


def _labels_of_items(dataset: MapStyle, workers: int) -> list[int]:
    labels: list[int] = []
    try:
        for label in in_processes(partial(_label_at, dataset), range(len(dataset)), workers):
            labels.append(label)  # those that are there count in the error
        return labels
    except UserCodeError:
        raise
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise TypeError(
            f"dataset: expected (image, integer label) by index, sample {len(labels)} is none "
            f"({error})"
        ) from error


def _label_at(dataset: MapStyle, index: int) -> int:
    return as_label(image_and_label(_item(dataset, index))[1])


def _item(dataset: MapStyle, index: int) -> Any:
    with user_code(f"dataset: sample {index}"):
        return dataset[index]


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
        for key in LABEL:
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
        moved = [as_label(target_transform(place)) for place in range(len(names))]
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
