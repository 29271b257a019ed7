"""Sets of (image `[channels, H, W]` in 0..1, label) that know their categories and names."""

import logging
import operator
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from emergence_ext.data.decode import (
    AHEAD,
    Checked,
    CropRule,
    Source,
    check,
    decode,
    decode_ahead,
)
from emergence_ext.data.pixels import unit
from emergence_ext.data.skipped import in_words
from emergence_ext.lookup import nearest, require_kind
from emergence_ext.settings import require_count
from emergence_ext.store import digest

__all__ = [
    "MAX_MEMORY",
    "ArraySamples",
    "ImageFiles",
    "Samples",
    "balanced_order",
    "choose",
    "relabelled",
    "subset",
    "take",
]

logger = logging.getLogger(__name__)

MAX_MEMORY = 2 << 30


class Samples(Dataset[tuple[Tensor, int]]):
    """A map-style data set that knows its categories.

    Attributes:
        categories: names, `[C]`.
        labels: category of each sample, `[N]`, in `[0, C)`.
        names: name of each sample, `[N]`.
        bad: (name, reason) of what was left out: passed over, or not readable.

    Examples:
        >>> from emergence_ext import data
        >>> images = data.ArraySamples(torch.rand(2, 3, 8, 8), [0, 1], ["cat", "dog"])
        >>> isinstance(images, data.Samples), images.labels, images.categories
        (True, [0, 1], ['cat', 'dog'])
    """

    def __init__(
        self,
        categories: Sequence[str],
        labels: Sequence[int],
        names: Sequence[str],
        bad: Sequence[tuple[str, str]] = (),
    ) -> None:
        require_kind(
            categories=(categories, Iterable), labels=(labels, Iterable), names=(names, Iterable)
        )
        self.categories = list(categories)
        self.labels = [_label(label, self.categories) for label in labels]
        self.names = list(names)
        self.bad = list(bad)
        if len(self.names) != len(self.labels):
            raise ValueError(
                f"names: expected {len(self.labels)}, one a sample, got {len(self.names)}"
            )
        wrong = next(
            (label for label in self.labels if not 0 <= label < len(self.categories)), None
        )
        if wrong is not None:
            raise ValueError(
                f"labels: expected 0..{len(self.categories) - 1}, one a category, got {wrong}"
            )

    def __repr__(self) -> str:
        some = ", ".join(self.categories[:4]) + ", ..." * (len(self.categories) > 4)
        return (
            f"{type(self).__name__} of {len(self.labels)} images in {len(self.categories)} "
            f"categories: {some}"
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = self._place(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected below {len(self)}, got {index}")
        index %= len(self)
        return self._image(index), self.labels[index]

    def _place(self, index: int) -> int:
        """An index as a whole number; what is none is refused, with what to do in its place."""
        try:
            return operator.index(index)
        except TypeError:
            if not isinstance(index, str):
                raise TypeError(
                    f"index: expected the number of an image, got {index!r}; data.take gives some"
                ) from None
        if index in self.names:
            raise TypeError(
                f"index: expected the number of an image, got its name; {index!r} is "
                f"{self.names.index(index)}, as names.index says"
            )
        raise TypeError(
            f"index: expected the number of an image, got {index!r}, which is no name of one "
            f"either.{nearest(index, self.names)}"
        )

    def digest(self) -> str:
        """Digest of categories, names, labels and every image: all that a result can depend on."""
        images = list(self._digests(range(len(self))))
        return digest([self.categories, self.names, self.labels, images])

    def read(self, indices: Iterable[int]) -> Generator[Tensor, None, None]:
        """Yield the images at `indices`, in order, as `[index][0]` gives each.

        Those that have to be read from files are read ahead, so that whoever takes them does not
        wait; close the generator where it is left before its end.
        """
        for index in indices:
            yield self[index][0]

    def _digests(self, indices: Iterable[int]) -> Iterator[str]:
        return map(digest, self.read(indices))

    def _image(self, index: int) -> Tensor:
        raise NotImplementedError


class ArraySamples(Samples):
    """Images in memory.

    Args:
        images: `[N, channels, H, W]`: uint8, uint16 (65535 is white), bool, or floating point in
            0..1.
        labels, categories, names: see `Samples`; names are numbers where they are left out.

    Raises:
        ValueError: another shape, or values whose white is not known.

    Examples:
        >>> from emergence_ext import data
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> samples = data.ArraySamples(images, [0, 1], ["cat", "dog"])
        >>> len(samples), samples.labels
        (2, [0, 1])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Sequence[int],
        categories: Sequence[str],
        names: Sequence[str] | None = None,
    ) -> None:
        if isinstance(images, list | tuple) and images and isinstance(images[0], Tensor):
            raise TypeError(
                f"images: expected [{len(images)}, channels, H, W], got a {type(images).__name__}; "
                "torch.stack makes one tensor of images of one size"
            )
        try:
            images = torch.as_tensor(images)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "images: expected a tensor or an array [N, channels, H, W], got "
                f"{type(images).__name__}"
            ) from None
        require_kind(labels=(labels, Iterable))
        if images.ndim == 4 and not images.numel():
            raise ValueError("images: there are none")
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"images: expected [{len(labels)}, channels, H, W], one a label, got "
                f"{list(images.shape)}"
            )
        super().__init__(categories, labels, names or [str(index) for index in range(len(labels))])
        self.images = images if images.dtype == torch.uint8 else unit(images, "images: the tensor")

    def _image(self, index: int) -> Tensor:
        return _to_unit(self.images[index])

    def _digests(self, indices: Iterable[int]) -> Iterator[str]:
        return (digest(self.images[index]) for index in indices)


class ImageFiles(Samples):
    """Images in files, each decoded once up front, and again only if they do not fit into memory.

    Args:
        sources: the files, in order.
        categories: names, `[C]`.
        skipped: (name, reason) of what was passed over before; goes into `bad`.
        size: pixels of a side.
        crop: `center` (largest centred square) or `squash` (all of the image).
        per_class: take at most so many of a category, chosen by `random_state` before anything is
            decoded.
        random_state: seed of that choice.
        max_memory: bytes of pixels to keep at most.
        listed: whether images are listed alone: none but the first is decoded before it is asked
            for, and others that cannot be read stay. For a forecast: a run wants to know that.

    Raises:
        ValueError: a category without a readable image.
        OSError, MemoryError: the machine cannot read it now; no image is left out for that.

    Examples:
        >>> import emergence_ext as ee
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)  # is one of these
        >>> isinstance(images, ee.data.ImageFiles), images.names[0], images.bad
        (True, 'blue/02.png', [])
    """

    def __init__(
        self,
        sources: Sequence[Source],
        categories: Sequence[str],
        *,
        size: int,
        crop: CropRule = "center",
        per_class: int | None = None,
        random_state: int = 0,
        max_memory: int = MAX_MEMORY,
        listed: bool = False,
        skipped: Sequence[tuple[str, str]] = (),
    ) -> None:
        if size < 1:
            raise ValueError(f"size: expected at least 1 pixel, got {size}")
        if crop not in ("center", "squash"):
            raise ValueError(f"crop: expected 'center' or 'squash', got {crop!r}")
        if per_class is not None:
            chosen = choose([source.label for source in sources], per_class, random_state)
            sources = [sources[place] for place in chosen]
        # Whether pixels are kept, once they are decoded.
        self.kept = len(sources) * 3 * size * size <= max_memory
        if listed:
            usable = (k for k, x in enumerate(sources) if check([x], size, crop, max_memory).good)
            checked = Checked([*sources[next(usable, len(sources)) :]], [], None, [])
        else:
            checked = check(sources, size, crop, max_memory)
        good = checked.good
        bad = [*checked.bad, *skipped]
        for name, reason in bad:
            logger.debug("left out %s: %s", name, reason)
        if bad:
            logger.warning("%s", in_words(bad))
        _require_every_category(categories, [source.label for source in good], bad)
        super().__init__(
            categories, [source.label for source in good], [source.name for source in good], bad
        )
        self.size = size
        self.crop: CropRule = crop
        self._sources = good
        self._pixels = checked.pixels
        self._file_digests = checked.digests
        self._ahead = min(AHEAD, max_memory)

    def read(self, indices: Iterable[int]) -> Generator[Tensor, None, None]:
        """Yield the images at `indices`, in order; what is not kept is decoded ahead in threads."""
        if self._pixels is not None:
            yield from super().read(indices)
            return
        sources = ((self._sources[index], self._known(index)) for index in indices)
        with closing(decode_ahead(sources, self.size, self.crop, self._ahead)) as images:
            yield from map(_to_unit, images)

    def _image(self, index: int) -> Tensor:
        if self._pixels is not None:
            return _to_unit(self._pixels[index])
        return _to_unit(decode(self._sources[index], self.size, self.crop, self._known(index)))

    def _known(self, index: int) -> str | None:
        """Digest of the file, by which an image that was changed since is noticed."""
        return self._file_digests[index] if self._file_digests else None

    def _digests(self, indices: Iterable[int]) -> Iterator[str]:
        if self._pixels is None and self._file_digests:
            return (self._file_digests[index] for index in indices)
        if self._pixels is None:
            return super()._digests(indices)
        return (digest(self._pixels[index]) for index in indices)


class _Part(Samples):
    """Some samples of another data set, with labels and categories of their own."""

    def __init__(
        self,
        parent: Samples,
        indices: Sequence[int],
        labels: Sequence[int],
        categories: Sequence[str],
    ) -> None:
        names = [parent.names[index] for index in indices]
        super().__init__(categories, labels, names, parent.bad)
        self._parent = parent
        self._indices = list(indices)

    def _image(self, index: int) -> Tensor:
        return self._parent[self._indices[index]][0]

    def read(self, indices: Iterable[int]) -> Generator[Tensor, None, None]:
        return self._parent.read(self._indices[index] for index in indices)

    def _digests(self, indices: Iterable[int]) -> Iterator[str]:
        return self._parent._digests(self._indices[index] for index in indices)


def take(dataset: Samples, indices: Sequence[int]) -> Samples:
    """Return the samples at some places, `0 <= index < N`, in that order.

    Raises:
        IndexError: no such place.

    Examples:
        >>> from emergence_ext import data
        >>> samples = data.ArraySamples(torch.zeros(3, 1, 8, 8), [0, 1, 1], ["cat", "dog"])
        >>> data.take(samples, [2, 0]).names
        ['2', '0']
    """
    require_kind(dataset=(dataset, Samples), indices=(indices, Iterable))
    places = [dataset._place(index) for index in indices]
    wrong = next((place for place in places if not 0 <= place < len(dataset)), None)
    if wrong is not None:
        raise IndexError(f"indices: expected 0 to {len(dataset) - 1}, got {wrong}")
    return _Part(dataset, places, [dataset.labels[i] for i in places], dataset.categories)


def relabelled(dataset: Samples, labels: Sequence[int], categories: Sequence[str]) -> Samples:
    """Return the same samples, `[N]`, as ones of other categories.

    Raises:
        ValueError: another number of labels, or one outside of the categories.

    Examples:
        >>> from emergence_ext import data
        >>> samples = data.ArraySamples(torch.zeros(2, 1, 8, 8), [0, 1], ["cat", "dog"])
        >>> data.relabelled(samples, [0, 0], ["animal"]).categories
        ['animal']
    """
    require_kind(dataset=(dataset, Samples), labels=(labels, Iterable))
    return _Part(dataset, range(len(dataset)), labels, categories)


def subset(dataset: Samples, *, per_class: int, random_state: int = 0) -> Samples:
    """Choose at most `per_class` samples of every category at random; order and names are kept.

    Raises:
        ValueError: `per_class` below 1.

    Examples:
        >>> from emergence_ext import data
        >>> samples = data.ArraySamples(torch.zeros(3, 1, 8, 8), [0, 1, 1], ["cat", "dog"])
        >>> data.subset(samples, per_class=1).labels
        [0, 1]
    """
    require_kind(dataset=(dataset, Samples))
    return take(dataset, choose(dataset.labels, per_class, random_state))


def choose(labels: Sequence[int], per_class: int, random_state: int) -> list[int]:
    """Return the places, in order, of at most `per_class` random samples of every label."""
    require_count("per_class", per_class, 1)
    places = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    generator = np.random.default_rng(random_state)
    return sorted(
        int(place)
        for label in sorted(places)
        for place in generator.permutation(places[label])[:per_class]
    )


def balanced_order(y: Tensor | Sequence[int], random_state: int = 0) -> Tensor:
    """Shuffle samples so that every beginning of the order has the categories in equal shares.

    Args:
        y: category of each sample, `[N]`, whole numbers, at least 0; a list will do.
        random_state: seed of the order.

    Returns:
        Places in `[0, N)`, `[N]`. Of a category that has run out there are no more.

    Raises:
        ValueError: what is no list of categories by number.

    Examples:
        >>> from emergence_ext import data
        >>> y = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> y[data.balanced_order(y)][:4].bincount()
        tensor([2, 2])
    """
    y = torch.as_tensor(y)
    if y.ndim != 1 or y.is_floating_point() or bool((y < 0).any()):
        raise ValueError(f"y: expected numbers of categories, [N], from 0 on, got {y!r:.80}")
    generator = torch.Generator().manual_seed(random_state)
    shuffled = torch.randperm(len(y), generator=generator)
    by_category = y[shuffled].argsort(stable=True)
    count = y.bincount()
    start = (count.cumsum(0) - count).repeat_interleave(count)
    turn = torch.empty_like(shuffled)  # how many of its category come before it
    turn[by_category] = torch.arange(len(y)) - start
    return shuffled[turn.argsort(stable=True)]


def _label(label: Any, categories: Sequence[str]) -> int:
    """A label as the number of a category."""
    try:
        if not isinstance(label, str) and int(label) == label:
            return int(label)
    except (TypeError, ValueError, OverflowError):
        pass
    named = isinstance(label, str) and label in categories
    place = f"; {label!r} is {categories.index(label)}" if named else ""
    raise TypeError(f"labels: expected numbers of categories, got {label!r}{place}")


def _to_unit(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _require_every_category(
    categories: Sequence[str], labels: Sequence[int], bad: Sequence[tuple[str, str]]
) -> None:
    there = set(labels)
    empty = [name for label, name in enumerate(categories) if label not in there]
    if not empty:
        return
    own = [entry for entry in bad if entry[0].split("/")[0] in empty]
    reasons = "".join(f"; {name}: {reason}" for name, reason in (own or bad)[:3])
    raise ValueError(
        f"categories: no readable image of {', '.join(map(repr, empty[:5]))} "
        f"({len(empty)} of {len(categories)} categories{reasons}). Add images or remove the "
        "category."
    )
