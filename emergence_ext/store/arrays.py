"""Named arrays on disk with a manifest: `PATH.safetensors` holds them, `PATH.json` describes them.

The manifest is written last and removed first, so a result exists exactly when its manifest does,
and whoever was killed in the middle finds nothing rather than something half. Every array and the
manifest itself carry a SHA-256, so a flipped bit is an error and never a number.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "FORMAT_VERSION",
    "StoreError",
    "exists",
    "load_arrays",
    "save_arrays",
    "write_file",
]

FORMAT_VERSION = 1


class StoreError(ValueError):
    """A stored result is absent, damaged, of another kind or written by a newer version."""


def save_arrays(
    path: Path | str, arrays: Mapping[str, Tensor], settings: Mapping[str, Any], *, kind: str
) -> None:
    """Write named arrays and their settings whole or not at all.

    Args:
        path: without a suffix; `.safetensors` and `.json` are appended, whatever dots it holds.
        arrays: tensors of any shape, dtype and device; stored contiguous, from the CPU.
        settings: strings, numbers (also infinite), booleans, None, and lists and string-keyed dicts
            of them.
        kind: what this is; `load_arrays` can insist on it.

    Raises:
        TypeError: a setting that JSON cannot hold.
    """
    array_file, manifest_file = _files(path)
    stored = {name: array.detach().cpu().contiguous().clone() for name, array in arrays.items()}
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "package_version": _package_version(),
        "settings": _encode(dict(settings), "settings"),
        "arrays": {name: _describe(array) for name, array in stored.items()},
    }
    manifest["sha256"] = _manifest_digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    manifest_file.unlink(missing_ok=True)
    _replace(array_file, lambda temporary: save_file(stored, temporary))
    write_file(manifest_file, text.encode())


def load_arrays(
    path: Path | str, *, kind: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_arrays` wrote, after checking that it is complete and unchanged.

    Raises:
        StoreError: absent, damaged, of another kind, or of a newer format.
    """
    array_file, manifest_file = _files(path)
    manifest = _read_manifest(manifest_file)
    if kind is not None and manifest["kind"] != kind:
        raise StoreError(f"path: {manifest_file} holds a {manifest['kind']!r}, expected a {kind!r}")
    try:
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
        if _describe(array) != described[name]:
            raise StoreError(
                f"path: array {name!r} of {array_file} is not the one that was written (checksum, "
                f"shape or dtype). Delete {manifest_file.name} and compute it again."
            )
    return arrays, _decode(manifest["settings"])


def exists(path: Path | str) -> bool:
    """Say whether a whole result was written at `path` (without a suffix)."""
    return _files(path)[1].is_file()


def write_file(path: Path | str, content: bytes) -> None:
    """Replace a file whole or not at all: temporary name, flush, rename."""
    _replace(Path(path), lambda temporary: temporary.write_bytes(content))


def _files(path: Path | str) -> tuple[Path, Path]:
    # Path.with_suffix would cut a dotted layer name.
    return Path(f"{path}.safetensors"), Path(f"{path}.json")


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the name: names may already be as long as the file system allows.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(
            f"path: no result at {path}. Give the path without a suffix, or compute it first."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"path: {path} is not a readable manifest ({error}). Compute it again."
        ) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int:
        raise StoreError(f"path: {path} is not a manifest of this package")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"path: {path} has format version {version}, this package reads up to "
            f"{FORMAT_VERSION}. Upgrade it."
        )
    digest = manifest.pop("sha256", None)
    if digest != _manifest_digest(manifest) or not isinstance(manifest.get("arrays"), dict):
        raise StoreError(f"path: {path} was changed after it was written. Compute it again.")
    return manifest


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    try:
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise StoreError("path: the manifest is nested too deeply") from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def _describe(array: Tensor) -> dict[str, Any]:
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
