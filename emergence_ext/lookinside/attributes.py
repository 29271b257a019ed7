"""Accuracy as a function of what images are like: light, blur, the object, anything measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.data import Box, read_csv
from emergence_ext.lookup import require_kind
from emergence_ext.method import Interval, proportion, takes_numpy
from emergence_ext.settings import require_count

GROUPS: Final = 12
"""Values of a column of words that are shown, the most frequent ones."""

MISSING: Final = frozenset({"", "na", "n/a", "nan", "-"})
"""Cells that hold no value, in lower case."""

# Luma of RGB (ITU-R BT.601).
_LUMA: Final = (0.299, 0.587, 0.114)
_LAPLACIAN: Final = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Group:
    """Images that are alike in an attribute.

    Attributes:
        name: value of the attribute, where it is a word; else empty.
        low, high: smallest and largest value, where it is a number.
        middle: median of the values.
        images: how many there are.
        accuracy: share that the network gets right, with Wilson's interval.
    """

    name: str
    low: float
    high: float
    middle: float
    images: int
    accuracy: Interval


@takes_numpy
def image_attributes(images: Tensor) -> dict[str, Tensor]:
    """Measure brightness, contrast and sharpness of images.

    Brightness is the mean luma, contrast its standard deviation (RMS contrast), sharpness the
    variance of its Laplacian, which is small where an image is blurred (Pech-Pacheco et al., ICPR
    2000).

    Args:
        images: `[n, channels, H', W']` in 0..1; luma is weighted for three channels, else their
            mean.

    Returns:
        Name -> `[n]`.

    Raises:
        ValueError: images of another shape, or below 3 x 3 pixels.

    Examples:
        >>> from emergence_ext import lookinside
        >>> sorted(lookinside.attributes.image_attributes(torch.rand(2, 3, 8, 8)))
        ['brightness', 'contrast', 'sharpness']
    """
    if images.ndim != 4 or min(images.shape[2:]) < 3:
        raise ValueError(
            "images: expected [n, channels, H', W'] of at least 3 x 3 pixels, got "
            f"{list(images.shape)}"
        )
    images = images.double()
    weights = images.new_tensor(_LUMA) if images.shape[1] == 3 else images.new_ones(images.shape[1])
    luma = torch.einsum("nchw,c->nhw", images, weights / weights.sum())[:, None]
    kernel = luma.new_tensor(_LAPLACIAN)[None, None]
    return {
        "brightness": luma.mean(dim=(1, 2, 3)),
        "contrast": luma.std(dim=(1, 2, 3), correction=0),
        "sharpness": functional.conv2d(luma, kernel).var(dim=(1, 2, 3), correction=0),
    }


def object_attributes(
    boxes: Mapping[str, Sequence[Box]], names: Sequence[str]
) -> dict[str, Tensor]:
    """Measure size and position of the object: of the largest box where an image has several.

    Args:
        boxes: name of an image -> `(left, top, right, bottom)` in shares of the image.
        names: of the images, `[n]`.

    Returns:
        Name -> `[n]`, NaN for an image without a box. The size is a share of the image, `off
        centre` the distance from the image's centre, 1 in a corner.

    Raises:
        ValueError: no image has a box.

    Examples:
        >>> from emergence_ext import lookinside
        >>> boxes = {"a.png": [(0.0, 0.0, 0.5, 0.5)]}
        >>> sorted(lookinside.attributes.object_attributes(boxes, ["a.png"]))
        ['object: left to right', 'object: off centre', 'object: size', 'object: top to bottom']
    """
    require_kind(boxes=(boxes, Mapping))
    if not any(boxes.get(name) for name in names):
        raise ValueError(
            f"boxes: none of the {len(names)} images has one; names are as {names[0]!r}"
        )
    values = torch.full((4, len(names)), torch.nan, dtype=torch.float64)
    for n, name in enumerate(names):
        if boxes.get(name):
            left, top, right, bottom = max(
                boxes[name], key=lambda box: (box[2] - box[0]) * (box[3] - box[1])
            )
            x, y = (left + right) / 2, (top + bottom) / 2
            away = ((2 * x - 1) ** 2 + (2 * y - 1) ** 2) ** 0.5 / 2**0.5
            values[:, n] = torch.tensor([(right - left) * (bottom - top), away, x, y])
    titles = ("size", "off centre", "left to right", "top to bottom")
    return {f"object: {title}": x for title, x in zip(titles, values, strict=True)}


def read_attributes(path: Path, names: Sequence[str]) -> dict[str, Tensor | list[str]]:
    r"""Read a CSV file with a column `name` and a column for each attribute.

    Args:
        path: the file; images may be missing, and so may cells: empty, NA, N/A, NaN or -.
        names: of the images, `[n]`.

    Returns:
        Attribute -> `[n]`, NaN where there is none; or, where a cell is no number, words, empty
        where there is none.

    Raises:
        ValueError: no column `name` or no other one, an image that is listed twice, none of the
            images, or what `read_csv` says.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import lookinside
        >>> _ = Path("photos.csv").write_text("name,light\na.png,day\nb.png,night\n")
        >>> lookinside.attributes.read_attributes(Path("photos.csv"), ["a.png", "b.png"])
        {'light': ['day', 'night']}
    """
    rows: dict[str, dict[str, str]] = {}
    file = read_csv(path, "attributes")
    columns = [column for column in file.columns if column != "name"]
    if "name" not in file.columns or not columns:
        raise ValueError(
            f"attributes: {path} must have a column name and one for each attribute, has "
            f"{', '.join(file.columns) or 'none'}"
        )
    for where, row in file.rows:
        if row["name"] in rows:
            raise ValueError(f"{where} lists {row['name']!r} again")
        rows[row["name"]] = row
    if not rows.keys() & set(names):
        raise ValueError(
            f"attributes: {path} lists none of the {len(names)} images; names are as {names[0]!r}"
        )
    attributes: dict[str, Tensor | list[str]] = {}
    for column in columns:
        given = (rows[name][column] if name in rows else "" for name in names)
        cells = ["" if cell.casefold() in MISSING else cell for cell in given]
        if all(_is_number(cell) for cell in cells if cell):
            values = [float(cell or "nan") for cell in cells]
            attributes[column] = torch.tensor(values, dtype=torch.float64)
        else:
            attributes[column] = cells
    return {name: values for name, values in attributes.items() if _known(values)}


def odd_word(words: Sequence[str]) -> int | None:
    """Say which cell keeps a column from being one of numbers, where most of its cells are.

    Args:
        words: cells of a column, `[n]`, empty where unknown.

    Returns:
        The first that is no number; None where half of the cells or more are none.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.attributes.odd_word(["1", "2", "three", "4"])
        2
    """
    odd = [n for n, word in enumerate(words) if word and not _is_number(word)]
    return odd[0] if odd and 2 * len(odd) < sum(map(bool, words)) else None


def accuracy_by(attribute: Tensor | Sequence[str], right: Tensor, bins: int = 5) -> list[Group]:
    """Accuracy in groups of images that are alike in an attribute.

    Args:
        attribute: numbers `[n]`, in bins of equal counts where no values are equal (equal ones
            share a bin), NaN where unknown; or words, of which the `GROUPS` most frequent are
            taken, empty where unknown.
        right: whether the network gets an image right, `[n]` bool.
        bins: of numbers, at most.

    Returns:
        Groups by rising value, or of words by falling frequency.

    Raises:
        ValueError: other shapes, fewer than one bin, or an attribute that no image has.

    Examples:
        >>> from emergence_ext import lookinside
        >>> right = torch.tensor([True, True, False, True])
        >>> groups = lookinside.attributes.accuracy_by(["day", "day", "night", "night"], right)
        >>> [(group.name, group.accuracy.value) for group in groups]
        [('day', 1.0), ('night', 0.5)]
    """
    right = torch.as_tensor(right)
    if not isinstance(attribute, Tensor) and all(isinstance(x, Real) for x in attribute):
        attribute = torch.tensor(attribute)
    if right.dtype != torch.bool:
        raise TypeError(f"right: expected bool [n], got {right.dtype}")
    if len(attribute) != len(right) or right.ndim != 1:
        raise ValueError(
            f"attribute and right must be [n] both, got {len(attribute)} and {list(right.shape)}"
        )
    require_count("bins", bins, 1)
    if not _known(attribute):
        raise ValueError("attribute: no image has it")
    if not isinstance(attribute, Tensor):
        count = Counter(word for word in attribute if word)
        # In the order of the alphabet where they are equally frequent.
        frequent = sorted(count, key=lambda word: (-count[word], word))[:GROUPS]
        members = [torch.tensor([w == word for w in attribute]) for word in frequent]
        nan = float("nan")
        return [
            Group(word, nan, nan, nan, count[word], _accuracy(right[some]))
            for word, some in zip(frequent, members, strict=True)
        ]
    known = attribute.isfinite()
    values, right = attribute[known].double(), right[known]
    inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    # Bounds are values that occur, so that equal values never part.
    edges = torch.quantile(values, inner, interpolation="lower").unique()
    place = torch.searchsorted(edges, values)
    groups = []
    for b in place.unique():
        some = place == b
        x = values[some]
        accuracy = _accuracy(right[some])
        groups.append(
            Group("", float(x.min()), float(x.max()), float(x.quantile(0.5)), len(x), accuracy)
        )
    return groups


def _known(attribute: Tensor | Sequence[str]) -> bool:
    """Whether any image has the attribute."""
    return bool(attribute.isfinite().any()) if isinstance(attribute, Tensor) else any(attribute)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _accuracy(right: Tensor) -> Interval:
    return proportion(int(right.sum()), len(right))
