"""Figures of a run as data URIs, small enough for one file."""

from __future__ import annotations

import io
import logging
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

logger = logging.getLogger(__name__)

# Characters of base64. Together with tables and text the page stays below 15 MB.
_PICTURES = 8_500_000
_VECTORS = 3_000_000
_VECTOR = 1_500_000  # one SVG beyond that is left beside the report
# What Pillow raises for files that are no PNG, truncated, corrupt or absurdly large.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Picture:
    """One figure: the picture that is shown and, where it is small enough, its vector form."""

    name: str
    png: str
    width: int
    height: int
    svg: str = ""


def read_pictures(
    files: Mapping[str, Path], *, room: int | None = None, vectors: int | None = None
) -> dict[str, Picture]:
    """Return the readable PNG files by name, with the SVG files beside them.

    Args:
        files: name -> PNG file.
        room: characters that the pictures take at most, by default those of a report; beyond that
            the large ones are shrunk.
        vectors: characters that the SVG files take at most; the largest are left out.
    """
    room = _PICTURES if room is None else room
    vectors = _VECTORS if vectors is None else vectors
    limit = _limit([path.stat().st_size for path in files.values()], room * 3 // 4)
    pictures: dict[str, Picture] = {}
    for name, path in files.items():
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                image.load()
                size = image.size
                if len(data) > limit:
                    data = _shrunk(image, limit)
        except _UNREADABLE as error:
            logger.warning("report: %s is left out, it cannot be read: %s", path, error)
            continue
        pictures[name] = Picture(name, _uri("image/png", data), *size)
    return _with_vectors(files, pictures, vectors)


def _limit(sizes: Sequence[int], room: int) -> int:
    """Return how large a picture may be where all of `sizes` have to fit into `room`."""
    for done, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - done)
        if size > share:
            return share
        room -= size
    return max(sizes, default=0)


def _with_vectors(
    files: Mapping[str, Path], pictures: dict[str, Picture], room: int
) -> dict[str, Picture]:
    """Return the pictures with their SVG files, the smallest first, as far as there is room."""
    beside = {name: files[name].with_suffix(".svg") for name in pictures}
    sizes = {name: path.stat().st_size for name, path in beside.items() if path.is_file()}
    for name in sorted(sizes, key=lambda n: sizes[n]):
        encoded = sizes[name] * 4 // 3
        if encoded > min(room, _VECTOR):
            break
        room -= encoded
        old = pictures[name]
        svg = _uri("image/svg+xml", beside[name].read_bytes())
        pictures[name] = Picture(name, old.png, old.width, old.height, svg)
    return pictures


def _shrunk(image: Image.Image, limit: int) -> bytes:
    """Return the image as a PNG of at most `limit` bytes: fewer colours, then fewer pixels."""
    small = image.convert("RGB")
    while True:
        buffer = io.BytesIO()
        small.quantize(256).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= limit or min(small.size) < 64:
            return buffer.getvalue()
        size = (small.width * 3 // 4, small.height * 3 // 4)
        small = small.resize(size, Image.Resampling.LANCZOS)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
