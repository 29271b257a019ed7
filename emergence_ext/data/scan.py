"""Find the images below folders: each once, and what is passed over by name and reason."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from emergence_ext.data.decode import EXTENSIONS, FORMATS
from emergence_ext.data.reading import is_trouble, patiently

__all__ = ["Found", "find_images", "is_result", "listed", "subfolders"]

JUNK: Final = frozenset((
    "__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
    "$recycle.bin", "system volume information", "lost+found", "__pycache__",
))  # fmt: skip
"""Folders that other programs keep for themselves, in small letters."""

UNREAD: Final = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".avif", ".dib", ".svg", ".ico", ".cur", ".icns", ".psd",
    ".tga", ".pcx", ".dds", ".eps", ".exr", ".hdr", ".xcf", ".wmf", ".emf", ".sgi", ".qoi", ".fits",
    ".dcm", ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".orf", ".rw2",
    ".raf", ".pef", ".raw", ".3fr", ".iiq",
)) - frozenset(EXTENSIONS)  # fmt: skip
"""Images that are not read here. Raw ones of cameras have a head of TIFF, with a preview in it."""
_BACKUP: Final = (".bak", ".orig", ".old", ".tmp", ".part", ".crdownload", ".swp", "~")
_BRANDS: Final = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")

_LEFT: Final = ("look.html", "mindseye.json")

HIDDEN = "hidden"
RESULT = "result of an earlier run"
NOWHERE = "a link to nothing"
TWICE = "a link to what is counted already"
BESIDE = "beside the folders of the categories"


@dataclass
class Found:
    """What lies below some folders.

    Attributes:
        images: of each folder, in the order of their paths.
        skipped: path and reason of what was passed over.
        others: suffix -> files that are no images.
        results: the folders with results of an earlier run in them.
    """

    images: list[list[Path]]
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    results: set[int] = field(default_factory=set)


def find_images(folders: Sequence[Path], root: Path) -> Found:
    """Find images at any depth, by suffix in any case, or by content where the suffix says nothing.

    What lies beside the folders is passed over. Links are followed, after all that is really there:
    each folder and each linked image counts once, with the first folder that has it, and what lies
    around `root` is not followed into.

    Args:
        folders: in which to look.
        root: the folder of them all.

    Raises:
        OSError: the machine cannot read them now (`reading.is_trouble`).
    """
    walk = _Walk(len(folders), root)
    for place, folder in enumerate(folders):
        if folder.is_symlink() and folder != root:
            walk.links.append((folder, place))
        else:
            walk.enter(folder, place)
    for parent in sorted({root, *(folder.parent for folder in folders)} - set(folders)):
        if root not in folders:
            walk.pass_over(parent)
    walk.follow_links()
    for images in walk.found.images:
        images.sort()
    return walk.found


def subfolders(root: Path) -> list[Path]:
    """Return the folders of a folder by name: not hidden ones, other programs' or our results'.

    Of one that may not be read there are none.
    """
    try:
        entries = listed(root)
    except OSError as error:
        if is_trouble(error):
            raise
        return []
    return [
        Path(entry.path)
        for entry in entries
        if _why_not(entry.name) is None and _is_folder(entry) and not is_result(Path(entry.path))
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        if is_trouble(error):
            raise
        return False


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name."""

    def read() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    return patiently(read, folder)


def is_result(folder: Path) -> bool:
    """Say whether this package wrote a folder: a run, or what `look` or `mindseye` left."""
    try:
        if any((folder / name).is_file() for name in _LEFT):
            return True
        config = folder / "config.json"
        content = json.loads(config.read_bytes()) if config.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        if is_trouble(error):
            raise
        return False
    return isinstance(content, dict) and {"format_version", "hashes", "bad_images"} <= set(content)


class _Walk:
    def __init__(self, folders: int, root: Path) -> None:
        self.found = Found([[] for _ in range(folders)])
        self.links: deque[tuple[Path, int]] = deque()
        whole = root.resolve()
        self._seen = {_identity(os.stat(path)) for path in (whole, *whole.parents)}

    def pass_over(self, parent: Path) -> None:
        """Note what lies beside folders of images."""
        for entry in listed(parent):
            path = Path(entry.path)
            why_not = _why_not(entry.name)
            if why_not is not None:
                self._skip_all(path, why_not)
            elif _is_folder(entry):
                if is_result(path):
                    self._skip_all(path, RESULT)
            elif path.suffix.lower() in EXTENSIONS | UNREAD or (
                path.is_file() and _kind(path) is not None
            ):
                self._skip(path, BESIDE)

    def enter(self, folder: Path, place: int) -> None:
        """Take the images of a folder and of those in it; links wait."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                entries = listed(current)
                self._seen.add(_identity(os.stat(current)))
            except OSError as error:
                if is_trouble(error):
                    raise
                self._skip(current, f"a folder that cannot be read: {error.strerror}")
                continue
            if {"config.json", *_LEFT} & {entry.name for entry in entries} and is_result(current):
                self._skip_all(current, RESULT)
                self.found.results.add(place)
                continue
            for entry in entries:
                path = Path(entry.path)
                why_not = _why_not(entry.name)
                if why_not is not None:
                    self._skip_all(path, why_not)
                elif entry.is_symlink():
                    self.links.append((path, place))
                elif entry.is_dir(follow_symlinks=False):
                    if _identity(os.stat(path)) in self._seen:  # mounted in two places
                        self._skip(path, TWICE)
                    else:
                        waiting.append(path)
                else:
                    self._file(path, place, entry.is_file(follow_symlinks=False))

    def follow_links(self) -> None:
        """Take what links lead to, in their order, where it is not there already."""
        files: set[tuple[int, int]] | None = None
        while self.links:
            path, place = self.links.popleft()
            try:
                status = patiently(path.stat, path)
            except OSError as error:
                if is_trouble(error):
                    raise
                self._skip(path, NOWHERE)
                continue
            if stat.S_ISDIR(status.st_mode):
                if _identity(status) in self._seen:
                    self._skip(path, TWICE)
                else:
                    self.enter(path, place)
                    files = None
                continue
            if files is None:
                files = {_identity(image.stat()) for image in self._images()}
            if _identity(status) in files:
                self._skip(path, TWICE)
            else:
                self._file(path, place, stat.S_ISREG(status.st_mode))
                files.add(_identity(status))

    def _images(self) -> Iterator[Path]:
        for images in self.found.images:
            yield from images

    def _file(self, path: Path, place: int, regular: bool) -> None:
        suffix = path.suffix.lower()
        if not regular:
            self._skip(path, "no file, but a pipe, socket or device")
        elif suffix in EXTENSIONS:
            self.found.images[place].append(path)
        elif suffix in UNREAD:
            self._skip(path, f"{suffix} files are not read: save them as PNG or JPEG")
        else:
            kind = _kind(path)
            if kind == "image" and path.name.lower().endswith(_BACKUP):
                self._skip(path, "a backup")
            elif kind == "image":
                self.found.images[place].append(path)
            elif kind is not None:
                self._skip(path, kind)
            else:
                self.found.others[suffix or "no suffix"] += 1

    def _skip(self, path: Path, reason: str) -> None:
        self.found.skipped.append((path, reason))

    def _skip_all(self, path: Path, reason: str) -> None:
        """Pass over a file or folder; its images are counted."""
        if not path.is_dir():
            inside = [path]
        elif path.is_symlink():
            self._skip(path, reason)
            return
        else:
            inside = [Path(here, name) for here, _, names in os.walk(path) for name in names]
        for file in sorted(inside):
            if file.suffix.lower() in EXTENSIONS | UNREAD:
                self._skip(file, reason)


def _why_not(name: str) -> str | None:
    """Say why nothing of this name is looked into."""
    if name.startswith("."):
        return HIDDEN
    return f"in {name}, of another program" if name.casefold() in JUNK else None


def _kind(path: Path) -> str | None:
    """Tell `image`, or why it is one that is not read, by content; None for what is no image."""

    def read() -> str | None:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" and head[8:] in _BRANDS:
            return "HEIC files are not read: save them as PNG or JPEG"
        with Image.open(path, formats=FORMATS):
            return "image"

    try:
        return patiently(read, path)
    except Exception as error:  # of anything that is no image, the plugins raise nearly anything
        if is_trouble(error):
            raise
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
