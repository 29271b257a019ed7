"""A folder of shards is filled: in any order, by any process, gone on with where one was killed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext import parallel
from emergence_ext.store.arrays import save_arrays
from emergence_ext.store.documents import StoreError, write_document
from emergence_ext.store.files import locked
from emergence_ext.store.manifests import (
    FORMAT_VERSION,
    differences,
    exists,
    files_of,
    in_words,
    manifest_digest,
    name_of,
    read_manifest,
)
from emergence_ext.store.shards import SHARDS, shard_path

logger = logging.getLogger(__name__)

SHARD_BYTES: Final = 2**26
SHARD_ROWS: Final = 1024
FEWEST: Final = 16  # shards, where there are as many batches: so many processes can share them
_SHARD: Final = "Shard"  # the kind of each

Part = tuple[slice, Mapping[str, Tensor]]
"""Rows, and arrays of those."""


def rows_per_shard(count: int, row_bytes: int, batch_size: int) -> int:
    """How many rows a shard has: a multiple of a batch, whoever computes it.

    Args:
        count: of all rows.
        row_bytes: of all arrays of one row.
        batch_size: rows that are computed together.

    Examples:
        >>> from emergence_ext import store
        >>> store.rows_per_shard(count=10_000, row_bytes=1 << 20, batch_size=32)
        64
    """
    most = min(SHARD_BYTES // max(1, row_bytes), SHARD_ROWS, count // FEWEST)
    return batch_size * max(1, most // batch_size)


def fill_rows(
    path: Path | str,
    made_from: Mapping[str, str],
    count: int,
    size: int,
    compute: Callable[[Sequence[range]], Iterable[Part]],
) -> None:
    """Compute the shards that are not there yet, and finish the store.

    The processes of a job share them; who is killed loses a shard at most, and the next job goes on
    with any number of processes. What is there of other things is removed, which is logged.

    Args:
        path: of the result, without a suffix; the shards are in the folder of that name.
        made_from: digest of each thing that the rows depend on, by a name that an error can say.
        count: of all rows.
        size: rows of a shard, as from `rows_per_shard`; the last may have fewer.
        compute: called once with the rows of all shards that this process is to make, in order;
            gives them in that order, in parts that end where a shard does. Names, dtypes and shapes
            of a row are the same in all.

    Raises:
        ValueError: parts that are not those.
        StoreError: a manifest is damaged.
        RuntimeError: another job works in the folder, or a process of this one ended.
        OSError: it cannot be written, a full disk among the reasons; names the file.

    Examples:
        >>> from emergence_ext import store
        >>> def halves(wanted):
        ...     for rows in wanted:
        ...         yield rows, {"half": torch.tensor([row / 2 for row in rows])}
        ...
        >>> store.fill_rows("shards", {"weights": "a1"}, count=4, size=2, compute=halves)
        >>> len(store.ShardStore("shards"))
        4
    """
    if size < 1:
        raise ValueError(f"size: expected at least one row a shard, got {size}")
    folder = Path(path)
    with locked(folder):
        missing = parallel.first(lambda: _prepare(folder, made_from, count, size))
        shards = [range(k * size, min(count, (k + 1) * size)) for k in missing]
        mine = shards[parallel.rank() :: parallel.world()]
        if mine:
            parts = iter(compute(mine))
            for rows in mine:
                _save(folder, rows, size, _shard(rows, parts), made_from)
        parallel.barrier()
        parallel.first(lambda: _finish(folder, made_from, count, size))


def _prepare(folder: Path, made_from: Mapping[str, str], count: int, size: int) -> list[int]:
    """Numbers of the shards that are not there, after those of other things are removed."""
    different = _remove_others(folder, made_from, size)
    if different:
        logger.warning("%s is made anew: it was of other %s", folder, in_words(different))
    missing = [
        k
        for k in range(-(-count // size))
        if not exists(path := shard_path(folder, k))
        or _setting(read_manifest(files_of(path)[1]), "rows") != min(count - k * size, size)
    ]
    if missing:
        (folder / SHARDS).unlink(missing_ok=True)
    return missing


def _remove_others(folder: Path, made_from: Mapping[str, str], size: int) -> list[str]:
    """Remove shards that were made from something else, with what `save_rows` made of them.

    Returns:
        Names of what they were made from otherwise; nothing, where nothing was removed.
    """
    now = {**made_from, "rows_per_shard": str(size)}
    for file in sorted(folder.glob("shard-*.json")):
        manifest = read_manifest(file)
        rows = str(_setting(manifest, "rows_per_shard"))
        different = differences({**manifest.get("made_from", {}), "rows_per_shard": rows}, now)
        if different:
            break
    else:
        return []
    # What says that something is there goes first, and the manifests that say of what go last.
    shards = sorted(folder.glob("shard-*"), key=lambda shard: shard.suffix != ".safetensors")
    for file in (files_of(folder)[1], folder / SHARDS, *shards):
        file.unlink(missing_ok=True)
    return different


def _shard(rows: range, parts: Iterator[Part]) -> dict[str, Tensor]:
    """Put the arrays of a shard together."""
    shard: dict[str, Tensor] = {}
    filled = rows.start
    while filled < rows.stop:
        part, arrays = next(parts, (slice(0, 0), {}))
        given = {array.shape[0] if array.ndim else -1 for array in arrays.values()}
        if part.start != filled or part.stop > rows.stop or given != {part.stop - part.start}:
            raise ValueError(
                f"rows: expected arrays of the rows from {filled} on, at most to {rows.stop}, got "
                f"{_in_words(arrays)} of the rows {part.start} to {part.stop}"
            )
        if not shard:
            shard = {
                name: torch.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
                for name, array in arrays.items()
            }
        if _rows_in_words(arrays) != _rows_in_words(shard):
            raise ValueError(
                f"rows: expected {_rows_in_words(shard)} like those before, got "
                f"{_rows_in_words(arrays)}"
            )
        for name, array in arrays.items():
            shard[name][filled - rows.start : part.stop - rows.start] = array
        filled = part.stop
    return shard


def _save(
    folder: Path, rows: range, size: int, arrays: Mapping[str, Tensor], made_from: Mapping[str, str]
) -> None:
    save_arrays(
        shard_path(folder, rows.start // size),
        arrays,
        {"first": rows.start, "rows": len(rows), "rows_per_shard": size},
        kind=_SHARD,
        made_from=made_from,
    )


def _finish(folder: Path, made_from: Mapping[str, str], count: int, size: int) -> None:
    """Write the index of a store whose shards are all there."""
    manifests = [
        read_manifest(files_of(shard_path(folder, k))[1]) for k in range(-(-count // size))
    ]
    for k, manifest in enumerate(manifests):
        if _arrays_of(manifest) != _arrays_of(manifests[0]):
            raise StoreError(
                f"path: {shard_path(folder, k)} has other arrays than the first shard beside it. "
                f"Remove {folder}, and compute it again."
            )
    first = _arrays_of(manifests[0]) if manifests else {}
    write_document(
        folder / SHARDS,
        {
            "format_version": FORMAT_VERSION,
            "rows": count,
            "rows_per_shard": size,
            "arrays": {
                name: {"dtype": dtype, "shape": [count, *row]}
                for name, (dtype, row) in first.items()
            },
            "made_from": dict(made_from),
            "shards": [manifest_digest(manifest) for manifest in manifests],
        },
    )


def _arrays_of(manifest: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of a row of each array."""
    return {name: (x["dtype"], x["shape"][1:]) for name, x in manifest["arrays"].items()}


def _setting(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest["settings"].get(name)
    if manifest["kind"] != _SHARD or type(value) is not int:
        raise StoreError(f"path: a {manifest['kind']!r} without {name} where a shard should be")
    return value


def _rows_in_words(arrays: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {list(x.shape[1:])} {name_of(x.dtype)}" for name, x in sorted(arrays.items())
    )


def _in_words(arrays: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items()) or "nothing"
