"""Figures of a run as data URIs, small enough for one file."""

from __future__ import annotations

import io
import logging
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emergence_ext.report.files import PICTURES

logger = logging.getLogger(__name__)

# Characters of base64. Together with the view, tables and text the page stays below 15 MB.
_PICTURES = 4_000_000
_WEBP = 16_383  # pixels of a side, at most
# What Pillow raises for files that are no PNG, truncated, corrupt or absurdly large.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Picture:
    """One figure, as it is shown; its vector form lies beside the page.

    `photos` says that there are pictures in it, whose colours dark mode must not turn.
    """

    name: str
    src: str
    width: int
    height: int
    photos: bool = False


def read_pictures(files: Mapping[str, Path], *, room: int | None = None) -> dict[str, Picture]:
    """Return the readable PNG files by name, as the smaller of PNG and WebP of 256 colours.

    Args:
        files: name -> PNG file.
        room: characters that the pictures take at most, by default those of a report; beyond that
            the large ones are shrunk.
    """
    room = _PICTURES if room is None else room
    limit = _limit([path.stat().st_size for path in files.values()], room * 3 // 4)
    pictures: dict[str, Picture] = {}
    for name, path in files.items():
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                image.load()
                size, photos = image.size, PICTURES in image.info
                small = _shrunk(image, limit)
        except _UNREADABLE as error:
            logger.warning("report: %s is left out, it cannot be read: %s", path, error)
            continue
        source = _uri("image/png", data) if len(data) <= len(small) else _uri("image/webp", small)
        pictures[name] = Picture(name, source, *size, photos)
    return pictures


def _limit(sizes: Sequence[int], room: int) -> int:
    """Return how large a picture may be where all of `sizes` have to fit into `room`."""
    for done, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - done)
        if size > share:
            return share
        room -= size
    return max(sizes, default=0)


def _shrunk(image: Image.Image, limit: int) -> bytes:
    """Return the image as WebP of at most `limit` bytes: 256 colours, then fewer pixels."""
    small = image.convert("RGB")
    if max(small.size) > _WEBP:
        small.thumbnail((_WEBP, _WEBP), Image.Resampling.LANCZOS)
    while True:
        buffer = io.BytesIO()
        small.quantize(256).convert("RGB").save(buffer, "WEBP", lossless=True)
        if buffer.tell() <= limit or min(small.size) < 64:
            return buffer.getvalue()
        size = (small.width * 3 // 4, small.height * 3 // 4)
        small = small.resize(size, Image.Resampling.LANCZOS)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
