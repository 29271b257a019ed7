"""What lies beside arrays: a manifest with a digest of each, what they were made from, settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from emergence_ext.lookup import path_named
from emergence_ext.store.documents import StoreError, json_digest, read_document

FORMAT_VERSION: Final = 1
_NAMED: Final = 6  # differences that a message names


def made_from(path: Path | str) -> dict[str, str] | None:
    """Digests of what a stored result depends on; None where it was written without.

    Raises:
        StoreError: no manifest, or a damaged one.

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays(
        ...     "g", {"g": torch.ones(2)}, {}, kind="samples", made_from={"weights": "a1"}
        ... )
        >>> store.made_from("g")
        {'weights': 'a1'}
    """
    given: dict[str, str] | None = read_manifest(files_of(path)[1]).get("made_from")
    return given


def content_digest(path: Path | str) -> str:
    """Digest of what is stored: kind, settings and arrays, but for how many `seconds` it took.

    Only the manifest is read. A result that was made anew to the same bits has the same digest.

    Raises:
        StoreError: no manifest, or a damaged one.

    Examples:
        >>> from emergence_ext import store
        >>> for path in ("a", "b"):
        ...     store.save_arrays(path, {"g": torch.ones(2)}, {"tau": 0.4}, kind="samples")
        ...
        >>> store.content_digest("a") == store.content_digest("b")
        True
    """
    return manifest_digest(read_manifest(files_of(path)[1]))


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The `content_digest` of what has this manifest."""
    return json_digest(
        [manifest["kind"], _without_seconds(manifest["settings"]), manifest["arrays"]]
    )


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(item) for k, item in value.items() if k != "seconds"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value


def manifest_of(
    arrays: Mapping[str, Any],
    settings: Mapping[str, Any],
    kind: str,
    made_from: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What a manifest says.

    Raises:
        TypeError: a setting that JSON cannot hold.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "package_version": _package_version(),
        "settings": encode(dict(settings)),
        "arrays": dict(arrays),
    }
    return manifest if made_from is None else {**manifest, "made_from": dict(made_from)}


def differences(there: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name what of `now` is otherwise in what something was made from.

    Examples:
        >>> from emergence_ext import store
        >>> store.differences({"weights": "a1", "images": "b2"}, {"weights": "a1", "images": "c3"})
        ['images']
    """
    return [name for name, value in now.items() if there.get(name) != value]


def require_made_from(path: Path | str, now: Mapping[str, str]) -> None:
    """Refuse a stored result that was made from something else than is there now.

    One that was written without such digests, by an earlier version, is taken.

    Raises:
        StoreError: names what differs; also no manifest, or a damaged one.

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays(
        ...     "g", {"g": torch.ones(2)}, {}, kind="samples", made_from={"weights": "a1"}
        ... )
        >>> store.require_made_from("g", {"weights": "b2"})
        Traceback (most recent call last):
        emergence_ext.store.documents.StoreError: ...
    """
    there = made_from(path)
    different = [] if there is None else differences(there, now)
    if different:
        raise StoreError(
            f"path: {path} was made from other {in_words(different)} than are there now. Make it "
            "again, or bring those back."
        )


def in_words(names: Sequence[str]) -> str:
    """Name a few, and count the rest.

    Examples:
        >>> from emergence_ext import store
        >>> store.in_words(["a.png", "b.png"]), store.in_words([f"{i}.png" for i in range(9)])
        ('a.png, b.png', '0.png, 1.png, 2.png, 3.png, 4.png, 5.png and 3 more')
    """
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def exists(path: Path | str) -> bool:
    """Say whether a whole result was written at `path` (without a suffix).

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays("g", {"g": torch.ones(2)}, {}, kind="samples")
        >>> store.exists("g"), store.exists("h")
        (True, False)
    """
    return files_of(path)[1].is_file()


def files_of(path: Path | str) -> tuple[Path, Path]:
    """The files of arrays and manifest at a path without a suffix."""
    # Path.with_suffix would cut a dotted layer name.
    path = path_named(path, "path")
    return Path(f"{path}.safetensors"), Path(f"{path}.json")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest that `save_arrays` wrote.

    Raises:
        StoreError: none there, or a damaged one.
    """
    try:
        manifest = read_document(path, FORMAT_VERSION, "Compute it again.")
    except FileNotFoundError as error:
        raise StoreError(
            f"path: no result at {path}. Give the path without a suffix, or compute it first."
        ) from error
    if not _is_manifest(manifest):
        raise StoreError(f"path: {path} is not a manifest of this package. Compute it again.")
    return manifest


def _is_manifest(manifest: Mapping[str, Any]) -> bool:
    """Whether the parts of a manifest are of the kinds that `save_arrays` writes."""
    origins = manifest.get("made_from", {})
    return (
        isinstance(manifest.get("kind"), str)
        and isinstance(manifest.get("settings"), dict)
        and isinstance(manifest.get("arrays"), dict)
        and isinstance(origins, dict)
        and all(isinstance(value, str) for value in origins.values())
    )


def describe(array: Tensor) -> dict[str, Any]:
    """What a manifest says of an array on the CPU: dtype, shape and SHA-256."""
    sha = hashlib.sha256()
    feed(sha, array)
    return described_as(array, sha.hexdigest())


def described_as(array: Tensor, sha256: str) -> dict[str, Any]:
    """The same of an array whose SHA-256 is known."""
    return {"dtype": name_of(array.dtype), "shape": list(array.shape), "sha256": sha256}


def feed(sha: Any, array: Tensor) -> None:
    """Put the elements of an array on the CPU into a hash."""
    if array.numel():
        sha.update(array.reshape(-1).view(torch.uint8).numpy().data)


def name_of(dtype: torch.dtype) -> str:
    """How a manifest calls a dtype."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """The dtype that a manifest calls so.

    Raises:
        StoreError: there is none.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise StoreError(f"path: {name!r} is no dtype. Compute it again.")
    return dtype


def encode(value: Any, where: str = "settings") -> Any:
    """Make `value` strict JSON, which cannot say infinite; a clean feature's concentration is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and value.keys() != {"float"}
    ):
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{where}: expected something that JSON holds, got {type(value).__name__}: {value!r:.80}"
    )


def decode(value: Any) -> Any:
    """Undo `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: decode(item) for key, item in value.items()}
    return value


def _package_version() -> str:
    try:
        return metadata.version("emergence_ext")
    except metadata.PackageNotFoundError:
        return "not installed"
