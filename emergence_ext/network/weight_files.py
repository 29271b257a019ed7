"""Tensors out of files of weights, whatever else lies beside them, without running anything."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor

from emergence_ext.lookup import path_named
from emergence_ext.network.origin import check_seal

__all__ = ["WITHIN", "read_weights"]

WITHIN = "/"
"""Between the names of a mapping and of what it holds."""

# Of numbers that training scripts keep beside weights. What else stands in a file is told by its
# index, which files of before PyTorch 1.6 lack.
_OF_NUMPY = ("numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read every tensor of a file by name, without running anything in it.

    Args:
        path: `.safetensors`, or a file of torch.save.

    Returns:
        Tensors by name. Those of a mapping in a mapping have both names with "/" between, as
        `state_dict/conv1.weight`; which of them are a network's, `weights.matched` tells. A key
        that is no text is shown as `<int 3>`. Anything but tensors is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no regular file, no tensors in it, or a file that could not have been written by
            torch.save or safetensors.
    """
    path = path_named(path, "weights")
    if not path.exists():
        raise FileNotFoundError(f"weights: cannot read {path}, there is no such file")
    if not path.is_file():
        # Reading a pipe or a device would wait for ever.
        kind = "a folder: name the file in it" if path.is_dir() else "no regular file"
        raise ValueError(f"weights: {path} is {kind}")
    other = _something_else(path)
    if other is not None:
        raise ValueError(f"weights: {path} is {other}")
    try:
        content = load_file(path) if path.suffix.lower() == ".safetensors" else _unpickled(path)
    except (PermissionError, MemoryError):
        raise
    # The unpickler can raise nearly anything on a file that is no checkpoint.
    except Exception as error:
        raise ValueError(
            f"weights: cannot read {path} as tensors alone ({type(error).__name__}: "
            f"{_one_line(error)}). Save the state_dict: torch.save(net.state_dict(), PATH)"
        ) from error
    check_seal(path, content)
    tensors = dict(_tensors(content)) if isinstance(content, Mapping) else {}
    if not tensors:
        kind = type(content).__name__
        named = kind == "dict" and ", ".join(map(repr, list(content)[:5]))
        raise ValueError(
            f"weights: {path} holds no state_dict but a {kind}{f' of {named}' if named else ''}, "
            "without a tensor. Save torch.save(net.state_dict(), PATH)"
        )
    return tensors


class _Unread(dict[Any, Any]):
    """Stands in for an object in a file: takes whatever it would be made from, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # some are keys


def _unpickled(path: Path) -> Any:
    """Load a file of torch.save; objects in it come as `_Unread`, none of their classes is used."""
    names = set(_OF_NUMPY)
    if zipfile.is_zipfile(path):
        _check_sizes(path)
        names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    elif not _is_pickle(path):  # torch reads some texts for ever
        raise ValueError("it is no file of torch.save")
    # torch itself lets nothing stand for os, posix, nt and sys.
    stand_ins: list[Any] = [
        (type(name.rpartition(".")[2], (_Unread,), {}), name) for name in sorted(names)
    ]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def _something_else(path: Path) -> str | None:
    """Say what a file is that was to hold weights, and what to do; None where it may hold them."""
    with path.open("rb") as file:
        head = file.read(64)
    named_safe = path.suffix.lower() == ".safetensors"
    # A safetensors file begins with the length of its header, whose bytes may spell anything.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return None if named_safe else "of safetensors. Rename it to .safetensors"
    if not head:
        return "empty. Copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file itself. Fetch that: git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "a web page or other markup. Download the file itself"
    if head.lstrip().startswith(b"{"):
        return "JSON, as an index of several files. Join their tensors in one, or name the only one"
    packed = head.startswith(b"PK")
    if packed and not zipfile.is_zipfile(path):
        return "cut off before its end. Copy or download it again"
    if named_safe and (packed or head.startswith(b"\x80")):
        return "of torch.save and not of safetensors. Rename it to .pt"
    return None


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _check_sizes(path: Path) -> None:
    """Refuse an archive that is larger unpacked than packed, before any of it is read."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(
            f"{unpacked:,} bytes are packed into {path.stat().st_size:,}; torch.save packs nothing"
        )


def _tensors(content: Mapping[Any, Any], within: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        name = within + (key if isinstance(key, str) else f"<{type(key).__name__} {key!r}>")
        if isinstance(value, Tensor):
            yield name, value.detach()
        elif isinstance(value, Mapping):
            yield from _tensors(value, name + WITHIN)


def _one_line(error: Exception) -> str:
    """The cause alone: torch adds advice about loading what is not trusted, in many lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).rpartition("WeightsUnpickler error: ")[2]
    return re.split(r"Check the documentation|Please use", " ".join(text.split()))[0].strip()[:200]
