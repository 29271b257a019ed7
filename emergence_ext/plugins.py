"""Find the user's own objects by `module:name`."""

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["load_callable", "nearest"]


def load_callable(spec: str, argument: str) -> Callable[..., Any]:
    """Import what `module:name` names; modules in the current folder are found too.

    Args:
        spec: dotted module, a colon, dotted name in it, as `my_package.networks:build`.
        argument: what to call the offending argument in an error.

    Raises:
        ValueError: no such module or name, or the object is not callable.
    """
    module_name, _, name = spec.partition(":")
    # An installed command does not have the current folder on its path, `python -m` has.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{argument}: cannot import {error.name!r} for {spec!r}. Is it installed, or in the "
            "current folder?"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{argument}: no {part!r} for {spec!r}.{nearest(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"{argument}: {spec!r} is a {type(found).__name__}, expected something callable"
        )
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Nearest: 'a', 'b'.` for an error message, or nothing where nothing is near."""
    names = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Nearest: {', '.join(map(repr, names))}." if names else ""
