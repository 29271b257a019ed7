"""Folders of images: one folder per category, or one set of any images."""

import os
from pathlib import Path

from emergence_ext.data.decode import EXTENSIONS, CropRule, Source
from emergence_ext.data.layout import categories_of
from emergence_ext.data.samples import MAX_MEMORY, ImageFiles
from emergence_ext.data.scan import find_images
from emergence_ext.data.skipped import in_words
from emergence_ext.lookup import path_named

__all__ = ["ImageFolder", "image_set"]


class ImageFolder(ImageFiles):
    """A folder with one folder per category, or with splits (`train/`, `val/`) that hold them.

    Labels count the categories in the order of their names; names that are all numbers in the order
    of the numbers (0, 1, 2, 10). Below a category's folder images are found at any depth, by suffix
    or, where that says nothing, by content; links are followed, and what is there twice counts
    once. What is passed over (hidden files, results of this package, kinds that are not read) and
    what cannot be read is in `bad` and counted in the log.

    Args:
        root: the folder.
        split: `train`, `val` or `test`, however its folder is spelled, or another folder of `root`
            that holds the categories; None where `root` itself does. See `splits`.
        size: pixels of a side.
        crop: `center` (largest centred square) or `squash` (all of the image).
        per_class: take at most so many of a category, chosen by `random_state` before anything is
            decoded.
        random_state: seed of that choice.
        max_memory: bytes of pixels to keep at most.
        listed: see `ImageFiles`.

    Raises:
        ValueError: no such folder or split, no categories in it, or none of a category readable.
        OSError, MemoryError: the machine cannot read it now; no image is left out for that.

    Examples:
        >>> import emergence_ext as ee
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> len(images), images.categories, images[0][0].shape
        (12, ['blue', 'green', 'red'], torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        root: Path | str,
        *,
        split: str | None = None,
        size: int,
        crop: CropRule = "center",
        per_class: int | None = None,
        random_state: int = 0,
        max_memory: int = MAX_MEMORY,
        listed: bool = False,
    ) -> None:
        holder, folders = categories_of(path_named(root, "root"), split)
        found = find_images([folder for _, folder in folders], holder)
        # What holds nothing but results of an earlier run is no category.
        kept = [n for n, images in enumerate(found.images) if images or n not in found.results]
        super().__init__(
            [
                Source(path, _name(path, holder), label)
                for label, place in enumerate(kept)
                for path in found.images[place]
            ],
            [_printable(folders[place][0]) for place in kept],
            skipped=[(_name(path, holder), reason) for path, reason in found.skipped],
            size=size,
            crop=crop,
            per_class=per_class,
            random_state=random_state,
            max_memory=max_memory,
            listed=listed,
        )


def image_set(root: Path | str, *, size: int, crop: CropRule = "center") -> ImageFiles:
    """Return all images below a folder, at any depth, as one category of the folder's name.

    Raises:
        ValueError: no such folder, or no readable image in it.

    Examples:
        >>> from emergence_ext import data
        >>> images = data.image_set("photos", size=16)
        >>> images[0][0].shape, images.categories
        (torch.Size([3, 16, 16]), ['photos'])
    """
    folder = path_named(root, "root")
    if not folder.is_dir():
        raise ValueError(f"images: no folder {folder}")
    found = find_images([folder], folder)
    left_out = [(_name(path, folder), reason) for path, reason in found.skipped]
    if not found.images[0]:
        skipped = f"; {in_words(left_out)}" if left_out else ""
        raise ValueError(
            f"images: {folder} holds no image{skipped}; expected files of "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    return ImageFiles(
        [Source(path, _name(path, folder), 0) for path in found.images[0]],
        [_printable(folder.absolute().name)],
        skipped=left_out,
        size=size,
        crop=crop,
    )


def _name(path: Path, root: Path) -> str:
    return _printable(path.relative_to(root).as_posix())


def _printable(name: str) -> str:
    # A name that is no UTF-8 could not be written into a manifest.
    return os.fsencode(name).decode("utf-8", "backslashreplace")
