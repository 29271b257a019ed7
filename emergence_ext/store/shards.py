"""Rows too many for memory, in a folder of files with equally many rows: `shard-00000`, ...

`filling.py` writes them. Every shard is a result of its own, as `arrays.py` writes it, with a
manifest that is written last: whoever is killed loses the rows of one. `index.json` lists them by
digest and is written when all rows are there, so a store is finished exactly when it has one.
Opening reads that alone; the manifest of a shard is held against the index, and each of its arrays
against the manifest, when it is first used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emergence_ext.store.documents import StoreError, json_digest, read_document
from emergence_ext.store.manifests import (
    FORMAT_VERSION,
    described_as,
    differences,
    dtype_of,
    exists,
    feed,
    files_of,
    in_words,
    manifest_digest,
    name_of,
    read_manifest,
)

SHARDS: Final = "index.json"
"""The file in a folder that makes it a store of rows."""
_AGAIN: Final = "Compute it again."
_PIECE: Final = 2**20  # bytes that are read and digested at once, from the processor's cache


class ShardStore:
    """A finished store, read by rows; nothing is held but what is asked for.

    Args:
        folder: what `fill_rows` finished.
        made_from: digest of each thing that the rows should depend on; None: of anything.

    Raises:
        FileNotFoundError: no finished store there.
        StoreError: made from something else, written by another version, or its index is damaged.

    Examples:
        >>> from emergence_ext import store
        >>> def halves(wanted):
        ...     for rows in wanted:
        ...         yield rows, {"half": torch.tensor([row / 2 for row in rows])}
        ...
        >>> store.fill_rows("shards", {"weights": "a1"}, count=4, size=2, compute=halves)
        >>> store.ShardStore("shards").rows("half", [3, 0])
        tensor([1.5000, 0.0000])
    """

    def __init__(self, folder: Path | str, made_from: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        try:
            index = read_document(self.folder / SHARDS, FORMAT_VERSION, _AGAIN)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"path: {self.folder} is not finished, it has no {SHARDS}. Bring that back, or "
                "compute it again, which goes on with the shards that are there"
            ) from None
        if not _is_index(index):
            raise StoreError(
                f"path: {self.folder / SHARDS} is no index of this package. Delete it and compute "
                "it again."
            )
        self.made_from: dict[str, str] = index.get("made_from", {})
        different = differences(self.made_from, made_from or {})
        if different:
            raise StoreError(
                f"path: {self.folder} was made from other {in_words(different)} than are there "
                "now. Make it again, or bring those back."
            )
        self.rows_per_shard: int = index["rows_per_shard"]
        self.dtypes = {name: dtype_of(each["dtype"]) for name, each in index["arrays"].items()}
        self.shapes: dict[str, tuple[int, ...]]
        self.shapes = {name: tuple(each["shape"]) for name, each in index["arrays"].items()}
        self._count: int = index["rows"]
        self._digests: list[str] = index["shards"]
        self._manifests: dict[int, dict[str, Any]] = {}
        self._checked: set[tuple[int, str]] = set()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def slice(self, name: str, start: int, stop: int) -> Tensor:
        """Return the rows `start .. stop - 1` of an array, in memory of their own.

        Raises:
            ValueError: no such array.
            IndexError: rows that are not there.
            StoreError: a shard that is missing, damaged or of another store.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)}")
        result = self._empty(name, stop - start)
        size = self.rows_per_shard
        for number in range(start // size, -(-stop // size)) if stop > start else ():
            first = number * size
            a, b = max(start, first), min(stop, first + size)
            part = result[a - start : b - start]
            all_of_it = len(part) == min(size, len(self) - first)
            with self._mapped(number, name, part if all_of_it else None) as array:
                if array is not part:
                    part.copy_(array[a - first : b - first])
        return result

    def rows(self, name: str, index: Sequence[int] | Tensor) -> Tensor:
        """Return the rows of an array at `index`, in that order, in memory of their own.

        Raises:
            ValueError: no such array.
            IndexError: a row that is not there.
            StoreError: a shard that is missing, damaged or of another store.
        """
        wanted = torch.as_tensor(index, dtype=torch.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"rows {int(wanted.min())} to {int(wanted.max())} of {len(self)}")
        result = self._empty(name, len(wanted))
        order = wanted.argsort()
        shards, counts = (wanted[order] // self.rows_per_shard).unique_consecutive(
            return_counts=True
        )
        for number, places in zip(shards.tolist(), order.split(counts.tolist()), strict=True):
            with self._mapped(number, name) as array:
                result[places] = array[wanted[places] - number * self.rows_per_shard]
        return result

    def blocks(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield all arrays in blocks of `size` rows, in order; the last may have fewer."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield {name: self.slice(name, start, stop) for name in self.shapes}

    def verify(self) -> None:
        """Read every shard and compare it with its digests.

        Raises:
            StoreError: one that is missing, damaged or of another store.
        """
        for number in range(len(self._digests)):
            for name in self.shapes:
                with self._mapped(number, name):
                    pass

    def digest(self) -> str:
        """Digest of all rows, of their order and of how they are split."""
        return json_digest(self._digests)

    def describe(self) -> dict[str, Any]:
        """What the manifest of these arrays would say, were they in one file; all rows are read."""
        described = {}
        for name, shape in self.shapes.items():
            sha = hashlib.sha256()
            for number in range(len(self._digests)):
                with self._mapped(number, name) as array:
                    feed(sha, array)
            described[name] = {
                "dtype": name_of(self.dtypes[name]),
                "shape": list(shape),
                "sha256": sha.hexdigest(),
            }
        return described

    def _empty(self, name: str, count: int) -> Tensor:
        if name not in self.shapes:
            raise ValueError(f"name: no array {name!r}; there are {', '.join(self.shapes)}")
        return _empty((count, *self.shapes[name][1:]), self.dtypes[name])

    @contextmanager
    def _mapped(self, number: int, name: str, into: Tensor | None = None) -> Iterator[Tensor]:
        """An array of a shard, within the block.

        It is read as a whole and checked when it is first used, to `into` where that is given; from
        then on it is where it lies in the file, as `get_slice` would copy what is then copied to
        its place.
        """
        path = shard_path(self.folder, number)
        described = self._manifest(number)["arrays"][name]
        file = Path(f"{path}.safetensors")
        cure = f"Delete {path.name}.json and {SHARDS} there, and compute it again."
        checked = (number, name) in self._checked
        try:
            if not file.is_file():  # a pipe would be waited for
                raise FileNotFoundError("no such file")
            with safe_open(file, framework="pt") as mapped:
                array = mapped.get_tensor(name)
            if not checked:
                _expect(Path(f"{shard_path(self.folder, number + 1)}.safetensors"))
                array, sha = _read(file, name, array, into)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise StoreError(f"path: {file} is missing or damaged ({error}). {cure}") from error
        if not checked:
            if described_as(array, sha) != described:
                raise StoreError(
                    f"path: array {name!r} of {file} is not the one that was written (checksum, "
                    f"shape or dtype). {cure}"
                )
            self._checked.add((number, name))
        yield array

    def _manifest(self, number: int) -> dict[str, Any]:
        """The manifest of a shard, after a comparison with the index."""
        if number not in self._manifests:
            path = shard_path(self.folder, number)
            if not exists(path):
                raise StoreError(
                    f"path: {self.folder} lacks the shard {path.name}.json. Delete {SHARDS} there "
                    "and compute it again."
                )
            manifest = read_manifest(files_of(path)[1])
            if manifest_digest(manifest) != self._digests[number]:
                raise StoreError(
                    f"path: {path}.json is of another store than {SHARDS} beside it. Bring the "
                    f"right one back, or delete {self.folder} and compute it again."
                )
            self._manifests[number] = manifest
        return self._manifests[number]


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard of a store is, without a suffix."""
    return folder / f"shard-{number:05d}"


def _read(file: Path, name: str, like: Tensor, into: Tensor | None) -> tuple[Tensor, str]:
    """An array of a file that is known to hold one like it, and the SHA-256 of its bytes.

    Pages that are mapped are asked for one after the other, and the disk rests while they are
    digested. Read in pieces, and announced, they come at the rate of the disk, and a thread digests
    one while the next is read.
    """
    array = into
    if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
        array = _empty(like.shape, like.dtype)
    sha = hashlib.sha256()
    if not array.numel():
        return array, sha.hexdigest()
    content = array.view(-1).view(torch.uint8).numpy().data
    with ThreadPoolExecutor(1, "digest") as digesting, file.open("rb", buffering=0) as opened:
        _announce(opened.fileno())
        length = int.from_bytes(opened.read(8), "little")
        start, stop = json.loads(opened.read(length))[name]["data_offsets"]
        opened.seek(8 + length + start)
        done = 0
        while done < stop - start:
            count = opened.readinto(content[done : done + _PIECE])
            if not count:
                raise ValueError("the file is cut off")
            digesting.submit(sha.update, content[done : done + count])
            done += count
    return array, sha.hexdigest()


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for what is read, of NumPy, which asks for large pages: new ones take most time."""
    content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    if not content.size:
        return torch.empty(*shape, dtype=dtype)
    return torch.from_numpy(content).view(dtype).view(*shape)


def _expect(file: Path) -> None:
    """Have the system begin to read a file, where there is one."""
    with suppress(OSError), file.open("rb", buffering=0) as opened:
        _announce(opened.fileno())


def _announce(descriptor: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


def _is_index(index: Mapping[str, Any]) -> bool:
    """Whether the parts of an index are of the kinds that a writer writes."""
    counts = [index.get("rows"), index.get("rows_per_shard")]
    arrays, shards, origins = index.get("arrays"), index.get("shards"), index.get("made_from", {})
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and isinstance(arrays, dict)
        and all(
            isinstance(each, dict) and {"dtype", "shape"} <= each.keys() for each in arrays.values()
        )
        and isinstance(origins, dict)
        and isinstance(shards, list)
        and -(-index["rows"] // max(1, index["rows_per_shard"])) == len(shards)
    )
