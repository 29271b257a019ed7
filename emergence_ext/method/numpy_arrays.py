"""NumPy's arrays in place of tensors: what comes in as an array goes out as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def takes_numpy(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of tensors take NumPy's arrays too; then a tensor is returned as an array."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [*args, *kwargs.values()]
        if not any(isinstance(x, np.ndarray) for x in given):
            return function(*args, **kwargs)
        result = function(*map(_tensor, args), **{k: _tensor(x) for k, x in kwargs.items()})
        return result.numpy() if isinstance(result, Tensor) else result  # type: ignore[return-value]

    return called


def _tensor(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return x
    # Torch knows one byte order, and warns of memory that NumPy does not let anybody write to.
    native = x.astype(x.dtype.newbyteorder("="), copy=not x.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(native))
