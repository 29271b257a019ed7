"""Tar files in WebDataset's layout: images and their labels, read where they lie.

A sample is the files of one key, which is a name up to the first dot of its last part:
`000123.jpg` beside `000123.cls`, or `000123.json` with a `label`. The layout is that of
https://github.com/webdataset/webdataset. Nothing is unpacked: the heads are read once, and an image
is then some bytes of its tar.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.data.decode import EXTENSIONS, CropRule, Source
from emergence_ext.data.reading import is_trouble, patiently, require_file
from emergence_ext.data.samples import MAX_MEMORY, ImageFiles
from emergence_ext.data.scan import HIDDEN, UNREAD, listed, subfolders
from emergence_ext.data.skipped import in_words
from emergence_ext.lookup import path_named

__all__ = ["TarFiles", "tar_paths"]

HEAD: Final = 1 << 14
"""Bytes of a head with a long name, at most: a tar may claim any number, and all would be read."""
LABEL: Final = 1 << 20
"""Bytes of a label, at most."""
MANY: Final = 10**9
"""Labels are below this."""
NAME: Final = 1000
"""Characters of a name, at most."""

_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_KEY: Final = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<kind>[^/]+)", re.DOTALL)
_NUMBER: Final = re.compile(rb"\s*(\d{1,9})\s*")


class TarFiles(ImageFiles):
    """Images of tar files in WebDataset's layout, uncompressed.

    Labels are the numbers in `KEY.cls`, or `label` in `KEY.json`, from 0 on. An image without one,
    a name or a key that comes twice, what is no file and what cannot be read is in `bad`.

    Args:
        data: a tar file, a pattern of some as `shards/{000..009}.tar` or `shards/*.tar`, a folder
            of them, or a list of files.
        categories: names, `[C]`; else the numbers of the labels.
        size: pixels of a side.
        crop: `center` (largest centred square) or `squash` (all of the image).
        per_class: take at most so many of a category, chosen by `random_state` before anything is
            decoded.
        random_state: seed of that choice.
        max_memory: bytes of pixels to keep at most.
        listed: see `ImageFiles`.

    Raises:
        ValueError: no tar file, one that is compressed, damaged or cut off (with the place), labels
            that are no categories, or none of a category readable.
        FileNotFoundError: a file that is not there.
        OSError, MemoryError: the machine cannot read it now; no image is left out for that.

    Examples:
        >>> import io, tarfile
        >>> from pathlib import Path
        >>> from emergence_ext import data
        >>> picture = sorted(Path("photos/red").iterdir())[0].read_bytes()
        >>> with tarfile.open("photos.tar", "w") as tar:
        ...     for name, content in (("a.png", picture), ("a.cls", b"0")):
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(content)
        ...         tar.addfile(member, io.BytesIO(content))
        ...
        >>> data.TarFiles("photos.tar", categories=["red"], size=16)[0][0].shape
        torch.Size([3, 16, 16])
    """

    def __init__(
        self,
        data: Path | str | Sequence[Path | str],
        *,
        categories: Sequence[str] | None = None,
        size: int,
        crop: CropRule = "center",
        per_class: int | None = None,
        random_state: int = 0,
        max_memory: int = MAX_MEMORY,
        listed: bool = False,
    ) -> None:
        given = data if isinstance(data, list | tuple) else [data]
        paths = [path_named(path, "data") for path in given]
        if isinstance(data, Path | str):
            paths = tar_paths(data)
        if not paths:
            raise ValueError(f"data: {data} names no tar file")
        for path in paths:
            require_file(path, "data")
        root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        sources: list[Source] = []
        bad: list[tuple[str, str]] = []
        for path in tqdm(paths, desc="reading tar files", leave=False, disable=parallel.no_bar()):
            start = printable(path.absolute().relative_to(root).as_posix())
            good, left_out = patiently(partial(_listed, path, start), path)
            sources += good
            bad += left_out
        if not sources:
            skipped = f": {in_words(bad)}" if bad else ""
            raise ValueError(
                f"data: no image with a label in {data}{skipped}; expected KEY.jpg beside KEY.cls, "
                "or KEY.json with a label"
            )
        super().__init__(
            sources,
            _categories(sources, categories),
            skipped=bad,
            size=size,
            crop=crop,
            per_class=per_class,
            random_state=random_state,
            max_memory=max_memory,
            listed=listed,
        )


def tar_paths(data: Path | str) -> list[Path]:
    """Return the tar files that a name, a pattern or a folder stands for; none for another folder.

    `{000..009}` stands for these numbers, with as many digits; `*`, `?` and `[...]` as in a shell.
    Files are in the order of the numbers, and of their names.

    Raises:
        FileNotFoundError: nothing has a name that is a number's, or fits a pattern.

    Examples:
        >>> from emergence_ext import data
        >>> data.tar_paths("photos")  # a folder of images; "shards/{000..009}.tar" stands for ten
        []
    """
    text = str(data)
    if Path(text).is_dir():
        names = [entry.name for entry in listed(Path(text))]
        tars = [name for name in names if name.endswith(".tar") and name[0] != "."]
        return [] if subfolders(Path(text)) else [Path(text, name) for name in tars]
    if not text.endswith((".tar", ".tgz")) and ".tar." not in text:
        return []
    if Path(text).is_file():
        return [Path(text)]
    found = []
    for name in _numbered(text):
        here = [Path(x) for x in sorted(glob(name))] or [Path(name)] * Path(name).is_file()
        if not here:
            raise FileNotFoundError(f"data: no file {name}")
        found += here
    return found


def _numbered(text: str) -> Iterator[str]:
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = int(match[1]), int(match[2])
    width = len(match[1]) if len(match[1]) == len(match[2]) else 0
    for number in range(first, last + 1):
        yield from _numbered(f"{text[: match.start()]}{number:0{width}}{text[match.end() :]}")


def printable(name: str) -> str:
    """Return a name without anything that a terminal or a manifest cannot take."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@dataclass
class _Sample:
    """The files of one key: the image, and the labels that they give, which should be one."""

    image: tarfile.TarInfo | None = None
    labels: dict[str, set[int]] = field(default_factory=lambda: {"cls": set(), "json": set()})
    wrong: str = "no .cls and no .json with its label"

    def label(self) -> int | str:
        """Return the label, or why there is none."""
        found = self.labels["cls"] or self.labels["json"]
        if len(found) > 1:
            return f"its key has the labels {' and '.join(map(str, sorted(found)[:3]))}"
        return next(iter(found), self.wrong)


def _listed(path: Path, start: str) -> tuple[list[Source], list[tuple[str, str]]]:
    """Read the heads and the labels of a tar.

    Returns:
        Images with labels, and (name, reason) of those that are left out.
    """
    bad: list[tuple[str, str]] = []
    samples: dict[str, _Sample] = {}
    names: set[str] = set()
    with path.open("rb") as file:
        for member in _members(file, path):
            suffix = PurePosixPath(member.name).suffix.lower()
            match = _KEY.fullmatch(member.name)
            kind = "" if match is None else match["kind"].lower()
            why = _why_not(member, suffix, names)
            names.add(member.name)
            if why is not None and suffix in EXTENSIONS | UNREAD:
                bad.append((f"{start}/{printable(member.name[:NAME])}", why))
            if why is not None or match is None:
                continue
            sample = samples.setdefault(match["key"], _Sample())
            if kind in sample.labels:
                _note_label(sample, kind, member, file)
            elif f".{kind}" in EXTENSIONS:  # `seg.png` is no image of a sample
                if sample.image is None:
                    sample.image = member
                else:
                    name = f"{start}/{printable(member.name)}"
                    bad.append((name, "a second image of its key"))
    sources = []
    for sample in samples.values():
        if sample.image is not None:
            name, label = f"{start}/{printable(sample.image.name)}", sample.label()
            if isinstance(label, str):
                bad.append((name, label))
            else:
                span = (sample.image.offset_data, sample.image.size)
                sources.append(Source(path, name, label, span=span))
    return sources, bad


def _why_not(member: tarfile.TarInfo, suffix: str, names: set[str]) -> str | None:
    """Say why a member is passed over, whatever it is."""
    if len(member.name) > NAME:
        return f"a name of {len(member.name)} characters"
    if PurePosixPath(member.name).name.startswith("."):
        return HIDDEN
    if not member.isreg() or member.issparse():
        return "no file, but a link, a folder or a device"
    if suffix in UNREAD:
        return f"{suffix} files are not read: save them as PNG or JPEG"
    if member.name in names and suffix in EXTENSIONS:
        return "its name comes twice in the tar"
    return None


def _note_label(sample: _Sample, kind: str, member: tarfile.TarInfo, file: BinaryIO) -> None:
    if member.size > LABEL:
        sample.wrong = f"its .{kind} has {member.size} bytes"
        return
    file.seek(member.offset_data)
    content = file.read(member.size)
    if kind == "cls":
        match = _NUMBER.fullmatch(content)
        label = int(match[1]) if match else None
        sample.wrong = f"its .cls holds {content[:20]!r}, expected a number"
    else:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        label = found.get("label") if isinstance(found, dict) else None
        if type(label) is not int or not 0 <= label < MANY:
            label = None
    if label is not None:
        sample.labels[kind].add(label)


class _Heads(io.RawIOBase):
    """A tar for `tarfile`, which would read as many bytes at once as a head claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEAD:
            raise tarfile.ReadError(f"a head of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _members(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, all of them whole.

    Raises:
        ValueError: no tar, or one that is damaged or cut off, and where.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    place, count, last, opened = 0, 0, "", False
    try:
        with tarfile.open(fileobj=_Heads(file), mode="r:") as tar:
            opened = True
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= place:
                    raise tarfile.ReadError("a head that leads backwards")
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{printable(member.name[:100])} is cut off")
                place, count, last = tar.offset, count + 1, member.name
                yield member
            file.seek(tar.offset)
            mark = file.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the rest is missing")
        if any(mark):
            raise tarfile.ReadError("what follows is no file")
    except Exception as error:  # of damaged heads, tarfile raises nearly anything
        if is_trouble(error):
            raise
        if not opened:
            raise ValueError(
                f"data: {path} is no tar file, or a compressed one, which has to be unpacked to "
                f".tar first ({error})"
            ) from error
        raise ValueError(
            f"data: {path} is damaged or cut off at byte {min(place, end)}, after {count} files"
            f"{', the last ' if last else ''}{printable(last[:100])} ({error}); get it again"
        ) from error


def _categories(sources: Sequence[Source], categories: Sequence[str] | None) -> Sequence[str]:
    """The names that are given, or the numbers of the labels."""
    highest = max(sources, key=lambda source: source.label)
    labels = {source.label for source in sources}
    if categories is not None:
        if highest.label >= len(categories):
            raise ValueError(
                f"categories: {len(categories)} are given, but {highest.name} has label "
                f"{highest.label}; labels count from 0"
            )
        return categories
    missing = next(n for n in itertools.count() if n not in labels)
    if missing < highest.label:
        raise ValueError(
            f"data: no image has label {missing}, but {highest.name} has {highest.label}; labels "
            "count from 0, without gaps"
        )
    return [str(label) for label in range(missing)]
