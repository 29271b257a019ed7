"""Named arrays on disk with a manifest: `PATH.safetensors` holds them, `PATH.json` describes them.

The manifest is written last and removed first, so a result exists exactly when its manifest does,
and whoever was killed in the middle finds nothing rather than something half. Every array and the
manifest itself carry a SHA-256, so a flipped bit is an error and never a number.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.store.documents import StoreError, write_document
from emergence_ext.store.files import replace_file
from emergence_ext.store.manifests import (
    decode,
    describe,
    encode,
    files_of,
    manifest_digest,
    manifest_of,
    read_manifest,
)
from emergence_ext.store.shards import ShardStore

__all__ = ["StoreError", "digest_of", "load_arrays", "save_arrays", "save_rows"]


def save_arrays(
    path: Path | str,
    arrays: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    *,
    kind: str,
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays and their settings whole or not at all.

    Args:
        path: without a suffix; `.safetensors` and `.json` are appended, whatever dots it holds.
        arrays: tensors of any shape, dtype and device; stored contiguous, from the CPU.
        settings: strings, numbers (also infinite), booleans, None, and lists and string-keyed dicts
            of them.
        kind: what this is; `load_arrays` can insist on it.
        made_from: digest of each thing that the arrays depend on, by a name that an error can say,
            as "weights".

    Raises:
        TypeError: an array that is none, or a setting that JSON cannot hold.
        OSError: it cannot be written, a full disk among the reasons.

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays("g", {"g": torch.arange(3)}, {"tau": 0.4}, kind="samples")
        >>> arrays, settings = store.load_arrays("g")
        >>> arrays["g"], settings
        (tensor([0, 1, 2]), {'tau': 0.4})
    """
    array_file, manifest_file = files_of(path)
    require_kind(arrays=(arrays, Mapping))
    stored = {name: _plain(name, array) for name, array in arrays.items()}
    described = {name: describe(array) for name, array in stored.items()}
    manifest = manifest_of(described, settings, kind, made_from)
    manifest_file.unlink(missing_ok=True)
    replace_file(array_file, lambda temporary: save_file(stored, temporary))
    write_document(manifest_file, manifest)


def _plain(name: str, array: Any) -> Tensor:
    """An array as it is stored: contiguous, from the CPU."""
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array)
    if not isinstance(array, Tensor):
        raise TypeError(f"arrays: {name!r} is a {type(array).__name__}, expected a tensor")
    if array.is_meta or array.layout is not torch.strided:
        raise TypeError(
            f"arrays: {name!r} is sparse, or on the meta device; give it as it is dense"
        )
    return array.detach().cpu().contiguous().clone()


def save_rows(
    path: Path | str,
    settings: Mapping[str, Any],
    *,
    kind: str,
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Make the arrays of a finished `ShardStore` in the folder `path` a result at that path.

    It is read like what `save_arrays` writes, has the same digest, and takes its place.

    Args:
        path, settings, kind, made_from: as for `save_arrays`.

    Raises:
        TypeError: a setting that JSON cannot hold.
        StoreError: a shard that is missing, damaged or of another store.
        OSError: it cannot be written.

    Examples:
        >>> from emergence_ext import store
        >>> def halves(wanted):
        ...     for rows in wanted:
        ...         yield rows, {"half": torch.tensor([row / 2 for row in rows])}
        ...
        >>> store.fill_rows("many", {}, count=4, size=2, compute=halves)
        >>> store.save_rows("many", {"tau": 0.4}, kind="halves")
        >>> store.load_arrays("many", kind="halves")
        ({'half': tensor([0.0000, 0.5000, 1.0000, 1.5000])}, {'tau': 0.4})
    """
    array_file, manifest_file = files_of(path)
    store = ShardStore(path)
    manifest = manifest_of(store.describe(), settings, kind, made_from)
    write_document(manifest_file, {**manifest, "shards": store.digest()})
    array_file.unlink(missing_ok=True)


def load_arrays(
    path: Path | str,
    *,
    kind: str | None = None,
    names: Collection[str] | None = None,
    optional: Collection[str] = (),
    rows: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_arrays` or `save_rows` wrote, after checking that it is whole and unchanged.

    Args:
        path: without a suffix.
        kind: that it must be; None: any.
        names: arrays to read; None: all.
        optional: further ones, where they are there.
        rows: rows of these to read, indices `[n]`; None: all.

    Raises:
        StoreError: absent, damaged, of another kind, or of a newer format.
        ValueError: no array of such a name.
        IndexError: no such row.

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays("g", {"g": torch.arange(3)}, {"tau": 0.4}, kind="samples")
        >>> store.load_arrays("g", rows=torch.tensor([2, 0]))
        ({'g': tensor([2, 0])}, {'tau': 0.4})
    """
    manifest_file = files_of(path)[1]
    manifest = read_manifest(manifest_file)
    if kind is not None and manifest["kind"] != kind:
        raise StoreError(f"path: {manifest_file} holds a {manifest['kind']!r}, expected a {kind!r}")
    described = manifest["arrays"]
    wanted = list(described if names is None else names)
    wanted += [name for name in optional if name in described and name not in wanted]
    absent = [name for name in wanted if name not in described]
    if absent:
        raise ValueError(f"names: no {absent} in {manifest_file}, there are {list(described)}")
    if "shards" in manifest:
        arrays = _from_shards(Path(path), manifest, wanted, rows)
    else:
        arrays = {name: array for name, array in _whole(path, described).items() if name in wanted}
        if rows is not None:
            arrays = {name: array[rows] for name, array in arrays.items()}
    try:
        return arrays, decode(manifest["settings"])
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"path: {manifest_file} has settings of another kind ({error}). Compute it again."
        ) from error


def _whole(path: Path | str, described: Mapping[str, Any]) -> dict[str, Tensor]:
    """All arrays of one file."""
    array_file, manifest_file = files_of(path)
    try:
        if not array_file.is_file():  # a pipe would be waited for
            raise FileNotFoundError("no such file")
        mapped = load_file(array_file)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"path: {array_file} is missing or damaged ({error}). Delete {manifest_file.name} and "
            "compute it again."
        ) from error
    # Arrays lie in the file at any address, and products of unaligned ones differ in the last bit
    # from those of the arrays that were stored.
    arrays = {name: mapped.pop(name).clone() for name in list(mapped)}
    if arrays.keys() != described.keys():
        raise StoreError(
            f"path: {array_file} lacks arrays {sorted(described.keys() - arrays.keys())} "
            f"and has unknown ones {sorted(arrays.keys() - described.keys())}"
        )
    for name, array in arrays.items():
        if describe(array) != described[name]:
            raise StoreError(
                f"path: array {name!r} of {array_file} is not the one that was written (checksum, "
                f"shape or dtype). Delete {manifest_file.name} and compute it again."
            )
    return arrays


def _from_shards(
    path: Path, manifest: Mapping[str, Any], names: Collection[str], rows: Tensor | None
) -> dict[str, Tensor]:
    """Arrays of a store of rows, which compares each shard with its digests."""
    try:
        store = ShardStore(path)
    except FileNotFoundError as error:
        raise StoreError(
            f"path: {path} is not finished as {path.name}.json says. Delete that, and compute it "
            "again."
        ) from error
    if store.digest() != manifest["shards"] or not store.shapes.keys() >= {*names}:
        raise StoreError(
            f"path: the shards in {path} are not those of {path.name}.json. Delete that and the "
            "folder, and compute it again."
        )
    if rows is None:
        return {name: store.slice(name, 0, len(store)) for name in names}
    return {name: store.rows(name, rows) for name in names}


def digest_of(arrays: Mapping[str, Tensor], settings: Mapping[str, Any], *, kind: str) -> str:
    """The `content_digest` that these would have, were they saved."""
    described = {n: describe(x.detach().cpu().contiguous()) for n, x in arrays.items()}
    encoded = encode(dict(settings))
    return manifest_digest({"kind": kind, "settings": encoded, "arrays": described})
