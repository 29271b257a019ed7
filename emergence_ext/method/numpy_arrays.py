"""NumPy's arrays in place of tensors: what comes in as an array goes out as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from itertools import zip_longest
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def takes_numpy(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of tensors take NumPy's arrays too; then tensors are returned as arrays.

    Lists of numbers count as arrays. What the function annotates as a tensor is refused where it
    holds no real numbers that can be computed with.

    Examples:
        >>> import numpy as np
        >>> from emergence_ext import method
        >>> halved = method.takes_numpy(method.spearman)
        >>> halved(np.arange(3.0), np.arange(3.0) ** 2)
        array(1.)
    """
    parameters = inspect.signature(function).parameters
    kinds = {name: str(parameter.annotation) for name, parameter in parameters.items()}

    def settled(name: str, x: Any) -> Any:
        if kinds.get(name) == "Tensor" or (kinds.get(name) == "Tensor | None" and x is not None):
            return tensor_of(name, x)
        return _tensor(x) if isinstance(x, np.ndarray) else x

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        named = list(zip_longest([*kinds][: len(args)], args, fillvalue=""))  # too many
        given = [*named, *kwargs.items()]
        numpy = any(
            isinstance(x, np.ndarray) or (isinstance(x, list) and kinds.get(name) == "Tensor")
            for name, x in given
        )
        positional = [settled(name, x) for name, x in named]
        result = function(*positional, **{name: settled(name, x) for name, x in kwargs.items()})
        return _array(result) if numpy else result

    return called


def _array(result: Any) -> Any:
    """A tensor as an array, and each of a pair of them."""
    if type(result) is tuple:
        return tuple(map(_array, result))
    return result.detach().numpy() if isinstance(result, Tensor) else result


def tensor_of(name: str, x: Any) -> Tensor:
    """Numbers that can be computed with, as a tensor.

    Raises:
        TypeError, ValueError: what came is something else; names it.
    """
    if not isinstance(x, Tensor):
        try:
            array = np.asarray(x)
        except (ValueError, TypeError, RuntimeError):
            raise TypeError(f"{name}: expected an array of numbers in rows of one length") from None
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise TypeError(
                f"{name}: expected a tensor or an array of numbers, got {type(x).__name__}"
                + (f" of {array.dtype}" if isinstance(x, np.ndarray) else "")
            )
        return _tensor(array)
    if x.is_meta:
        raise ValueError(f"{name}: it is on the meta device, which holds no numbers")
    if x.layout is not torch.strided:
        raise ValueError(f"{name}: it is sparse; give it as a dense tensor")
    if x.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {x.dtype}")
    return x


def _tensor(x: np.ndarray) -> Tensor:
    # Torch knows one byte order, and warns of memory that NumPy does not let anybody write to.
    native = x.astype(x.dtype.newbyteorder("="), copy=not x.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(native))
