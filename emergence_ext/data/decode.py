"""Decode image files of every kind into pixels of one size; name those that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from emergence_ext.data.pixels import eight_bits, levels_of
from emergence_ext.data.reading import is_trouble, patiently, require_file

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "CropRule",
    "Source",
    "decode",
    "decode_all",
    "read_pixels",
]

CropRule = Literal["center", "squash"]

_KNOWN = Image.registered_extensions()
# Raster formats that Pillow decodes by itself: EPS, for one, would start another program. AVIF is
# not in every Pillow.
FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if name in _KNOWN.values()
)
EXTENSIONS = frozenset(suffix for suffix, name in _KNOWN.items() if name in FORMATS)

MEMORY: Final = 1 << 30
"""Bytes that all images together may take that are being decoded."""
PIXEL: Final = 8
"""Bytes of a pixel while it is decoded: Pillow has 4 for each of RGB, before and after."""


@dataclass(frozen=True)
class Source:
    """Where a sample comes from; `box` is (left, top, width, height) in pixels before rotation."""

    path: Path
    name: str
    label: int
    box: tuple[float, float, float, float] | None = None


class _Budget:
    """Lets threads go on while what they hold together stays below a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._free = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait for so many bytes; what is larger than all of them waits to be alone."""
        with self._free:
            self._free.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._free:
                self._held -= size
                self._free.notify_all()


_budget = _Budget(MEMORY)


def decode(source: Source, size: int, crop: CropRule) -> Tensor:
    """Decode one image to pixels `[3, size, size]`, uint8.

    Rotated as its EXIF says, 16 bits reduced to 8, transparency laid over white, then resized with
    antialiasing: `center` cuts the largest centred square, `squash` takes all of it. Of several
    frames the first is taken.

    Raises:
        ValueError, SyntaxError, Image.DecompressionBombError: the file cannot be used; the text
            says why.
        OSError: the same, or the machine cannot read it now (`reading.is_trouble`).
        MemoryError: there is no memory for it.
    """
    return patiently(lambda: _decode(source, size, crop), source.path)


def _decode(source: Source, size: int, crop: CropRule) -> Tensor:
    require_file(source.path)
    if source.path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with Image.open(source.path, formats=FORMATS) as opened:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {limit}")
        with _budget.hold(opened.width * opened.height * PIXEL):
            return _resized(opened, source, size, crop)


def _resized(opened: Image.Image, source: Source, size: int, crop: CropRule) -> Tensor:
    opened.load()
    image = opened if source.box is None else _cut(opened, source.box)
    ImageOps.exif_transpose(image, in_place=True)
    image = eight_bits(image, levels_of(opened))
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    area = (0, 0, width, height) if crop == "squash" else (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=area).convert("RGB")
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()


def decode_all(sources: Sequence[Source], size: int, crop: CropRule) -> Iterator[Tensor | str]:
    """Decode sources in order, in threads: pixels `[3, size, size]` or the reason for none.

    Raises:
        OSError, MemoryError: the machine is in trouble, which says nothing about the images.
    """

    def attempt(source: Source) -> Tensor | str:
        try:
            return decode(source, size, crop)
        # Decoders of damaged files raise nearly anything; the run has to go on.
        except Exception as error:
            if is_trouble(error):
                raise
            return f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        results = pool.map(attempt, sources)
        yield from tqdm(
            results, total=len(sources), desc="reading images", leave=False, disable=None
        )
    finally:
        pool.shutdown(cancel_futures=True)


def read_pixels(
    sources: Sequence[Source], size: int, crop: CropRule, max_memory: int
) -> tuple[list[Source], list[tuple[str, str]], Tensor | None]:
    """Check every source by decoding it once.

    Returns:
        The sources that can be used, (name, reason) of the others, and the pixels `[N, 3, size,
        size]` in uint8, or None where they would take more than `max_memory` bytes.

    Raises:
        OSError, MemoryError: see `decode_all`.
    """
    keep = len(sources) * 3 * size * size <= max_memory
    pixels = torch.empty(len(sources) if keep else 0, 3, size, size, dtype=torch.uint8)
    good: list[Source] = []
    bad: list[tuple[str, str]] = []
    for source, result in zip(sources, decode_all(sources, size, crop), strict=True):
        if isinstance(result, str):
            bad.append((source.name, result))
            continue
        if keep:
            pixels[len(good)] = result
        good.append(source)
    return good, bad, pixels[: len(good)] if keep else None


def _cut(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    left, top = max(round(box[0]), 0), max(round(box[1]), 0)
    right = min(round(box[0] + box[2]), image.width)
    bottom = min(round(box[1] + box[3]), image.height)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the box {box} holds no pixel of an image of {image.width} x {image.height}"
        )
    return image.crop((left, top, right, bottom))
