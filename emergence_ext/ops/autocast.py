"""The ops under autocast: float32 of what they are given, whoever computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Asked for here, as torch 2.11 cannot trace the question.
_AVAILABLE: Final = tuple(
    kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)
)


def in_float32(op: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make `op` compute in float32 where autocast is on for the device of its tensors.

    Lower-precision tensors are cast up first, float64 stays, and nothing inside is cast down.
    `torch.library.register_autocast` does not serve: it refuses every argument given by keyword
    (torch 2.14), and plain torch needs the same.
    """

    @wraps(op)
    def cast_up(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        device = next((x.device.type for x in tensors), None)
        if device is None or not _is_on(device):
            return op(*args, **kwargs)
        raised = {name: _raised(x) for name, x in kwargs.items()}
        with torch.autocast(device, enabled=False):
            return op(*map(_raised, args), **raised)  # type: ignore[arg-type]

    return cast_up


def _is_on(device: str) -> bool:
    return device in _AVAILABLE and torch.is_autocast_enabled(device)


def _raised(x: object) -> object:
    if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64:
        return x.float()
    return x
