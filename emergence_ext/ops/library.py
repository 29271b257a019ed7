"""Load the compiled library, if the torch that is running has its ABI; else say why not.

Importing this module never fails for want of the library: `why_not()` tells what is missing, and
the ops raise or fall back only when they are called.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch

logger = logging.getLogger(__name__)

CUDA_PATHS: Final = ("portable", "split", "hopper")

_PACKAGE: Final = Path(__file__).parents[1]
_RECORD: Final = _PACKAGE / "_build.json"


def _rebuild(checkout: Path) -> str:
    """How to build the library: where the package runs from its checkout, or was installed."""
    pip = "pip install --no-build-isolation --no-deps --force-reinstall"
    return f"{pip} -e ." if (checkout / "setup.py").is_file() else f"{pip} SOURCE, its sdist"


REBUILD: Final = _rebuild(_PACKAGE.parent)
"""What to run, in a checkout of this package where there is one, to have the library."""


def build_info() -> dict[str, Any]:
    """Tell what the library was built with, and which backends can be used.

    Returns:
        Facts of the build as they were recorded then (`compiler`, `flags`, `cuda_compiler`,
        `cuda_flags`, `cuda_architectures`, `package`, `torch`, `torch_variant`, and
        `torch_at_least`, the release of torch that it runs with from there on; absent where
        nothing was recorded), `instruction_sets` that the library has for this machine, lowest
        first, and the `instruction_set` in use (both absent where the library is not loaded),
        `cuda_paths`, what EMERGENCE_CUDA_PATH can make the library prefer on a GPU (empty without
        a CUDA backend), `running_torch`, `running_torch_variant`, and
        `why_not`, a dictionary from backend to the reason why it cannot be used, None where it can.

    Examples:
        >>> import emergence_ext as ee
        >>> sorted(ee.build_info()["why_not"])
        ['cpu', 'cuda']
    """
    version, variant = running_torch()
    levels = (
        {}
        if _library is None
        else {
            "instruction_sets": _library.instruction_sets(),
            "instruction_set": _library.instruction_set(),
        }
    )
    return {
        **deepcopy(_facts),
        **levels,
        "running_torch": version,
        "running_torch_variant": variant,
        "cuda_paths": list(CUDA_PATHS) if why_not("cuda") is None else [],
        "why_not": {backend: why_not(backend) for backend in ("cpu", "cuda")},
    }


def allow_cuda_ways(index: int, names: Sequence[str]) -> None:
    """Let a device take these of the library's ways to match, and no other."""
    if _library is not None:
        _library.allow_cuda_ways(index, list(names))


def why_not(backend: str = "cpu") -> str | None:
    """Say why `backend` ("cpu" or "cuda") of the library cannot be used; None where it can.

    Raises:
        ValueError: another backend.
    """
    if backend not in ("cpu", "cuda"):
        raise ValueError(f"backend must be 'cpu' or 'cuda', got {backend!r}")
    if _not_loaded is not None:
        return _not_loaded
    reason = _facts["why_not"][backend]
    return None if reason is None else f"it was not built: {reason}. To build it: {REBUILD}"


def running_torch() -> tuple[str, str]:
    """Version and variant of the torch that is running, such as ("2.14.1", "cu130")."""
    version, _, _ = torch.__version__.partition("+")
    if torch.version.hip is not None:
        return version, "rocm" + ".".join(torch.version.hip.split(".")[:2])
    cuda = torch.version.cuda
    return version, "cpu" if cuda is None else "cu" + cuda.replace(".", "")


def reason_not_to_load(facts: Mapping[str, Any], running: tuple[str, str]) -> str | None:
    """Say why a library with these facts must not be loaded into this torch; None where it may.

    Args:
        facts: what the build recorded; empty where there was no build.
        running: version and variant of the running torch.
    """
    if not facts:
        return f"it was never built here. To build it: {REBUILD}"
    if facts["why_not"]["cpu"] is not None:
        return f"it was not built: {facts['why_not']['cpu']}. To build it: {REBUILD}"
    version, variant = running
    least = facts["torch_at_least"]
    if _release(version) < _release(least):
        return f"it runs with torch {least} or later and torch {version} is running; update torch"
    of_cuda = facts["torch_variant"]
    if facts["why_not"]["cuda"] is None and not variant.startswith(of_cuda[:-1]):
        return (
            f"it was built for {_cuda_of(of_cuda)} and torch {version}+{variant} is running. "
            f"To build it anew: {REBUILD}"
        )
    return None


def _release(version: str) -> tuple[int, ...]:
    """Its first two numbers, which the promise of the stable ABI goes by."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _cuda_of(variant: str) -> str:
    return f"a torch of CUDA {variant[2:-1]}"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        logger.warning("%s cannot be read (%s); the library is taken as not built", path, error)
        return {}


def use_instruction_set(name: str) -> None:
    """Switch the CPU ops to another instruction set; not while one of them is running.

    Results differ between instruction sets by rounding. The environment variable
    `EMERGENCE_INSTRUCTION_SET` does the same at import.

    Args:
        name: one of `build_info()["instruction_sets"]`.

    Raises:
        ValueError: another name.
        RuntimeError: the library is not loaded.

    Examples:
        >>> from emergence_ext import ops
        >>> now = ops.build_info().get("instruction_set")
        >>> if now is not None:  # the compiled library is there
        ...     ops.use_instruction_set(now)
    """
    if _library is None:
        raise RuntimeError(f"the compiled library is not there: {_not_loaded}")
    known = _library.instruction_sets()
    if name not in known or not _library.use_instruction_set(name):
        raise ValueError(f"instruction set must be one of {known} on this machine, got {name!r}")


def _load() -> tuple[dict[str, Any], Any, str | None]:
    """The facts of the build, the library, and why that is not loaded (None: it is)."""
    facts = _read_record(_RECORD)
    reason = reason_not_to_load(facts, running_torch())
    if reason is not None:
        return facts, None, reason
    try:
        library = importlib.import_module("emergence_ext._C")
    except ImportError as error:
        return facts, None, f"it cannot be loaded: {error}. To build it anew: {REBUILD}"
    if library.build_info() != facts:
        logger.warning("the record of the build is not the library's own; taking the latter")
        facts = library.build_info()
    return facts, library, None


_facts, _library, _not_loaded = _load()
if _library is not None and (_wanted := os.environ.get("EMERGENCE_INSTRUCTION_SET")):
    try:
        use_instruction_set(_wanted)
    except ValueError as error:
        raise ValueError(f"EMERGENCE_INSTRUCTION_SET: {error}") from None
