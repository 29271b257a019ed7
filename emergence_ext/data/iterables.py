"""Data sets that give their items in an order of their own: read once, and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from torch import Tensor
from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.data.items import as_label, as_pixels, image_and_label
from emergence_ext.data.pixels import unit
from emergence_ext.data.samples import Samples
from emergence_ext.lookup import user_code

__all__ = ["Kept", "read_all"]

_END: Final = object()


class Kept(Samples):
    """Images that were read once, `[channels, H, W]` each, their values as they came."""

    def __init__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        categories: Sequence[str],
        names: Sequence[str],
    ) -> None:
        super().__init__(categories, labels, names)
        self._images = images

    def _image(self, index: int) -> Tensor:
        return unit(self._images[index], f"dataset: sample {self.names[index]}")


def read_all(dataset: Iterable[Any], max_memory: int) -> tuple[list[Tensor], list[int], list[str]]:
    """Return images, labels and names of all items, of which there may be any number.

    Args:
        dataset: items as `as_samples` takes them.
        max_memory: bytes of images that are kept, at most.

    Raises:
        TypeError: an item that is no (image, label).
        ValueError: no item, or more than `max_memory`.
        UserCodeError: what the data set raises.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    names: list[str] = []
    taken = 0
    with user_code("dataset"):
        remaining = iter(dataset)
    with tqdm(desc="reading images", unit="image", leave=False, disable=parallel.no_bar()) as bar:
        while True:
            with user_code(f"dataset: sample {len(images)}"):
                item = next(remaining, _END)
            if item is _END:
                break
            key = item.get("__key__") if isinstance(item, Mapping) else None
            names.append(str(len(images)) if key is None else str(key))
            image, label = _parts(item, names[-1])
            taken += image.nbytes
            if taken > max_memory:
                raise ValueError(
                    f"dataset: it is iterable, so its images are kept, and the first "
                    f"{len(images) + 1} take more than {max_memory} bytes; give more as "
                    "`max_memory`, or a map-style data set, a folder or tar files, which are read "
                    "again where they are needed"
                )
            images.append(image)
            labels.append(label)
            bar.update()
    if not images:
        raise ValueError("dataset: it is empty")
    return images, labels, names


def _parts(item: Any, name: str) -> tuple[Tensor, int]:
    try:
        image, label = image_and_label(item)
        label = as_label(label)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise TypeError(
            f"dataset: expected (image, integer label), sample {name} is none ({error})"
        ) from error
    pixels = as_pixels(image, name)
    # A copy, as the set may use its memory again; of a view the whole would stay.
    return pixels.clone() if pixels is image else pixels, label
