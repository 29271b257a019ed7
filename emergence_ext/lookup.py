"""Find things by name: the user's own objects, packages of extras, what a wrong name meant.

What the user's own objects raise is told by `user_code`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

_PACKAGES: Final = {
    "captum": ("captum", "studies"),
    "imageio_ffmpeg": ("imageio-ffmpeg", "report"),
    "mlxtend": ("mlxtend", "demo"),
    "pyarrow": ("pyarrow", "export"),
    "skimage": ("scikit-image", "studies"),
    "sklearn": ("scikit-learn", "studies"),
    "timm": ("timm", "timm"),
    "torchvision": ("torchvision", "models"),
    "transformers": ("transformers", "hf"),
}
"""Module -> the package that brings it, and the extra that brings the package."""


_NEEDED: Final = ("torch", "numpy", "scipy", "matplotlib", "PIL", "safetensors", "filelock")
"""Modules of the packages that no room does without."""


class UserCodeError(ValueError):
    """What code of the user's raised, with its place; what it raised is the cause.

    Attributes:
        advice: sentences about what to do, which stand behind the text.
    """

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(f"{text}. {advice}" if advice else text)
        self.text = text
        self.advice = advice


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run code of the user's in the block, and tell what it raises by its place.

    Errors that this package raises in the block (a hook in a forward pass), those for want of
    memory and KeyboardInterrupt come as they are.

    Args:
        what: which argument the code came by, as `model`.

    Raises:
        UserCodeError: as `model: nets.py:6 in forward: AssertionError: wrong size`.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        # The first two frames are those of this generator and of who opened the block.
        if isinstance(error, UserCodeError) or is_out_of_memory(error) or _is_own(error, skip=2):
            raise
        raise UserCodeError(f"{what}: {told(error)}") from error


def told(error: BaseException) -> str:
    """Return an error with its place in the user's files, in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    if isinstance(error, SyntaxError) and error.filename:
        text = error.msg
    said = f"{type(error).__name__}{': ' if text else ''}{text}".rstrip(".!")
    place = user_place(error)
    return f"{place}: {said}" if place else said


def user_place(error: BaseException) -> str:
    """Say where code raised an error, as `nets.py:6 in forward`: the user's own, or a library's.

    Returns:
        Nothing where only torch and this package ran.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = [f for f in _frames(error) if not _is_ours(f.filename) and not _is_torch(f.filename)]
    own = [f for f in frames if not {"site-packages", "dist-packages"} & set(_parts(f.filename))]
    frame = next(reversed(own or frames), None)
    return "" if frame is None else f"{_shown(frame.filename)}:{frame.lineno} in {frame.name}"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is that there was too little memory, on any device."""
    # torch's own kind goes by its name, so that torch is not imported here; on the CPU torch
    # reports it as a plain RuntimeError.
    names = {kind.__name__ for kind in type(error).__mro__}
    said = any(x in str(error) for x in ("can't allocate memory", "not enough memory"))
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and said
    )


def load_callable(spec: str, argument: str) -> Callable[..., Any]:
    """Import what `module:name` names; modules in the current folder are found too.

    Args:
        spec: dotted module, a colon, dotted name in it, as `my_package.networks:build`.
        argument: what to call the offending argument in an error.

    Raises:
        UserCodeError: the module cannot be run.
        ValueError: no such module or name, or the object is not callable.
    """
    source, _, name = spec.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:[^\W\d]\w*(\.\w+)*", spec) or source.endswith(".py"):
        file = Path(source).name.removesuffix(".py")
        hint = f" For a file in the current folder: {file}:{name}." if file and name else ""
        raise ValueError(
            f"{argument}: expected module:callable with dots between the parts, got {spec!r}.{hint}"
        )
    # An installed command does not have the current folder on its path, `python -m` has.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        # By itself, so that an AttributeError of the user's module is not taken for ours.
        with user_code(argument):
            importlib.import_module(source)
        loaded = pkgutil.resolve_name(spec)
    except UserCodeError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise ValueError(
            f"{argument}: cannot import {error.__cause__.name!r} for {spec!r}. Is it installed, or "
            "in the current folder?"
        ) from error.__cause__
    except AttributeError as error:
        raise ValueError(
            f"{argument}: no {error.name!r} for {spec!r}.{nearest(str(error.name), dir(error.obj))}"
        ) from None
    if not callable(loaded):
        raise ValueError(
            f"{argument}: {spec!r} is a {type(loaded).__name__}, expected something callable"
        )
    return loaded


def parsed_device(name: Any) -> torch.device:
    """Read the name of a device, which need not be here.

    Raises:
        ValueError: torch knows none of that name.
    """
    import torch

    try:
        return torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected cpu, cuda or cuda:1, got {name!r}") from None


def device_named(name: Any) -> torch.device:
    """Find a device, and see that it computes.

    Raises:
        ValueError: there is no such device, or none of that kind here.
    """
    import torch

    device = parsed_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: there is no CUDA device here; take cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"device: nothing can be computed on {str(device)!r} here") from None
    return device


def require_kind(**given: tuple[Any, type]) -> None:
    """Refuse an argument that is not what it has to be, such as the path of a run in its place.

    Args:
        given: name of the argument -> what came, and the class that it has to be of.

    Raises:
        TypeError: names the first that is something else.
    """
    for name, (came, kind) in given.items():
        if not isinstance(came, kind):
            what = f"the class {came.__name__}" if isinstance(came, type) else type(came).__name__
            raise TypeError(f"{name}: expected {kind.__name__}, got {what}")


def path_named(path: Any, argument: str) -> Path:
    """Take a path as a path.

    Raises:
        TypeError: it is none; names the argument.
    """
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"{argument}: expected a path, got {type(path).__name__}") from None


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


def needed(error: BaseException) -> str | None:
    """Say what to do where something is missing that this package cannot do without; else None."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in _NEEDED:
        return None
    package = "pillow" if name == "PIL" else name
    return f"emergence_ext needs {package}, which is not installed here: pip install {package}"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__)))


def _parts(file: str) -> tuple[str, ...]:
    return Path(file).parts


def _is_ours(file: str) -> bool:
    """Whether a file is of this package; the networks that it builds count as the user's."""
    path = Path(file)
    return path.is_relative_to(Path(__file__).parent) and path.name != "builtin.py"


def _is_torch(file: str) -> bool:
    """Whether a file is torch's or Python's own, where nobody looks for the cause."""
    if file.startswith("<"):  # importlib's, or what torch generated
        return True
    parts, library = _parts(file), sysconfig.get_paths()["stdlib"]
    if not {"site-packages", "dist-packages"} & set(parts):
        return Path(file).is_relative_to(library)
    package = parts[max(k for k, x in enumerate(parts) if x.endswith("-packages")) + 1]
    return package in ("torch", "captum")


def _is_own(error: BaseException, skip: int) -> bool:
    """Whether this package is in the middle of it, by a hook in a user's network.

    A mode that watches torch's functions only hands each on, in `__torch_function__`.
    """
    frames = _frames(error)[skip:]
    return any(_is_ours(f.filename) and f.name != "__torch_function__" for f in frames)


def _shown(file: str) -> str:
    """A file as it is shown: from the current folder, or from the package's, or its name alone."""
    path = Path(file).absolute()
    if path.is_relative_to(Path.cwd()) and not {"site-packages", "dist-packages"} & set(path.parts):
        return str(path.relative_to(Path.cwd()))
    for k, part in enumerate(path.parts):
        if part in ("site-packages", "dist-packages"):
            return str(Path(*path.parts[k + 1 :]))
    return path.name
