"""Boxes and masks of objects, as files hold them, and which regions of a grid they cover."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emergence_ext.data.csv_files import read_csv
from emergence_ext.data.decode import FORMATS
from emergence_ext.data.reading import is_trouble, patiently, require_file
from emergence_ext.data.scan import find_images
from emergence_ext.data.skipped import in_words
from emergence_ext.lookup import path_named

logger = logging.getLogger(__name__)

COLUMNS: Final = ("name", "left", "top", "right", "bottom")
LOSSLESS: Final = (".png", ".bmp", ".gif", ".tif", ".tiff")
"""Suffixes of masks: what JPEG leaves around an edge is not 0."""
Box = tuple[float, float, float, float]


def boxes_on_grid(boxes: Sequence[Sequence[Box]], grid: tuple[int, int]) -> Tensor:
    """Say which regions of a grid have their centre inside of a box.

    Args:
        boxes: for each of `N` images any number of `(left, top, right, bottom)` in shares of the
            image as it was analysed.
        grid: `(H, W)`.

    Returns:
        `[N, H W]`, bool.

    Examples:
        >>> from emergence_ext import data
        >>> data.boxes_on_grid([[(0.0, 0.0, 0.5, 1.0)]], (2, 2))  # the left half
        tensor([[ True, False,  True, False]])
    """
    H, W = grid
    y = ((torch.arange(H) + 0.5) / H)[:, None]
    x = ((torch.arange(W) + 0.5) / W)[None, :]
    inside = torch.zeros(len(boxes), H, W, dtype=torch.bool)
    for n, of_image in enumerate(boxes):
        for some in torch.tensor(of_image, dtype=torch.float64).view(-1, 4).split(1 << 12):
            left, top, right, bottom = some.T[:, :, None, None]
            inside[n] |= ((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(0)
    return inside.flatten(1)


def mask_on_grid(path: Path | str, grid: tuple[int, int]) -> Tensor:
    """Say which regions of a grid have their centre on the foreground of a mask.

    Args:
        path: an image as large as the photograph; what is not 0 is foreground, transparency is
            ignored. Its largest centred square is taken, as that of the photograph was.
        grid: `(H, W)`.

    Returns:
        `[H W]`, bool.

    Raises:
        ValueError: a file that is no image.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from emergence_ext import data
        >>> mask = Image.new("L", (8, 8))
        >>> mask.paste(255, (0, 0, 4, 8))
        >>> mask.save("mask.png")
        >>> data.mask_on_grid(Path("mask.png"), (2, 2))
        tensor([ True, False,  True, False])
    """
    path = path_named(path, "masks")
    require_file(path, "masks")
    try:
        values = patiently(lambda: _values(path), path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if is_trouble(error):
            raise
        raise ValueError(f"masks: {path} cannot be read as an image ({error})") from None
    mask = np.asarray(values.reshape(*values.shape[:2], -1).any(axis=2))
    side = min(mask.shape)
    rows, columns = (
        ((length - side) / 2 + (np.arange(count) + 0.5) / count * side).astype(np.int64)
        for length, count in zip(mask.shape, grid, strict=True)
    )
    return torch.from_numpy(mask[np.ix_(rows, columns)].copy()).flatten()


def _values(path: Path) -> np.ndarray:
    with Image.open(path, formats=FORMATS) as opened:
        return np.asarray(
            opened.convert("RGB") if opened.mode in ("RGBA", "LA", "CMYK") else opened
        )


def find_masks(folder: Path | str, names: Sequence[str]) -> dict[str, Path]:
    """Find the masks of images: lossless images of the same name in a folder, whatever the suffix.

    Others and hidden ones are passed over, and counted in the log.

    Raises:
        ValueError: no such folder, or two masks of one name.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> data.find_masks(Path("photos/red"), ["red/00.png", "red/none.png"])
        {}
    """
    folder = path_named(folder, "masks")
    if not folder.is_dir():
        raise ValueError(f"masks: {folder} is no folder; give one that holds NAME.png for NAME.jpg")
    found = find_images([folder], folder)
    there: dict[str, Path] = {}
    for path in found.images[0]:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in LOSSLESS:
            found.skipped.append((path, "not lossless"))
        elif there.setdefault(stem, path) != path:
            raise ValueError(f"masks: {there[stem]} and {path} are both of {stem}; remove one")
    if found.skipped:
        left_out = [(path.relative_to(folder).as_posix(), why) for path, why in found.skipped]
        logger.warning("masks: %s", in_words(left_out))
    stems = {name: Path(name).with_suffix("").as_posix() for name in names}
    return {name: there[stem] for name, stem in stems.items() if stem in there}


def read_boxes(path: Path | str) -> Mapping[str, list[Box]]:
    r"""Read boxes from a CSV file with the columns name, left, top, right and bottom.

    Args:
        path: the file; an image may have several lines, coordinates are shares in 0..1.

    Returns:
        Name of an image -> its boxes.

    Raises:
        ValueError: other columns, a box that is none, or what `read_csv` says.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> _ = Path("boxes.csv").write_text("name,left,top,right,bottom\na.png,0.1,0.2,0.5,0.6\n")
        >>> data.read_boxes(Path("boxes.csv"))
        {'a.png': [(0.1, 0.2, 0.5, 0.6)]}
    """
    boxes: dict[str, list[Box]] = {}
    file = read_csv(path, "boxes")
    if not set(COLUMNS) <= set(file.columns):
        raise ValueError(
            f"boxes: {path} must have the columns {', '.join(COLUMNS)}, "
            f"has {', '.join(file.columns) or 'none'}"
        )
    for where, row in file.rows:
        try:
            left, top = float(row["left"]), float(row["top"])
            right, bottom = float(row["right"]), float(row["bottom"])
        except ValueError:
            raise ValueError(f"{where} holds no numbers") from None
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"{where} is no box in shares of the image: expected 0 <= left < right <= 1 and "
                f"0 <= top < bottom <= 1, got {(left, top, right, bottom)}"
            )
        boxes.setdefault(row["name"], []).append((left, top, right, bottom))
    return boxes
