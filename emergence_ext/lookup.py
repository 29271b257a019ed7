"""Find things by name: the user's own objects, packages of extras, what a wrong name meant."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = {
    "captum": ("captum", "studies"),
    "imageio_ffmpeg": ("imageio-ffmpeg", "report"),
    "jinja2": ("jinja2", "report"),
    "mlxtend": ("mlxtend", "demo"),
    "skimage": ("scikit-image", "studies"),
    "sklearn": ("scikit-learn", "studies"),
    "timm": ("timm", "timm"),
    "torchvision": ("torchvision", "models"),
}
"""Module -> the package that brings it, and the extra that brings the package."""


def load_callable(spec: str, argument: str) -> Callable[..., Any]:
    """Import what `module:name` names; modules in the current folder are found too.

    Args:
        spec: dotted module, a colon, dotted name in it, as `my_package.networks:build`.
        argument: what to call the offending argument in an error.

    Raises:
        ValueError: no such module or name, or the object is not callable.
    """
    # An installed command does not have the current folder on its path, `python -m` has.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        # By itself, so that an AttributeError of the user's module is not taken for ours.
        importlib.import_module(spec.partition(":")[0])
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{argument}: cannot import {error.name!r} for {spec!r}. Is it installed, or in the "
            "current folder?"
        ) from error
    try:
        loaded = pkgutil.resolve_name(spec)
    except AttributeError as error:
        raise ValueError(
            f"{argument}: no {error.name!r} for {spec!r}.{nearest(str(error.name), dir(error.obj))}"
        ) from None
    if not callable(loaded):
        raise ValueError(
            f"{argument}: {spec!r} is a {type(loaded).__name__}, expected something callable"
        )
    return loaded


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Nearest: 'a', 'b'.` for an error message, or nothing where nothing is near."""
    names = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Nearest: {', '.join(map(repr, names))}." if names else ""


def optional(module: str, what: str) -> Any:
    """Import a module of a package that only an extra brings.

    Args:
        module: its dotted name, as `sklearn.manifold`.
        what: what needs it, for the error.

    Raises:
        ImportError: the package is absent; the text says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package, extra = _PACKAGES[module.partition(".")[0]]
        raise ImportError(
            f"{what} needs {package}: pip install 'emergence_ext[{extra}]'"
        ) from error
