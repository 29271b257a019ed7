"""Named arrays on disk with a manifest: `PATH.safetensors` holds them, `PATH.json` describes them.

The manifest is written last and removed first, so a result exists exactly when its manifest does,
and whoever was killed in the middle finds nothing rather than something half. Every array and the
manifest itself carry a SHA-256, so a flipped bit is an error and never a number.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emergence_ext.store.documents import (
    StoreError,
    json_digest,
    read_document,
    write_document,
)
from emergence_ext.store.files import replace_file

__all__ = [
    "FORMAT_VERSION",
    "StoreError",
    "content_digest",
    "describe",
    "differences",
    "digest_of",
    "exists",
    "in_words",
    "load_arrays",
    "made_from",
    "manifest_digest",
    "read_manifest",
    "require_made_from",
    "save_arrays",
]

FORMAT_VERSION = 1
_NAMED = 6  # differences that a message names


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
        TypeError: a setting that JSON cannot hold.
        OSError: it cannot be written, a full disk among the reasons.
    """
    array_file, manifest_file = _files(path)
    stored = {name: array.detach().cpu().contiguous().clone() for name, array in arrays.items()}
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "package_version": _package_version(),
        "settings": _encode(dict(settings), "settings"),
        "arrays": {name: describe(array) for name, array in stored.items()},
    }
    if made_from is not None:
        manifest["made_from"] = dict(made_from)
    manifest_file.unlink(missing_ok=True)
    replace_file(array_file, lambda temporary: save_file(stored, temporary))
    write_document(manifest_file, manifest)


def load_arrays(
    path: Path | str, *, kind: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_arrays` wrote, after checking that it is complete and unchanged.

    Raises:
        StoreError: absent, damaged, of another kind, or of a newer format.
    """
    array_file, manifest_file = _files(path)
    manifest = read_manifest(manifest_file)
    if kind is not None and manifest["kind"] != kind:
        raise StoreError(f"path: {manifest_file} holds a {manifest['kind']!r}, expected a {kind!r}")
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
    described = manifest["arrays"]
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
    try:
        return arrays, _decode(manifest["settings"])
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"path: {manifest_file} has settings of another kind ({error}). Compute it again."
        ) from error


def made_from(path: Path | str) -> dict[str, str] | None:
    """Digests of what a stored result depends on; None where it was written without.

    Raises:
        StoreError: no manifest, or a damaged one.
    """
    given: dict[str, str] | None = read_manifest(_files(path)[1]).get("made_from")
    return given


def content_digest(path: Path | str) -> str:
    """Digest of what is stored: kind, settings and arrays, but for how many `seconds` it took.

    Only the manifest is read. A result that was made anew to the same bits has the same digest.

    Raises:
        StoreError: no manifest, or a damaged one.
    """
    return manifest_digest(read_manifest(_files(path)[1]))


def digest_of(arrays: Mapping[str, Tensor], settings: Mapping[str, Any], *, kind: str) -> str:
    """The `content_digest` that these would have, were they saved."""
    described = {n: describe(x.detach().cpu().contiguous()) for n, x in arrays.items()}
    encoded = _encode(dict(settings), "settings")
    return manifest_digest({"kind": kind, "settings": encoded, "arrays": described})


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The `content_digest` of what has this manifest."""
    return json_digest(
        [manifest["kind"], _without_seconds(manifest["settings"]), manifest["arrays"]]
    )


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(item) for k, item in value.items() if k != "seconds"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value


def differences(there: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name what of `now` is otherwise in what something was made from."""
    return [name for name, value in now.items() if there.get(name) != value]


def require_made_from(path: Path | str, now: Mapping[str, str]) -> None:
    """Refuse a stored result that was made from something else than is there now.

    One that was written without such digests, by an earlier version, is taken.

    Raises:
        StoreError: names what differs; also no manifest, or a damaged one.
    """
    there = made_from(path)
    different = [] if there is None else differences(there, now)
    if different:
        raise StoreError(
            f"path: {path} was made from other {in_words(different)} than are there now. Make it "
            "again, or bring those back."
        )


def in_words(names: Sequence[str]) -> str:
    """Name a few, and count the rest."""
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def exists(path: Path | str) -> bool:
    """Say whether a whole result was written at `path` (without a suffix)."""
    return _files(path)[1].is_file()


def _files(path: Path | str) -> tuple[Path, Path]:
    # Path.with_suffix would cut a dotted layer name.
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
    raw = array.reshape(-1).view(torch.uint8).numpy().data if array.numel() else b""
    return {
        "dtype": str(array.dtype).removeprefix("torch."),
        "shape": list(array.shape),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def _encode(value: Any, where: str) -> Any:
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
        return [_encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and value.keys() != {"float"}
    ):
        return {key: _encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{where}: expected something that JSON holds, got {type(value).__name__}: {value!r:.80}"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    return value


def _package_version() -> str:
    try:
        return metadata.version("emergence_ext")
    except metadata.PackageNotFoundError:
        return "not installed"
