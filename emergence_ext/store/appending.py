"""Rows appended to a folder of shards, and gone on with where a writer was killed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.store.arrays import load_arrays, save_arrays
from emergence_ext.store.documents import StoreError, write_document
from emergence_ext.store.files import locked
from emergence_ext.store.manifests import (
    FORMAT_VERSION,
    content_digest,
    differences,
    dtype_of,
    exists,
    files_of,
    made_from,
    manifest_digest,
    name_of,
    read_manifest,
    require_made_from,
)
from emergence_ext.store.shards import SHARDS, shard_path

SHARD_BYTES: Final = 2**26
_SHARD: Final = "Shard"  # the kind of each


def remove_rows(path: Path | str, unlike: Mapping[str, str]) -> list[str]:
    """Remove rows at a path that were made from something else, and what `save_rows` made of them.

    Args:
        path: folder of the store.
        unlike: digest of each thing that the rows should depend on.

    Returns:
        Names of what they were made from otherwise; nothing, where nothing was removed.

    Raises:
        StoreError: a damaged manifest.
    """
    folder = Path(path)
    first = shard_path(folder, 0)
    different = differences(made_from(first) or {}, unlike) if exists(first) else []
    if different:
        # What says that something is there goes first, and the shard that says of what goes last.
        shards = sorted(sorted(folder.glob("shard-*")), key=lambda file: file.stem, reverse=True)
        for file in (files_of(path)[1], folder / SHARDS, *shards):
            file.unlink(missing_ok=True)
    return different


class ShardWriter:
    """Appends rows to a store, and goes on with one whose writer was killed.

    Used in a `with` block, at whose end the store is finished; left by an error it keeps the
    shards that were full. `len(writer)` is the number of rows that are there: go on with that one.

    Args:
        folder: of the store; made if it is not there. One process at a time writes into it.
        made_from: digest of each thing that the rows depend on, by a name that an error can say.
        rows_per_shard: rows that are held in memory and that a kill costs, at most. None: as many
            as those that are there have, or 64 MiB in a multiple of what is appended first.

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
        rows_per_shard: int | None = None,
    ) -> None:
        if rows_per_shard is not None and rows_per_shard < 1:
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
        return len(self._digests) * (self.rows_per_shard or 0) + self._filled

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
        (count,) = counts
        size = self._begun(rows, count)
        here, there = _rows_in_words(rows), _rows_in_words(self._buffer)
        if here != there:
            raise ValueError(f"rows: expected {there} like those before, got {here}")
        if self._finished:
            (self.folder / SHARDS).unlink()
            self._finished = False
        start = 0
        while start < count:
            taken = min(count - start, size - self._filled)
            for name, array in rows.items():
                self._buffer[name][self._filled : self._filled + taken] = array[
                    start : start + taken
                ]
            self._filled += taken
            start += taken
            if self._filled == size:
                self._write_shard()

    def _begun(self, rows: Mapping[str, Tensor], count: int) -> int:
        """Rows of a shard, for which there is a buffer."""
        if self.rows_per_shard is None:
            each = sum(array.nbytes for array in rows.values())
            self.rows_per_shard = max(1, count) * max(1, SHARD_BYTES // max(1, each))
        if not self._buffer:
            self._buffer = {
                name: torch.empty((self.rows_per_shard, *array.shape[1:]), dtype=array.dtype)
                for name, array in rows.items()
            }
        return self.rows_per_shard

    def _take_up(self) -> None:
        """Find the rows that are there; those of a shard that is not full are written again."""
        described: Mapping[str, Any] = {}
        while exists(path := shard_path(self.folder, len(self._digests))):
            require_made_from(path, self.made_from)
            manifest = read_manifest(files_of(path)[1])
            there = _setting(manifest, "rows_per_shard")
            if self.rows_per_shard is None:
                self.rows_per_shard = there
            if there != self.rows_per_shard:
                raise ValueError(
                    f"rows_per_shard: {self.folder} was begun with {there} rows a shard, not "
                    f"{self.rows_per_shard}. Go on with that, or remove the folder."
                )
            described = manifest["arrays"]
            if _setting(manifest, "rows") < self.rows_per_shard:
                break
            self._digests.append(manifest_digest(manifest))
        self._finished = (self.folder / SHARDS).is_file()
        self._buffer = {
            name: torch.empty(
                (self.rows_per_shard or 0, *each["shape"][1:]), dtype=dtype_of(each["dtype"])
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
            shard_path(self.folder, number),
            {name: array[: self._filled] for name, array in self._buffer.items()},
            {
                "first": number * (self.rows_per_shard or 0),
                "rows": self._filled,
                "rows_per_shard": self.rows_per_shard or 0,
            },
            kind=_SHARD,
            made_from=self.made_from,
        )
        self._digests.append(content_digest(shard_path(self.folder, number)))
        self._filled = 0

    def _finish(self) -> None:
        rows = len(self)
        if self._filled:
            self._write_shard()
        write_document(
            self.folder / SHARDS,
            {
                "format_version": FORMAT_VERSION,
                "rows": rows,
                "rows_per_shard": self.rows_per_shard or 0,
                "arrays": {
                    name: {"dtype": name_of(array.dtype), "shape": [rows, *array.shape[1:]]}
                    for name, array in self._buffer.items()
                },
                "made_from": self.made_from,
                "shards": self._digests,
            },
        )


def _setting(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest["settings"].get(name)
    if manifest["kind"] != _SHARD or type(value) is not int:
        raise StoreError(f"path: a {manifest['kind']!r} without {name} where a shard should be")
    return value


def _rows_in_words(arrays: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {list(x.shape[1:])} {name_of(x.dtype)}" for name, x in sorted(arrays.items())
    )
