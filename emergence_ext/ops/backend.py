"""Which code computes the matching of a fit: the compiled ops, or plain torch."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Final, NamedTuple, TypedDict, Unpack, get_args

import torch

from emergence_ext.lookup import parsed_device
from emergence_ext.ops import fused as ops
from emergence_ext.ops import library as _library
from emergence_ext.ops import reference, ways
from emergence_ext.settings import Backend

BACKENDS: Final = get_args(Backend)
_warned: set[str] = set()


class Rows(TypedDict, total=False):
    """What a fit matches; without a width, whether the ops compute any rows there.

    Attributes:
        width: D of the rows.
        dtype: of the rows; float32 when left out.
        precision: as in `maxsim`; "highest" when left out.
        scaled: whether `match_kl_scaled` is what matches.
    """

    width: int
    dtype: torch.dtype
    precision: str
    scaled: bool


class Matching(NamedTuple):
    """What computes, and its name.

    Attributes:
        name: "fused" or "reference".
        ops: the module with `match_kl`, `match_kl_scaled`, `maxsim` and `maxsim_indices`.
    """

    name: str
    ops: ModuleType


def choose(
    backend: Backend = "auto", device: torch.device | str = "cpu", **rows: Unpack[Rows]
) -> Matching:
    """Settle what computes on a device.

    Args:
        backend: "fused", the compiled ops; "reference", plain torch; or "auto", the first of them
            that can compute there. Where that is the reference, one warning says why.
        device: where the tensors are. The first time that a GPU is asked for, its kernels prove
            themselves there, which takes seconds.
        rows: what is matched, see `Rows`.

    Raises:
        ValueError: an unknown backend, or a device that torch knows none of.
        RuntimeError: "fused" where it cannot compute, with the reason and what to do.

    Examples:
        >>> from emergence_ext import ops
        >>> x = torch.rand(2, 4, 8)
        >>> ops.choose("reference").ops.maxsim(x, x).shape
        torch.Size([2, 2])
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    if backend == "reference":
        parsed_device(device)
        return Matching("reference", reference)
    reason = why_not_fused(device, **rows)
    if reason is None:
        return Matching("fused", ops)
    if backend == "fused":
        raise RuntimeError(
            f"backend 'fused' cannot compute on {torch.device(device)}: {reason}. Or take "
            "'reference', plain torch"
        )
    kind = torch.device(device).type
    if kind == "cpu":
        # Without their library the ops are the reference with a warning, one for all who use them.
        return Matching("reference", ops)
    if reason not in _warned and reason != ways.OFF:  # as asked
        _warned.add(reason)
        warnings.warn(
            f"emergence_ext matches regions in plain torch on {kind}: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
    return Matching("reference", reference)


def in_words(
    backend: Backend = "auto", device: torch.device | str = "cpu", **rows: Unpack[Rows]
) -> str:
    """What `choose` takes, for a log.

    Examples:
        >>> from emergence_ext import ops
        >>> ops.in_words("reference")
        'plain torch: as asked'
    """
    if choose(backend, device, **rows).name == "fused":
        if torch.device(device).type == "cuda":
            return "the fused ops, on CUDA"
        return f"the fused ops, instruction set {_library.build_info()['instruction_set']}"
    if backend == "reference":
        return "plain torch: as asked"
    return f"plain torch: {why_not_fused(device, **rows)}"


def why_not_fused(
    device: torch.device | str = "cpu", *, may_prove: bool = True, **rows: Unpack[Rows]
) -> str | None:
    """Say why the fused ops cannot compute a fit on a device; None where they can.

    Args:
        device: as in `choose`.
        may_prove: whether a way that has no verdict on a GPU yet is proved now.
        rows: as in `choose`.

    Examples:
        >>> from emergence_ext import ops
        >>> ops.why_not_fused("meta")
        "there are no ops for 'meta'"
    """
    place = parsed_device(device)
    if place.type == "cpu":
        return _library.why_not("cpu")
    if place.type != "cuda":
        return f"there are no ops for {place.type!r}"
    index = place.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    reasons = []
    for way in _ways(**rows):
        reason = ways.gate.why_not(way, index, may_prove=may_prove)
        if reason is None:
            return None
        reasons.append(reason)
    return "; ".join(dict.fromkeys(reasons))


def _ways(
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
    precision: str = "highest",
    scaled: bool = False,
) -> tuple[str, ...]:
    """The ways that may take rows, the likeliest first."""
    if width is None:
        return ways.PORTABLE
    way = ways.portable_way(width, dtype, precision, scaled)
    return (way, "triton") if way == "narrow" and dtype == torch.float32 else (way,)
