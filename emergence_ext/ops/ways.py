"""Which way to match rows on a GPU is taken: one that has proved itself on that device, or none.

`narrow`, `wide` and `planes` are the library's portable ways: rows of D up to 8, wider ones, and
wide ones on tensor cores. `split` stands in for narrow rows and `hopper` for planes where
`EMERGENCE_CUDA_PATH` asks for them, `triton` for narrow rows where the library has no way for them.

`EMERGENCE_CUDA` overrules the proof: `off` takes none, `portable` the portable ways, `all` every
one. `EMERGENCE_CUDA_PATH` names a way to prefer wherever it applies and may be taken.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from emergence_ext.ops import library as _library
from emergence_ext.ops import proof
from emergence_ext.ops.proof import GPU, LIMIT, Proved
from emergence_ext.ops.verdicts import Verdict, Verdicts, cache_folder

logger = logging.getLogger(__name__)

NARROW: Final = 8
"""Rows up to this width live in registers: kNarrow of csrc/cuda/matching.h."""

PORTABLE: Final = ("narrow", "wide", "planes")
WAYS: Final = (*PORTABLE, "split", "hopper", "triton")
SECOND: Final = {"split": "narrow", "hopper": "planes", "triton": "narrow"}
"""Ways that stand in for a portable one."""

LOWEST: Final = (8, 0)
"""Compute capability that the kernels need."""

ALLOWANCES: Final = ("off", "portable", "all")
PREFERENCES: Final = ("auto", "portable", "split", "hopper", "triton")
OFF: Final = "EMERGENCE_CUDA=off"
NOT_YET: Final = (
    "the kernels have not proved themselves on this GPU yet; they do at their first use outside of "
    "graph capture and torch.compile, or by emergence doctor --prove"
)


def portable_way(width: int, dtype: torch.dtype, precision: str, scaled: bool) -> str:
    """Name the portable way of rows; csrc/cuda/paths.h has the same rule."""
    if width <= NARROW:
        return "narrow"
    if dtype == torch.float64:
        return "wide"
    exact = dtype in (torch.bfloat16, torch.float16) and not scaled
    return "planes" if exact or precision != "highest" else "wide"


class Gate:
    """What the devices of this process may take.

    Args:
        look: gives the GPU of an index, or why there is none.
        prove: proves a way on a GPU.
        folder: where verdicts are kept; None keeps them in this process alone.
    """

    def __init__(
        self,
        look: Callable[[int], GPU | str] = proof.look_at,
        prove: Callable[[str, GPU], Proved] = proof.prove,
        folder: Path | None = None,
    ) -> None:
        self._look, self._prove, self._verdicts = look, prove, Verdicts(folder)
        self._gpus: dict[int, GPU | str] = {}
        self._known: dict[tuple[int, str], Verdict] = {}
        self._told: set[object] = set()
        self._one_at_a_time = threading.RLock()

    def gpu(self, index: int) -> GPU | str:
        """The GPU of an index, or why torch can use none there."""
        if index not in self._gpus:
            self._gpus[index] = self._look(index)
        return self._gpus[index]

    def why_not(self, way: str, index: int, *, may_prove: bool = True) -> str | None:
        """Say why a device does not take a way; None where it does.

        Args:
            way: one of `WAYS`.
            index: of the device.
            may_prove: whether a way that has no verdict yet is proved now, which takes seconds.

        Raises:
            ValueError: `EMERGENCE_CUDA` holds another word than it may.
        """
        said = _said("EMERGENCE_CUDA", ("", *ALLOWANCES))
        if said == "off":
            return OFF
        if not said and (known := self._known.get((index, way))) is not None:
            return known.reason or None  # at every call of an op
        reason = self.impossible(way, index)
        if reason is not None or said == "all":
            return reason
        if said == "portable":
            return None if way in PORTABLE else "EMERGENCE_CUDA=portable leaves it out"
        verdict = self.verdict(way, index, may_prove=may_prove)
        if verdict is None:
            return NOT_YET
        return verdict.reason or None

    def impossible(self, way: str, index: int) -> str | None:
        """Say why a way cannot run on a device, whatever a proof would find."""
        if way == "triton" and (reason := _why_no_triton(index)) is not None:
            return reason
        if way != "triton" and (reason := _library.why_not("cuda")) is not None:
            return f"the library has no CUDA backend, {reason}"
        gpu = self.gpu(index)
        if isinstance(gpu, str):
            return gpu
        has = "{} has compute capability {}.{}".format(gpu.name, *gpu.capability)
        if gpu.capability < LOWEST:
            return "{}, the kernels need {}.{} or higher".format(has, *LOWEST)
        if way == "hopper" and gpu.capability != (9, 0):
            return f"{has}, {way} needs 9.0"
        if way == "hopper" and "sm_90a" not in _library.build_info().get("cuda_architectures", ()):
            return f"the library was built without sm_90a, which {way} needs"
        return None

    def verdict(
        self, way: str, index: int, *, may_prove: bool = True, again: bool = False
    ) -> Verdict | None:
        """What the proof of a way found on a device where it can run; None before there was one.

        Args:
            way, index, may_prove: as in `why_not`.
            again: prove it whatever is known.
        """
        found = self._known.get((index, way))
        if found is not None and not again:
            return found
        gpu = self.gpu(index)
        assert isinstance(gpu, GPU)
        with self._one_at_a_time:
            found = self._known.get((index, way)) or self._verdicts.read(gpu.key(way))
            if (found is None or again) and may_prove and not _is_recorded():
                found = self._found(way, gpu, again)
            if found is not None:
                self._known[index, way] = found
                self._allow(index)
        return found

    def _found(self, way: str, gpu: GPU, again: bool) -> Verdict:
        """Prove a way, unless another process does or did so meanwhile."""
        key = gpu.key(way)
        with self._verdicts.alone(key, 1.5 * LIMIT):
            kept = None if again else self._verdicts.read(key)
            if kept is not None:
                return kept
            logger.info(
                "the CUDA kernels prove themselves on %s (%s): once, some seconds, at most %.0f",
                gpu.name, way, LIMIT,
            )  # fmt: skip
            proved = self._prove(way, gpu)
            if proved.lasts and (why := self._verdicts.keep(key, proved.verdict)) is not None:
                self.tell(
                    "cache", f"what was proved on {gpu.name} is kept for this process alone: {why}"
                )
        return proved.verdict

    def _allow(self, index: int) -> None:
        """Let the library's ops take what has proved itself, who ever calls them."""
        taken = [way for (at, way), found in self._known.items() if at == index and found.taken]
        _library.allow_cuda_ways(index, [way for way in taken if way != "triton"])

    def tell(self, about: object, text: str) -> None:
        """Warn, once about each thing, where an op of `fused` was called."""
        if about not in self._told:
            self._told.add(about)
            warnings.warn(text, RuntimeWarning, stacklevel=7)


gate: Gate = Gate(folder=cache_folder())
"""Of this process; a test puts another in its place."""


class Standing(NamedTuple):
    """How a way stands on a device.

    Attributes:
        way: one of `WAYS`.
        impossible: why it cannot run there; None where it can.
        verdict: what its proof found; None before there was one.

    Examples:
        >>> from emergence_ext import ops
        >>> ops.Standing("tensor cores", "no GPU is there", None).impossible
        'no GPU is there'
    """

    way: str
    impossible: str | None
    verdict: Verdict | None


def standings(*, prove: bool = False) -> dict[str, list[Standing]]:
    """Tell how every way stands on every GPU, by the GPU's index, name and compute capability.

    Args:
        prove: prove every way that can run, whatever is known of it.

    Raises:
        RuntimeError: there is no GPU to prove on.

    Examples:
        >>> from emergence_ext import ops
        >>> isinstance(ops.standings(), dict)
        True
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if prove and count == 0:
        raise RuntimeError(f"there is nothing to prove: {gate.gpu(0)}")
    found: dict[str, list[Standing]] = {}
    for index in range(count):
        gpu, name = gate.gpu(index), f"cuda:{index}"
        if isinstance(gpu, GPU):
            name += " {}, compute capability {}.{}".format(gpu.name, *gpu.capability)
        found[name] = [_standing(way, index, prove) for way in WAYS]
    return found


def _standing(way: str, index: int, prove: bool) -> Standing:
    impossible = gate.impossible(way, index)
    if impossible is not None:
        return Standing(way, impossible, None)
    return Standing(way, None, gate.verdict(way, index, may_prove=prove, again=prove))


def computes(op: str, way: str, index: int, by_triton: bool) -> str:
    """Say what computes an op on a device: "library", "triton" or "reference", told once why.

    Args:
        op: its name, for the warning.
        way: the portable way of its rows.
        index: of the device.
        by_triton: whether the way of Triton applies to the call.

    Raises:
        ValueError: `EMERGENCE_CUDA` or `EMERGENCE_CUDA_PATH` holds another word than it may.
    """
    wanted = _said("EMERGENCE_CUDA_PATH", ("", *PREFERENCES))
    on = f"on cuda:{index}"
    second = wanted if SECOND.get(wanted) == way and (by_triton or wanted != "triton") else None
    if second is not None and (why := gate.why_not(second, index)) is not None:
        gate.tell((second, index), f"{op} does not take {second} {on}: {why}")
        second = None
    if second == "triton":
        return second
    reason = gate.why_not(way, index)
    if reason is None:
        return "library"
    if by_triton and reason != OFF:
        why = gate.why_not("triton", index)
        if why is None:
            return "triton"
        reason = f"{reason}; Triton: {why}"
    if reason != OFF:  # as asked
        gate.tell((way, index), f"{op} is computed in plain torch {on}: {reason}")
    return "reference"


# torch.compile calls it when it traces, as it does files, locks and warnings no good, and takes
# what it gives for a constant. torch.compiler.assume_constant_result sets the same, but imports all
# of the compiler, which takes a second.
computes._dynamo_marked_constant = True  # type: ignore[attr-defined]


def narrow_triton() -> Any:
    """The module of Triton's way, imported where it is wanted."""
    return importlib.import_module("emergence_ext.ops.narrow_triton")


def _why_no_triton(index: int) -> str | None:
    try:
        module = narrow_triton()
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    reason: str | None = module.why_not(torch.device("cuda", index))
    return reason


def _said(variable: str, words: tuple[str, ...]) -> str:
    said = os.environ.get(variable, "")
    if said not in words:
        raise ValueError(f"{variable} must be one of {', '.join(words[1:])}; got {said!r}")
    return said


def _is_recorded() -> bool:
    """Whether calls are traced or captured: whoever does that expects nothing else to happen."""
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
