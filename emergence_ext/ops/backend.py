"""Which code computes the matching of a fit: the compiled ops, or plain torch."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Final, NamedTuple, get_args

import torch

from emergence_ext.ops import fused as ops
from emergence_ext.ops import library as _library
from emergence_ext.ops import reference
from emergence_ext.settings import Backend

BACKENDS: Final = get_args(Backend)
_warned: set[str] = set()


class Matching(NamedTuple):
    """What computes, and its name.

    Attributes:
        name: "fused" or "reference".
        ops: the module with `match_kl`, `match_kl_scaled`, `maxsim` and `maxsim_indices`.
    """

    name: str
    ops: ModuleType


def choose(backend: Backend = "auto", device: torch.device | str = "cpu") -> Matching:
    """Settle what computes on a device.

    Args:
        backend: "fused", the compiled ops; "reference", plain torch; or "auto", the first of them
            that can compute there. Where that is the reference, one warning says why.
        device: where the tensors are.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: "fused" where it cannot compute, with the reason and what to do.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    if backend == "reference":
        return Matching("reference", reference)
    kind = torch.device(device).type
    reason = why_not_fused(kind)
    if reason is None:
        return Matching("fused", ops)
    if backend == "fused":
        raise RuntimeError(
            f"backend 'fused' cannot compute on {kind}: {reason}. Or take 'reference', plain torch"
        )
    if kind == "cpu":
        # Without their library the ops are the reference with a warning, one for all who use them.
        return Matching("reference", ops)
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(
            f"emergence_ext matches regions in plain torch on {kind}: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
    return Matching("reference", reference)


def in_words(backend: Backend = "auto", device: str = "cpu") -> str:
    """What `choose` takes, for a log."""
    if choose(backend, device).name == "fused":
        if torch.device(device).type == "cuda":
            return "the fused ops, on CUDA"
        return f"the fused ops, instruction set {_library.build_info()['instruction_set']}"
    return f"plain torch: {'as asked' if backend == 'reference' else why_not_fused(device)}"


def why_not_fused(device: str = "cpu") -> str | None:
    """Say why the fused ops cannot compute a fit on a type of device; None where they can."""
    if device == "cpu":
        return _library.why_not("cpu")
    if device == "cuda":
        return _library.why_not("cuda") or _library.why_cuda_is_off()
    return f"there are no ops for {device!r}"
