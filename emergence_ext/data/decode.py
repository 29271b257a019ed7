"""Decode image files of every kind into pixels of one size; name those that cannot be read."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

__all__ = ["EXTENSIONS", "CropRule", "Source", "decode", "decode_all", "read_pixels"]

CropRule = Literal["center", "squash"]

# Raster formats that Pillow decodes by itself: EPS, for one, would start another program.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS
)


@dataclass(frozen=True)
class Source:
    """Where a sample comes from; `box` is (left, top, width, height) in pixels before rotation."""

    path: Path
    name: str
    label: int
    box: tuple[float, float, float, float] | None = None


def decode(source: Source, size: int, crop: CropRule) -> Tensor:
    """Decode one image to pixels `[3, size, size]`, uint8.

    Rotated as its EXIF says, 16 bits reduced to 8, transparency laid over white, then resized with
    antialiasing: `center` cuts the largest centred square, `squash` takes all of it.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file cannot be used; the
            text says why.
    """
    if source.path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with Image.open(source.path, formats=FORMATS) as opened:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {limit}")
        opened.load()
        image: Image.Image = opened
        if source.box is not None:
            image = _cut(image, source.box)
        image = _to_rgb(ImageOps.exif_transpose(image))
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    area = (0, 0, width, height) if crop == "squash" else (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=area)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()


def decode_all(sources: Sequence[Source], size: int, crop: CropRule) -> Iterator[Tensor | str]:
    """Decode sources in order, in threads: pixels `[3, size, size]` or the reason for none."""

    def attempt(source: Source) -> Tensor | str:
        try:
            return decode(source, size, crop)
        # Decoders of damaged files raise nearly anything; the run has to go on.
        except Exception as error:
            return f"{type(error).__name__}: {error}"

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


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips where it should scale when it converts 16 bits to 8.
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
