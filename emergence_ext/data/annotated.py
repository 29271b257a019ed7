"""Images cut out by their annotated boxes: COCO 2014 and CUB-200-2011."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emergence_ext.data.decode import CropRule, Source
from emergence_ext.data.reading import read_bytes
from emergence_ext.data.samples import MAX_MEMORY, ImageFiles
from emergence_ext.lookup import nearest

__all__ = ["coco2014", "cub200"]


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

    Examples:
        >>> import json
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> box = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 2, 8, 8], "iscrowd": 0}
        >>> image = {"id": 7, "file_name": "00.png", "width": 16, "height": 16}
        >>> said = {
        ...     "images": [image],
        ...     "annotations": [box],
        ...     "categories": [{"id": 3, "name": "car"}],
        ... }
        >>> _ = Path("instances.json").write_text(json.dumps(said))
        >>> data.coco2014("photos/red", "instances.json", ["car"], size=8)[0][0].shape
        torch.Size([3, 8, 8])
    """
    try:
        content = json.loads(read_bytes(Path(annotations_json), "annotations_json"))
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
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError) as error:
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
    r"""Cut the annotated boxes of CUB-200-2011 out of its images, as the paper does.

    Args:
        root: the folder with `images.txt`, `classes.txt`, `bounding_boxes.txt` and `images/`.
        categories: names of birds; case, numbers in front, underscores and hyphens do not matter.
        split: `train`, `val` (the set's test images) or None for all.
        size: pixels of a side.
        crop: `center` (largest centred square of the box) or `squash` (all of the box).
        max_memory: bytes of pixels to keep at most.

    Raises:
        ValueError: a file is missing or odd, an unknown category, or none of a category readable.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> Path("cub").mkdir()
        >>> Path("cub/images").symlink_to(Path("photos").resolve())
        >>> said = {
        ...     "images": "red/00.png",
        ...     "image_class_labels": "1",
        ...     "bounding_boxes": "2 2 8 8",
        ...     "train_test_split": "1",
        ... }
        >>> for name, words in said.items():
        ...     _ = Path(f"cub/{name}.txt").write_text(f"1 {words}\n")
        ...
        >>> _ = Path("cub/classes.txt").write_text("1 001.Cardinal\n")
        >>> data.cub200("cub", ["cardinal"], size=8)[0][0].shape
        torch.Size([3, 8, 8])
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
        lines = read_bytes(path, "root").decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ValueError(f"root: cannot read {path} ({error})") from error
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {number: rest.strip() for number, _, rest in pairs}
