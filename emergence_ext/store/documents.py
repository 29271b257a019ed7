"""JSON files that carry a digest of themselves: manifests, and what describes a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emergence_ext.store.files import write_file

__all__ = ["StoreError", "json_digest", "read_document", "write_document"]


class StoreError(ValueError):
    """A stored result is absent, damaged, of another kind or written by another version.

    Examples:
        >>> from emergence_ext import store
        >>> store.save_arrays("g", {"g": torch.ones(2)}, {}, kind="samples")
        >>> store.load_arrays("g", kind="regions")
        Traceback (most recent call last):
        emergence_ext.store.documents.StoreError: ...
    """


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of itself, whole or not at all.

    Args:
        path: the file.
        content: strict JSON, with a `format_version`.

    Raises:
        ValueError: a number that is not finite.
        OSError: it cannot be written, a full disk among the reasons.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import store
        >>> store.write_document(Path("index.json"), {"format_version": 1, "rows": 9})
        >>> "sha256" in Path("index.json").read_text()
        True
    """
    write_file(path, _as_bytes({**content, "sha256": json_digest(content)}))


def read_document(
    path: Path, version: int, advice: str, *, what: str = "path", undigested: bool = False
) -> dict[str, Any]:
    """Read what `write_document` wrote, less the digest, after comparing that.

    Args:
        path: the file.
        version: that is read, no other.
        advice: what to do where it is damaged, a sentence.
        what: the argument that leads to the file, for errors.
        undigested: also take a JSON object without a digest, of an earlier version or none.

    Raises:
        FileNotFoundError: no such file.
        StoreError: anything else that is wrong with it.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import store
        >>> store.write_document(Path("index.json"), {"format_version": 1, "rows": 9})
        >>> store.read_document(Path("index.json"), 1, "Make it anew.")
        {'format_version': 1, 'rows': 9}
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{what}: no file {path}")
    try:
        stored = path.read_bytes()
        content = json.loads(stored, parse_constant=_refuse)
        # `1e-05` and `1E-05` are one number: what is noticed is a change of any byte.
        whole = isinstance(content, dict) and _as_bytes(content) == stored
        written = content.pop("sha256", None) if isinstance(content, dict) else None
        here = json_digest(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{what}: {path} is no JSON that can be read ({reason}). {advice}") from (
            error
        )
    if not isinstance(content, dict):
        raise StoreError(
            f"{what}: {path} must hold an object, got {type(content).__name__}. {advice}"
        )
    there = content.get("format_version")
    if undigested and written is None and (there is None or _is_earlier(there, version)):
        return content
    if type(there) is not int or there != version:
        raise StoreError(
            f"{what}: {path} has format version {there!r:.40}, this program reads {version}. Use "
            f"the version of emergence_ext that wrote it, or: {advice}"
        )
    if written != here or not whole:
        raise StoreError(f"{what}: {path} was changed after it was written. {advice}")
    return content


def _as_bytes(whole: Mapping[str, Any]) -> bytes:
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
    # Names of files may hold bytes that are no text, which Python keeps as lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def json_digest(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _is_earlier(there: object, version: int) -> bool:
    return type(there) is int and 1 <= there < version


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
