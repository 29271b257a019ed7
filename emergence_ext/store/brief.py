"""Named data in one line: what there is and of which shape, not its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from torch import Tensor

_LONGEST: Final = 60  # characters of a value
_FEW: Final = 4  # entries of a list or dict


def in_short(value: object) -> str:
    """Return a dataclass as `Name(field=value, ...)`, its fields as `brief` says them."""
    named = ((field.name, getattr(value, field.name)) for field in fields(value) if field.repr)  # type: ignore[arg-type]
    parts = ", ".join(f"{name}={brief(x)}" for name, x in named)
    return f"{type(value).__name__}({parts})"


def brief(value: Any) -> str:
    """Return a tensor as its shape, what is long as its length, and all else as `repr` does."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return f"{value.item():.6g}"
        return f"[{', '.join(map(str, value.shape))}] {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        entries = [f"{key}: {brief(x)}" for key, x in list(value.items())[:_FEW]]
        return f"{{{', '.join([*entries, *_more(len(value))])}}}"
    if isinstance(value, list | tuple):
        entries = [brief(x) for x in value[:_FEW]]
        return f"[{', '.join([*entries, *_more(len(value))])}]"
    if is_dataclass(value):
        return in_short(value)
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _more(count: int) -> list[str]:
    return [f"... {count} in all"] if count > _FEW else []
