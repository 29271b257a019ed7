"""One digest of anything that a result depends on: arrays, settings, text, and lists of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest"]


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def digest(value: Any) -> str:
    """Return the SHA-256 of a value, as hexadecimal text.

    Two values have one digest exactly when they are equal in type, order and every bit: of a tensor
    its dtype, shape and elements, wherever it lies and whatever its strides.

    Args:
        value: None, a boolean, number, text or bytes, a tensor or array, or a list, tuple or
            mapping with text as keys of such values. Tuples count as lists.

    Raises:
        TypeError: anything else.

    Examples:
        >>> from emergence_ext import store
        >>> store.digest([1, 2]) == store.digest((1, 2)), store.digest(1) == store.digest(1.0)
        (True, False)
    """
    result = hashlib.sha256()
    _feed(result, value)
    return result.hexdigest()


def _feed(result: _Hash, value: Any) -> None:
    # Every part begins with its kind and length, so that no two values run into each other.
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().resolve_conj().resolve_neg()
        result.update(f"tensor {array.dtype} {list(array.shape)} ".encode())
        result.update(array.view(-1).view(torch.uint8).numpy().data if array.numel() else b"")
    elif isinstance(value, Mapping):
        result.update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"value: expected text as keys, got {key!r:.60}")
            _feed(result, key)
            _feed(result, item)
    elif isinstance(value, list | tuple):
        result.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(result, item)
    elif isinstance(value, str | bytes):
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        result.update(f"{type(value).__name__} {len(raw)} ".encode())
        result.update(raw)
    elif value is None or isinstance(value, bool | int | float):
        result.update(f"{type(value).__name__} {value!r} ".encode())
    else:
        raise TypeError(f"value: no digest of a {type(value).__name__}")
