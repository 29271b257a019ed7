"""Decode image files of every kind into pixels of one size; name those that cannot be read."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Condition
from typing import BinaryIO, Final, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.data.ahead import in_threads, threads
from emergence_ext.data.pixels import eight_bits, levels_of
from emergence_ext.data.reading import is_trouble, patiently, require_file
from emergence_ext.store import digest

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "Checked",
    "CropRule",
    "Source",
    "check",
    "decode",
    "decode_ahead",
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
AHEAD: Final = 64 << 20
"""Bytes of decoded images that wait for who asked for them."""
COMPARED: Final = 10_000
"""Images whose sizes the processes of a job compare, at even distances: of many, to ask for all
would keep a file system busy."""


@dataclass(frozen=True)
class Source:
    """Where a sample comes from.

    Attributes:
        path: a file.
        name, label: of the sample.
        box: (left, top, width, height) in pixels before rotation; None for the whole image.
        span: first byte of the image in its file, and how many; None where it is all of the file.
    """

    path: Path
    name: str
    label: int
    box: tuple[float, float, float, float] | None = None
    span: tuple[int, int] | None = None

    def size(self) -> int:
        """Return how many bytes the image has in its file."""
        return self.path.stat().st_size if self.span is None else self.span[1]

    @contextmanager
    def file(self) -> Iterator[Path | BinaryIO]:
        """Give what Pillow opens."""
        if self.span is None:
            yield self.path
        else:
            with io.BufferedReader(_Part(self.path, *self.span)) as part:
                yield part

    def content(self) -> bytes:
        """Return the bytes of the image."""
        if self.span is None:
            return self.path.read_bytes()
        with _Part(self.path, *self.span) as part:
            return part.readall()


class _Part(io.RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._length, self._place = start, length, 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"offset: expected a place at or after 0, got {base + offset}")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        room = min(len(buffer), max(0, self._length - self._place))
        self._file.seek(self._start + self._place)
        count = self._file.readinto(memoryview(buffer)[:room]) or 0
        self._place += count
        return count


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


def decode(source: Source, size: int, crop: CropRule, known: str | None = None) -> Tensor:
    """Decode one image to pixels `[3, size, size]`, uint8.

    Rotated as its EXIF says, 16 bits reduced to 8, transparency laid over white, then resized with
    antialiasing: `center` cuts the largest centred square, `squash` takes all of it. Of several
    frames the first is taken.

    Args:
        source: the image.
        size: pixels of a side.
        crop: see above.
        known: the digest that `check` took of it; None: whatever is there is decoded.

    Raises:
        RuntimeError: it is not the image that was checked.
        ValueError, SyntaxError, Image.DecompressionBombError: the file cannot be used; the text
            says why.
        OSError: the same, or the machine cannot read it now (`reading.is_trouble`).
        MemoryError: there is no memory for it.
    """
    return patiently(lambda: _decode(source, size, crop, known), source.path)


def _decode(source: Source, size: int, crop: CropRule, known: str | None) -> Tensor:
    if known is not None and _digest(source, size, crop) != known:
        raise RuntimeError(
            f"the image {source.name} ({source.path}) is not the one that was there when it was "
            "checked. Bring that back, or start anew; leave the images as they are meanwhile, and "
            "let all processes have the same"
        )
    with _opened(source) as image:
        return _resized(image, source, size, crop)


def _require_readable(source: Source, crop: CropRule) -> None:
    """Decode an image of which nothing is wanted.

    Of a JPEG every byte is decoded, but to an eighth of the size, which takes half as long.
    """
    with _opened(source) as image:
        if image.format == "JPEG" and source.box is None:
            image.draft(image.mode, (1, 1))
        _resized(image, source, 1, crop)


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """Open an image, once there is memory to decode it."""
    require_file(source.path)
    if source.size() == 0:
        raise ValueError("the file is empty")
    with source.file() as file, Image.open(file, formats=FORMATS) as opened:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {limit}")
        with _budget.hold(opened.width * opened.height * PIXEL):
            yield opened


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


def decode_ahead(
    sources: Iterable[tuple[Source, str | None]], size: int, crop: CropRule, memory: int = AHEAD
) -> Generator[Tensor, None, None]:
    """Decode sources in order, in threads that are ahead of who asks; see `decode`.

    Args:
        sources: the files, each with the digest that is known of it.
        size, crop: see `decode`.
        memory: bytes of pixels that wait, at most, where that is one image a thread.
    """
    return in_threads(
        lambda each: decode(each[0], size, crop, each[1]), sources, _most(size, memory)
    )


class Checked(NamedTuple):
    """Sources that were all decoded once.

    Attributes:
        good: those that can be used.
        bad: (name, reason) of the others.
        pixels: `[N, 3, size, size]`, uint8, of the good; None where they are not kept.
        digests: of what is in the files of the good, where the pixels are not kept.
    """

    good: list[Source]
    bad: list[tuple[str, str]]
    pixels: Tensor | None
    digests: list[str]


class _Unreadable(NamedTuple):
    reason: str


def check(sources: Sequence[Source], size: int, crop: CropRule, max_memory: int) -> Checked:
    """Check every source by decoding it once, in threads.

    Pixels are kept where all of them take `max_memory` bytes at most. Where they are not, the files
    are digested beside, so that nobody has to read them again for that. The processes of a job each
    check a part, and tell the others.

    Raises:
        OSError, MemoryError: the machine is in trouble, which says nothing about the images.
        ValueError: processes of a job see other images.
        PeerError: a process of the job ended.
    """
    keep = len(sources) * 3 * size * size <= max_memory
    parallel.require_same(
        {"images": digest([[x.name for x in sources], [x.label for x in sources]])}
    )
    each = -(-len(sources) // parallel.world())
    mine = range(len(sources))[parallel.rank() * each :][:each]
    pixels = torch.empty(each * parallel.world() if keep else 0, 3, size, size, dtype=torch.uint8)
    said: list[str | _Unreadable] = []
    with closing(_attempts([sources[k] for k in mine], size, crop, keep)) as results:
        for place, result in zip(mine, results, strict=True):
            if isinstance(result, Tensor):
                pixels[place] = result
            said.append("" if isinstance(result, Tensor) else result)
    found = list(zip(sources, chain.from_iterable(parallel.gathered_objects(said)), strict=True))
    good = [k for k, (_, x) in enumerate(found) if not isinstance(x, _Unreadable)]
    if keep:
        parallel.share_rows(pixels)
        for place, k in enumerate(good):
            if place < k:
                pixels[place] = pixels[k]
    return Checked(
        [sources[k] for k in good],
        [(source.name, x.reason) for source, x in found if isinstance(x, _Unreadable)],
        pixels[: len(good)] if keep else None,
        [] if keep else [x for _, x in found if isinstance(x, str)],
    )


def _size(source: Source) -> int:
    """Bytes of an image, or -1 where nobody can tell."""
    try:
        return patiently(source.size, source.path)
    except OSError as error:
        if is_trouble(error):
            raise
        return -1


def _attempts(
    sources: Sequence[Source], size: int, crop: CropRule, keep: bool
) -> Generator[Tensor | str | _Unreadable, None, None]:
    """Yield the pixels of each source, or the digest of its file, or why it cannot be read."""

    def attempt(source: Source) -> Tensor | str | _Unreadable:
        try:
            if keep:
                return decode(source, size, crop)
            patiently(lambda: _require_readable(source, crop), source.path)
            return patiently(lambda: _digest(source, size, crop), source.path)
        # Decoders of damaged files raise nearly anything; the run has to go on.
        except Exception as error:
            if is_trouble(error):
                raise
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if isinstance(error, UnidentifiedImageError):
                said = _something_else(source) or said
            return _Unreadable(f"cannot be read: {said}")

    with closing(in_threads(attempt, sources, _most(size, AHEAD))) as results:
        yield from tqdm(
            results,
            total=len(sources),
            desc="reading images",
            leave=False,
            disable=parallel.no_bar(),
        )


def _something_else(source: Source) -> str | None:
    """Say what a file is that is no image, where people have such in place of one."""
    head = source.content()[:64]
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, and git lfs pull fetches the image itself"
    return "a web page or other markup" if head.lstrip().startswith(b"<") else None


def _digest(source: Source, size: int, crop: CropRule) -> str:
    with _budget.hold(source.size()):
        return digest([source.content(), source.box, size, crop])


def _most(size: int, memory: int) -> int:
    return max(threads(), min(memory // (3 * size * size), 256))


def _cut(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    left, top = max(round(box[0]), 0), max(round(box[1]), 0)
    right = min(round(box[0] + box[2]), image.width)
    bottom = min(round(box[1] + box[3]), image.height)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the box {box} holds no pixel of an image of {image.width} x {image.height}"
        )
    return image.crop((left, top, right, bottom))
