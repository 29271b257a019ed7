"""Rows too many for memory, in a folder of files with equally many rows: `shard-00000`, ...

Every shard is a result of its own, as `arrays.py` writes it, with a manifest that is written last:
whoever is killed loses the rows of one. `index.json` lists them by digest and is written when all
rows are there, so a store is finished exactly when it has one. Opening reads that alone; the
manifest of a shard is held against the index, and each of its arrays against the manifest, when it
is first used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emergence_ext.store.arrays import (
    FORMAT_VERSION,
    content_digest,
    describe,
    differences,
    exists,
    in_words,
    load_arrays,
    manifest_digest,
    read_manifest,
    require_made_from,
    save_arrays,
)
from emergence_ext.store.documents import StoreError, read_document, write_document
from emergence_ext.store.files import locked

__all__ = ["ROWS_PER_SHARD", "ShardStore", "ShardWriter"]

ROWS_PER_SHARD: Final = 1024
_INDEX: Final = "index.json"
_SHARD: Final = "Shard"  # the kind of each
_AGAIN: Final = "Compute it again."


class ShardWriter:
    """Appends rows to a store, and goes on with one whose writer was killed.

    Used in a `with` block, at whose end the store is finished; left by an error it keeps the
    shards that were full. `len(writer)` is the number of rows that are there: go on with that one.

    Args:
        folder: of the store; made if it is not there. One process at a time writes into it.
        made_from: digest of each thing that the rows depend on, by a name that an error can say.
        rows_per_shard: rows that are held in memory and that a kill costs, at most.

    Raises:
        ValueError: `rows_per_shard` below 1, or another than that of the rows that are there.
        StoreError: rows that are there were made from something else, or a manifest is damaged.
        RuntimeError: another process writes into the folder.
        OSError: it cannot be written, a full disk among the reasons; names the file.
    """

    def __init__(
        self,
        folder: Path | str,
        made_from: Mapping[str, str],
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard: expected at least 1, got {rows_per_shard}")
        self.folder = Path(folder)
        self.made_from = dict(made_from)
        self.rows_per_shard = rows_per_shard
        self._digests: list[str] = []  # of the shards that are full, or the last
        self._buffer: dict[str, Tensor] = {}  # [rows_per_shard, ...] each
        self._filled = 0
        self._finished = False
        self._held = ExitStack()

    def __len__(self) -> int:
        """Return the number of rows that are there."""
        return len(self._digests) * self.rows_per_shard + self._filled

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(locked(self.folder))
            self._take_up()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        with self._held:
            if kind is None and not self._finished:
                self._finish()

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows of every array; a shard is written whenever one is full.

        Args:
            rows: arrays `[B, ...]` of one B; names, dtypes and shapes of a row as before.

        Raises:
            ValueError: no arrays, or others than before.
            OSError: a shard cannot be written.
        """
        counts = {array.shape[0] if array.ndim else -1 for array in rows.values()}
        if len(counts) != 1 or -1 in counts:
            shapes = {name: list(array.shape) for name, array in rows.items()}
            raise ValueError(f"rows: expected arrays with one first axis, got {shapes}")
        if not self._buffer:
            self._buffer = {
                name: torch.empty((self.rows_per_shard, *array.shape[1:]), dtype=array.dtype)
                for name, array in rows.items()
            }
        here, there = _rows_in_words(rows), _rows_in_words(self._buffer)
        if here != there:
            raise ValueError(f"rows: expected {there} like those before, got {here}")
        if self._finished:
            (self.folder / _INDEX).unlink()
            self._finished = False
        (count,) = counts
        start = 0
        while start < count:
            taken = min(count - start, self.rows_per_shard - self._filled)
            for name, array in rows.items():
                self._buffer[name][self._filled : self._filled + taken] = array[
                    start : start + taken
                ]
            self._filled += taken
            start += taken
            if self._filled == self.rows_per_shard:
                self._write_shard()

    def _take_up(self) -> None:
        """Find the rows that are there; those of a shard that is not full are written again."""
        described: Mapping[str, Any] = {}
        while exists(path := _shard(self.folder, len(self._digests))):
            require_made_from(path, self.made_from)
            manifest = read_manifest(_manifest_file(path))
            there = _setting(manifest, "rows_per_shard")
            if there != self.rows_per_shard:
                raise ValueError(
                    f"rows_per_shard: {self.folder} was begun with {there} rows a shard, not "
                    f"{self.rows_per_shard}. Go on with that, or remove the folder."
                )
            described = manifest["arrays"]
            if _setting(manifest, "rows") < self.rows_per_shard:
                break
            self._digests.append(manifest_digest(manifest))
        self._finished = (self.folder / _INDEX).is_file()
        self._buffer = {
            name: torch.empty(
                (self.rows_per_shard, *each["shape"][1:]), dtype=_dtype(each["dtype"])
            )
            for name, each in described.items()
        }
        if exists(path):
            for name, array in load_arrays(path, kind=_SHARD)[0].items():
                self._filled = len(array)
                self._buffer[name][: self._filled] = array

    def _write_shard(self) -> None:
        number = len(self._digests)
        save_arrays(
            _shard(self.folder, number),
            {name: array[: self._filled] for name, array in self._buffer.items()},
            {
                "first": number * self.rows_per_shard,
                "rows": self._filled,
                "rows_per_shard": self.rows_per_shard,
            },
            kind=_SHARD,
            made_from=self.made_from,
        )
        self._digests.append(content_digest(_shard(self.folder, number)))
        self._filled = 0

    def _finish(self) -> None:
        rows = len(self)
        if self._filled:
            self._write_shard()
        write_document(
            self.folder / _INDEX,
            {
                "format_version": FORMAT_VERSION,
                "rows": rows,
                "rows_per_shard": self.rows_per_shard,
                "arrays": {
                    name: {"dtype": _name_of(array.dtype), "shape": [rows, *array.shape[1:]]}
                    for name, array in self._buffer.items()
                },
                "made_from": self.made_from,
                "shards": self._digests,
            },
        )


class ShardStore:
    """A finished store, read by rows; nothing is held but what is asked for.

    Args:
        folder: what a `ShardWriter` finished.
        made_from: digest of each thing that the rows should depend on; None: of anything.

    Raises:
        FileNotFoundError: no finished store there.
        StoreError: made from something else, written by another version, or its index is damaged.
    """

    def __init__(self, folder: Path | str, made_from: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        index = read_document(self.folder / _INDEX, FORMAT_VERSION, _AGAIN)
        if not _is_index(index):
            raise StoreError(
                f"path: {self.folder / _INDEX} is no index of this package. Delete it and compute "
                "it again."
            )
        self.made_from: dict[str, str] = index["made_from"]
        different = differences(self.made_from, made_from or {})
        if different:
            raise StoreError(
                f"path: {self.folder} was made from other {in_words(different)} than are there "
                "now. Make it again, or bring those back."
            )
        self.rows_per_shard: int = index["rows_per_shard"]
        self.dtypes = {name: _dtype(each["dtype"]) for name, each in index["arrays"].items()}
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
            with self._mapped(number, name) as array:
                result[a - start : b - start] = array[a - first : b - first]
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

    def _empty(self, name: str, count: int) -> Tensor:
        if name not in self.shapes:
            raise ValueError(f"name: no array {name!r}; there are {', '.join(self.shapes)}")
        return torch.empty((count, *self.shapes[name][1:]), dtype=self.dtypes[name])

    @contextmanager
    def _mapped(self, number: int, name: str) -> Iterator[Tensor]:
        """An array of a shard where it lies in the file, within the block.

        `get_slice` would copy what is then copied to its place.
        """
        path = _shard(self.folder, number)
        described = self._manifest(number)["arrays"][name]
        file = Path(f"{path}.safetensors")
        cure = f"Delete {path.name}.json and {_INDEX} there, and compute it again."
        try:
            if not file.is_file():  # a pipe would be waited for
                raise FileNotFoundError("no such file")
            with safe_open(file, framework="pt") as mapped:
                array = mapped.get_tensor(name)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise StoreError(f"path: {file} is missing or damaged ({error}). {cure}") from error
        if (number, name) not in self._checked:
            if describe(array) != described:
                raise StoreError(
                    f"path: array {name!r} of {file} is not the one that was written (checksum, "
                    f"shape or dtype). {cure}"
                )
            self._checked.add((number, name))
        yield array

    def _manifest(self, number: int) -> dict[str, Any]:
        """The manifest of a shard, after a comparison with the index."""
        if number not in self._manifests:
            path = _shard(self.folder, number)
            if not exists(path):
                raise StoreError(
                    f"path: {self.folder} lacks the shard {path.name}.json. Delete {_INDEX} there "
                    "and compute it again."
                )
            manifest = read_manifest(_manifest_file(path))
            if manifest_digest(manifest) != self._digests[number]:
                raise StoreError(
                    f"path: {path}.json is of another store than {_INDEX} beside it. Bring the "
                    f"right one back, or delete {self.folder} and compute it again."
                )
            self._manifests[number] = manifest
        return self._manifests[number]


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _manifest_file(path: Path) -> Path:
    return Path(f"{path}.json")


def _setting(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest["settings"].get(name)
    if manifest["kind"] != _SHARD or type(value) is not int:
        raise StoreError(f"path: a {manifest['kind']!r} without {name} where a shard should be")
    return value


def _rows_in_words(arrays: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {list(x.shape[1:])} {_name_of(x.dtype)}" for name, x in sorted(arrays.items())
    )


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise StoreError(f"path: {name!r} is no dtype. {_AGAIN}")
    return dtype


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_index(index: Mapping[str, Any]) -> bool:
    """Whether the parts of an index are of the kinds that a writer writes."""
    counts = [index.get("rows"), index.get("rows_per_shard")]
    arrays, origins, shards = (index.get(name) for name in ("arrays", "made_from", "shards"))
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
