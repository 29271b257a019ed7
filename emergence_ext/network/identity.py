"""What a network is: digests of its weights and of the code that runs in it."""

from __future__ import annotations

import dis
import re
from collections.abc import Callable, Iterator
from functools import partial
from inspect import unwrap
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from emergence_ext.store import digest

__all__ = ["code_digest", "weights_digest"]

_CONSTANTS = (bool, int, float, str, bytes, type(None))


def weights_digest(module: nn.Module) -> str:
    """Digest of the names and values of all parameters and buffers of a module."""
    # Buffers that are not persistent are in no state_dict.
    return digest(dict(module.named_buffers()) | dict(module.state_dict()))


def code_digest(part: nn.Module | Callable[..., Any]) -> str:
    """Digest of the code that a network or function runs, without its comments and docstrings.

    Of a module, the class of it and of every part of it, with their settings: as `repr` shows them,
    and attributes that no method but `__init__` sets, functions among them; and its forward hooks.
    Of a function, its own.
    What they use by a global name counts too, where it is of the same top-level package, and so do
    global constants. The code of torch does not count, nor what is not written in Python. Another
    version of Python compiles to another digest.
    """
    gathered: dict[str, Any] = {}
    if isinstance(part, nn.Module):
        settings = {}
        for name, each in part.named_modules():
            _gather(type(each), gathered)
            for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values()):
                _gather(hook, gathered)
            for attribute, value in _settings(each):
                if callable(value):
                    _gather(value, gathered)
                settings[f"{name}.{attribute}"] = _named(value)
        return digest([_shown(part), settings, dict(sorted(gathered.items()))])
    _gather(part, gathered)
    return digest(dict(sorted(gathered.items())))


def _gather(thing: Any, gathered: dict[str, Any]) -> None:
    """Add the code of a class or function, and of what it uses by a global name."""
    if isinstance(thing, partial):
        for each in (thing.func, *thing.args, *thing.keywords.values()):
            if callable(each):
                _gather(each, gathered)
        gathered[f"arguments {len(gathered)}"] = _shown((thing.args, thing.keywords))
        return
    thing = thing.__func__ if isinstance(thing, MethodType) else unwrap(thing)
    if not isinstance(thing, type | FunctionType):
        thing = type(thing) if hasattr(type(thing), "__module__") else thing
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
        for used in _names(function.__code__):
            value = function.__globals__.get(used, ...)
            if type(value) in _CONSTANTS:
                gathered[f"{function.__module__}.{used}"] = value
            elif (
                isinstance(value, type | FunctionType)
                and value.__module__.partition(".")[0] == package
            ):
                _gather(value, gathered)


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of a module, by name, that decide over what it computes.

    What other methods than `__init__` set is state, as a counter or the shape of the last input.
    """
    state = {
        name
        for kind in type(module).__mro__
        if kind.__module__.partition(".")[0] != "torch"
        for function in _functions(kind)
        if function.__name__ != "__init__"
        for name in _assigned(function.__code__)
    }
    for name, value in sorted(vars(module).items()):
        plain = isinstance(value, _CONSTANTS) or callable(value)
        listed = isinstance(value, list | tuple) and all(type(x) in _CONSTANTS for x in value)
        if (plain or listed) and name[0] != "_" and name != "training" and name not in state:
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
