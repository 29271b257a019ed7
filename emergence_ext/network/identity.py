"""What a network is: digests of its weights and of the code that runs in it."""

from __future__ import annotations

import dis
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import unwrap
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from emergence_ext.store import digest

__all__ = ["code_digest", "weights_digest"]

_CONSTANTS = (bool, int, float, str, bytes, type(None))


def weights_digest(module: nn.Module) -> str:
    """Digest of the names and values of all parameters and buffers of a module.

    Examples:
        >>> from emergence_ext import network
        >>> import copy
        >>> a = torch.nn.Linear(4, 2)
        >>> network.weights_digest(copy.deepcopy(a)) == network.weights_digest(a)
        True
    """
    # Buffers that are not persistent are in no state_dict.
    return digest(dict(module.named_buffers()) | dict(module.state_dict()))


def code_digest(part: nn.Module | Callable[..., Any]) -> str:
    """Digest of the code that a network or function runs, without its comments and docstrings.

    Of a module, the class of it and of every part of it, with their settings: as `repr` shows them,
    and attributes that no method but `__init__` sets, functions among them; and its forward hooks.
    Of a function, its own, and what it closes over; of another object, its class and attributes.
    What they use by a global name, or out of a module, counts too, where it is of the same
    top-level package or not installed, and so do global constants and tensors. The code of torch
    does not count, nor what is not written in Python. Another version of Python compiles to another
    digest.

    Examples:
        >>> from emergence_ext import network
        >>> one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        >>> network.code_digest(one) == network.code_digest(other)
        True
        >>> network.code_digest(one) == network.code_digest(torch.nn.Linear(3, 4))
        False
    """
    gathered: dict[str, Any] = {}
    if isinstance(part, nn.Module):
        return digest([*_module(part, gathered), dict(sorted(gathered.items()))])
    _gather(part, gathered)
    return digest(dict(sorted(gathered.items())))


def _module(part: nn.Module, gathered: dict[str, Any]) -> list[Any]:
    """Say how a module is set up; the code of it is added."""
    settings = {}
    for name, each in part.named_modules():
        _gather(type(each), gathered)
        for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values()):
            _gather(hook, gathered)
        for attribute, value in _settings(each):
            settings[f"{name}.{attribute}"] = _noted(value, gathered)
    return [_shown(part), settings]


def _gather(thing: Any, gathered: dict[str, Any]) -> None:
    """Add the code of a class or function, and of what it uses by a global name."""
    if isinstance(thing, partial):
        for each in (thing.func, *thing.args, *thing.keywords.values()):
            if callable(each):
                _gather(each, gathered)
        gathered[f"arguments {len(gathered)}"] = _shown((thing.args, thing.keywords))
        return
    if isinstance(thing, MethodType):
        if not isinstance(thing.__self__, type | nn.Module):
            _gather(thing.__self__, gathered)
        thing = thing.__func__
    thing = unwrap(thing)
    if not isinstance(thing, type | FunctionType):
        for attribute, value in _settings(thing) if hasattr(thing, "__dict__") else ():
            gathered[f"{attribute} {len(gathered)}"] = _noted(value, gathered)
        thing = type(thing)
    name = f"{thing.__module__}.{thing.__qualname__}"
    package = name.partition(".")[0]
    if name in gathered or package in ("torch", "builtins"):
        gathered.setdefault(name, None)
        return
    functions = [thing] if isinstance(thing, FunctionType) else list(_functions(thing))
    gathered[name] = [_code(function) for function in functions]
    if isinstance(thing, type):
        gathered[name].append(
            {k: v for k, v in vars(thing).items() if type(v) in _CONSTANTS and k[:2] != "__"}
        )
        for base in thing.__bases__:
            _gather(base, gathered)
    for function in functions:
        used = set(_names(function.__code__))
        known = {name: function.__globals__[name] for name in used & function.__globals__.keys()}
        for cell_name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            known[f"{function.__qualname__} {cell_name}"] = getattr(cell, "cell_contents", None)
        for used_name, value in sorted(known.items()):
            if isinstance(value, ModuleType) and _counts(value.__name__, package):
                for inner in sorted(used & vars(value).keys()):
                    _note_global(f"{value.__name__}.{inner}", vars(value)[inner], package, gathered)
            else:
                _note_global(f"{function.__module__}.{used_name}", value, package, gathered)


def _note_global(name: str, value: Any, package: str, gathered: dict[str, Any]) -> None:
    """Add what code uses by a name outside of it, if it is of the user's own or plain data."""
    if name in gathered:
        return
    if _is_plain(value):
        gathered[name] = _noted(value, gathered)
    elif isinstance(value, nn.Module):
        gathered[name] = ""  # it may use itself
        gathered[name] = [weights_digest(value), *_module(value, gathered)]
    elif isinstance(value, type | FunctionType | partial) and _counts(
        getattr(value, "__module__", package), package
    ):
        _gather(value, gathered)


def _counts(module: str, package: str) -> bool:
    """Whether a module is of the same package, or a file of the user's own."""
    if module.partition(".")[0] == package:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.startswith("emergence_ext."):
        return False
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not path.is_relative_to(sysconfig.get_paths()["stdlib"])


def _is_plain(value: Any) -> bool:
    """Whether a value is a setting: a constant, a tensor, or a list or mapping of constants.

    One that is empty or holds tensors is there to be filled, as a cache.
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and _is_plain([*value.values()])
    if isinstance(value, list | tuple):
        parts = (not isinstance(x, Tensor | np.ndarray) and _is_plain(x) for x in value)
        return bool(value) and all(parts)
    return type(value) in _CONSTANTS or isinstance(value, Tensor | np.ndarray)


def _noted(value: Any, gathered: dict[str, Any]) -> Any:
    """What stands for a value in a digest; what can be called is added."""
    if _is_plain(value) and not isinstance(value, str):
        return value
    if callable(value):
        _gather(value, gathered)
    return _named(value)


def _settings(thing: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of a module or other object, by name, that decide over what it computes.

    What other methods than `__init__` set is state, as a counter or the shape of the last input.
    """
    state = {
        name
        for kind in type(thing).__mro__
        if kind.__module__.partition(".")[0] != "torch"
        for function in _functions(kind)
        if function.__name__ != "__init__"
        for name in _assigned(function.__code__)
    }
    for name, value in sorted(vars(thing).items()):
        if name[0] == "_" or name == "training" or name in state:
            continue
        if _is_plain(value) or callable(value):
            yield name, value


def _assigned(code: CodeType) -> Iterator[str]:
    """Names of attributes that code sets."""
    yield from (x.argval for x in dis.get_instructions(code) if x.opname == "STORE_ATTR")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _assigned(constant)


def _named(value: Any) -> str:
    """Text of a setting; of a function or class, which one it is."""
    return getattr(value, "__qualname__", _shown(value))


def _shown(value: Any) -> str:
    """Text of a value that is the same in every process."""
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(repr, value))}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _functions(kind: type) -> Iterator[FunctionType]:
    for value in vars(kind).values():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        function = unwrap(function) if callable(function) else function
        if isinstance(function, FunctionType):
            yield function


def _names(code: CodeType) -> Iterator[str]:
    """Names that code uses, that of nested functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code(function: FunctionType) -> list[Any]:
    return [
        function.__qualname__,
        _shown(function.__defaults__),
        _compiled(function.__code__, function.__doc__),
    ]


def _compiled(code: CodeType, documentation: str | None) -> list[Any]:
    constants = [
        _compiled(x, None) if isinstance(x, CodeType) else _shown(x)
        for x in code.co_consts
        if not isinstance(x, str) or x != documentation
    ]
    # A docstring moves the constants behind it, so that the bytes of two codes differ by it alone
    # only where there is one and there is none.
    return [code.co_code, list(code.co_names), list(code.co_varnames), constants]
