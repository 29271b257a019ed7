"""The ops: checked wrappers around the compiled ones.

Symbols: `N` scored images j with `R` regions, `B` conditioning images i with `S` regions, `D` the
width of a region's feature. The contracts are in `csrc/maxsim.h` and `csrc/match_kl.h`, plain torch
in `reference`, gradients in `registration`.

Under autocast (CPU, CUDA) the ops compute in float32 at every option and gradient: lower-precision
inputs are cast up first, float64 stays, and a gradient has the dtype of its input. They go through
`torch.compile(fullgraph=True)` and `torch.export`, and through `grad`, `vjp` and `jacrev` of
`torch.func`; `torch.vmap` calls them once for each entry of its batch. A derivative in forward mode
(`jvp`, `jacfwd`, dual numbers) and a second one are errors that say so.

On a GPU they take what has proved itself on that very device (see `ways`), which the first call
that needs it finds out; where nothing has, they are the reference, and one warning says why.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from emergence_ext.ops import library as _library
from emergence_ext.ops import packed, reference, transforms, ways
from emergence_ext.ops.autocast import in_float32
from emergence_ext.ops.checks import refuse_gradients
from emergence_ext.ops.matches import matches_of
from emergence_ext.ops.registration import register

_OPTIONAL: Final = ("exclude", "q_lengths", "d_lengths")
_warned = False
_compiled = torch.ops.emergence_ext  # tests put the emulated CUDA ops in its place


@in_float32
def maxsim(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """Score every image j against every image i by the best matches of its regions (Eq. 10, 12).

    `T[i, j] = sum_r a[j, r] * max_s <q[j, r], d[i, s]>`. Differentiable once in q, d and a; a tie
    goes to the lowest s. The same bits for any number of threads.

    Sets of different sizes come with their lengths: rows beyond those may hold anything, NaN too,
    and results are those of the sets without them. On the CPU they are not read, and the bits are
    the same; on a GPU they are filled up with rows that change nothing and cost as much as others.
    Without lengths every row of d is a candidate: zeros that pad an image win wherever all of its
    true products are negative.

    Args:
        q: scored regions, `[N, R, D]`, any strides.
        d: conditioning regions, `[B, S, D]`, `S >= 1`, `D >= 1`.
        a: weights of the scored regions, `[N, R]`; ones when left out.
        q_lengths: how many of its R rows each image of q has, `[N]`, int64 or int32, 0 to R; all
            when left out. An image of no rows scores 0.
        d_lengths: the same of d, `[B]`, 0 to S.
        empty_score: T of every pair whose image of d has no rows; no gradient goes there.
        precision: "highest", "high" or "medium", as torch names them: float32 arithmetic, or the
            match selected by bfloat16 products and scored in float32, so that a region misses its
            maximum by at most `2^-14 sum_k |q_k d_k|` ("high", three products for one) or
            `2^-6 sum_k |q_k d_k|` ("medium"), beside the rounding of sums. Only where that is
            faster: on the CPU "medium" where the machine has such products and D is at least 64,
            on CUDA both where D is over 8.
            float64 is always exact to its own rounding.
        max_memory: bytes of working memory beside inputs and results. The CPU needs no block here,
            so that the value is only checked to be positive; CUDA, for D over 8, one of products,
            256 MiB when left out.

    Returns:
        `T`, `[B, N]`, float32 (float64 for float64 inputs). Empty for `N == 0` or `B == 0`.

    Raises:
        ValueError: shapes that do not fit, `S == 0`, `D == 0`, an unknown precision; on the CPU a
            length out of bounds and a value that is not finite (named with its sample and region).
        TypeError: dtypes or devices that differ, a dtype that is not floating point.
        RuntimeError: a device that is neither the CPU nor CUDA; a second derivative.

    Examples:
        >>> from emergence_ext import ops
        >>> q = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> d = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])
        >>> ops.maxsim(q, d)
        tensor([[5.]])
    """
    options: dict[str, Any] = {"precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
    instead = _instead_of_library("maxsim", precision, q=q, d=d, a=a, **lengths)
    if instead is not None:
        return instead.maxsim(q, d, a, **lengths, **options)
    given = (q, d, a, q_lengths, d_lengths)
    # The matches cost N B R bytes, and only a gradient wants them.
    if any(_needs(q, d, a)):
        return _library_for(*given).maxsim_indices(*given, **options, compact=True)[0]
    return _library_for(*given).maxsim(*given, **options)


@in_float32
def maxsim_indices(
    q: Tensor,
    d: Tensor,
    a: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
    index_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `maxsim`, with the matches.

    Args:
        q, d, a, q_lengths, d_lengths, empty_score, precision, max_memory: as in `maxsim`.
        index_dtype: of the matches: `torch.uint8` (of up to 256 candidates), `torch.int32` or
            `torch.int64`, which it is when left out. The matches of many images are large, and
            what is written for the first time is not there yet: an eighth of the bytes, or memory
            that was used before, can save most of the time.
        out: `[B, N, R]`, contiguous, of such a dtype, which the matches are written to; not
            together with `index_dtype`, and not where a gradient is asked for.

    Returns:
        `T`, `[B, N]`, and the matching s of every region, `[B, N, R]`, not differentiable; 0 for
        rows beyond their lengths and in images without rows. With `out` that is the second.

    Raises:
        ValueError, TypeError, RuntimeError: as `maxsim`; an `index_dtype` or `out` that cannot hold
            the matches.

    Examples:
        >>> from emergence_ext import ops
        >>> q = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> d = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])
        >>> ops.maxsim_indices(q, d)
        (tensor([[5.]]), tensor([[[0, 1]]]))
    """
    options: dict[str, Any] = {"precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
    matches = matches_of(q, d, a, index_dtype, out)
    instead = _instead_of_library("maxsim", precision, q=q, d=d, a=a, **lengths)
    if instead is not None:
        return matches.kept(*instead.maxsim_indices(q, d, a, **lengths, **options))
    given = (q, d, a, q_lengths, d_lengths)
    if out is not None and q.device.type == "cpu" and hasattr(_compiled, "maxsim_indices_into"):
        return _compiled.maxsim_indices_into(*given, out, **options), out
    compact = matches.fits_compact(d)
    found = _library_for(*given).maxsim_indices(*given, **options, compact=compact)
    return matches.kept(*found)


def maxsim_packed(
    q: Tensor | np.ndarray,
    cu_q: Tensor | np.ndarray,
    d: Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray],
    cu_d: Tensor | np.ndarray | None = None,
    *,
    d_scale: Tensor | np.ndarray | float | None = None,
    pairs: Tensor | np.ndarray | None = None,
    topk: int | None = None,
    prepare: Callable[[Tensor, int], Tensor] | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Any:
    """`maxsim` with a = 1 of sets that lie one after the other in one array, without padding.

    On the CPU the rows are read where they are, and the bits are those of `maxsim` of the sets
    alone. d may be of int8 with a scale, and is then a quarter of the memory to read. Where a
    gradient is asked for, and on a GPU, the sets are padded, and made floating-point, for as long
    as the call lasts.

    With `topk` d is scored a block of sets at a time, so that of an array on disk (`numpy.memmap`,
    `Tensor.from_file`) that is larger than memory only a block is read at once; q may then be on a
    GPU while d is not. The values of offsets and pairs are looked at, which
    `torch.compile(fullgraph=True)` does not allow.

    Args:
        q: rows of all scored sets, `[rows, D]`, a tensor or NumPy array.
        cu_q: where each set begins in q, and the number of rows: `[N + 1]`, int64 or int32, from 0
            on, never falling.
        d: rows of all conditioning sets, `[rows, D]`; or a list with the rows of each, which are
            not copied on the CPU. It may be of another floating type than q.
        cu_d: as cu_q, `[B + 1]`; None where d is a list.
        d_scale: what multiplies the rows of a d of int8: a number, or one for each row, `[rows]`;
            taken in float32.
        pairs: score these alone, `[P, 2]`: a set of q and one of d each, int64 or int32. Those of
            one set of q are quicker side by side.
        topk: keep so many of d for each of q. Not with `pairs`.
        prepare: with `topk`, what makes a block of rows of d ready, called with it and the place of
            its first row: such as `lambda rows, first: torch.nn.functional.normalize(rows)`.
        empty_score: of every pair whose set of d has no rows.
        precision: as in `maxsim`. With "medium" the match in a d of int8 is chosen by products of
            bytes where the CPU has AVX512_VNNI, q rounded to 127 steps of its row's largest
            magnitude m, and scored in float32: below the true maximum by at most
            `m / 127 max_s |scale_s| sum_k |d_sk|`.
        max_memory: with `topk`, bytes of d scored at once; 64 MiB when left out, at least one set.

    Returns:
        `T [B, N]`, once differentiable in q and d; with pairs `[P]`, also differentiable. With topk
        the scores `[N, k]`, best first, and their sets of d `[N, k]`, int64, neither
        differentiable; of equal scores the lower set comes first, k is at most B.

    Raises:
        ValueError: shapes, offsets or pairs that do not fit; on the CPU a value that is not finite
            among the rows that are read.
        TypeError: rows that are no numbers, int8 without a scale, devices that differ.

    Examples:
        >>> from emergence_ext.ops import maxsim_packed
        >>> q, d = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [1.0, 2.0]])
        >>> maxsim_packed(q, torch.tensor([0, 2]), d, torch.tensor([0, 1, 2]))
        tensor([[3.],
                [3.]])
    """
    compiled = _compiled if hasattr(_compiled, "maxsim_packed") else None
    options = {"empty_score": empty_score, "precision": precision}
    matcher = packed.Matcher(ops=sys.modules[__name__], compiled=compiled, options=options)
    return packed.maxsim_packed(
        matcher, q, cu_q, d, cu_d, d_scale, pairs, topk, prepare, max_memory
    )


@in_float32
def match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """Compare the matches' softmax over images with given similarities, `mean_i KL(P[i] || Q[i])`.

    `Q[i] = softmax_j (T[i, j] + b[j])` with `T` of `maxsim` (Eq. 8-10). With `over="d"` the images
    of d compete instead: `mean_j KL(P[j] || Q[j])` with `Q[j] = softmax_i (T[i, j] + b[i])`, so
    that each image of q, whose own regions and weights look for their matches in every image of d,
    is a problem of its own. Differentiable once in q, d, a and b: the gradients that are asked for
    are formed with the loss, a block of images i (over d: of j) at a time, and scores and matches
    never exist all at once. The same bits for any number of threads and any `max_memory`. Lengths
    are those of `maxsim`.

    Args:
        q: scored regions, `[N, R, D]`, any strides.
        d: conditioning regions, `[B, S, D]`, `S >= 1`, `D >= 1`.
        a: weights of the scored regions, `[N, R]`.
        b: bias of each image that the softmax runs over, `[N]`; `[B]` over d.
        P: target similarities, `[B, N]`, not negative; rows sum to 1 (without the excluded column).
            `[N, B]` over d: a row for each image of q.
        exclude: column that leaves a row's softmax and loss, -1 for none, int64, `[B]`; `[N]` over
            d.
        q_lengths, d_lengths, empty_score: as in `maxsim`.
        over: which images the softmax runs over, those of "q" or those of "d".
        precision: as in `maxsim`.
        max_memory: bytes of working memory beside inputs, loss and gradients. When left out, a
            block of 32 MiB and the threads' scratch on the CPU; on CUDA a block of 256 MiB, or
            less where the device has less, and the copies that tensor cores need.

    Returns:
        The loss, a scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: as `maxsim`; P negative or asking for a gradient, exclude outside [-1, N) (over
            d: [-1, B)), an unknown `over`, a `max_memory` that holds no block (the message says
            what does).
        TypeError, RuntimeError: as `maxsim`.

    Examples:
        >>> from emergence_ext import ops
        >>> q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> ops.match_kl(q, q, torch.ones(2, 1), torch.zeros(2), torch.full((2, 2), 0.5))
        tensor(0.1201)
    """
    tensors = {"q": q, "d": d, "a": a, "b": b, "P": P, "exclude": exclude}
    lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
    options: dict[str, Any] = {"over": over, "precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    instead = _instead_of_library("match_kl", precision, **tensors, **lengths)
    if instead is not None:
        return instead.match_kl(**tensors, **lengths, **options)
    refuse_gradients("match_kl", P=P)
    inputs = (*tensors.values(), _needs(q, d, a, b), *lengths.values())
    op = _library_for(*tensors.values(), *lengths.values()).match_kl
    return op(*inputs, **options)[0]


@in_float32
def match_kl_scaled(
    f: Tensor,
    v: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    """`match_kl` with `q[j, r] = v[j] * f[j, r]` (Eq. 11, 12): gradients for v, a and b.

    The products `v[j] * f[j, r]` are formed where they are used and nowhere stored.

    Args:
        f: features of the scored regions, `[N, R, D]`.
        v: channel weights of each scored image, `[N, D]`.
        d, a, b, P, exclude, d_lengths, empty_score, over, precision, max_memory: as in `match_kl`.
        q_lengths: the same of f.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError, TypeError, RuntimeError: as `match_kl`; f or d asking for a gradient.

    Examples:
        >>> from emergence_ext import ops
        >>> f = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> P = torch.full((2, 2), 0.5)
        >>> ops.match_kl_scaled(f, torch.ones(2, 2), f, torch.ones(2, 1), torch.zeros(2), P)
        tensor(0.1201)
    """
    tensors = {"f": f, "v": v, "d": d, "a": a, "b": b, "P": P, "exclude": exclude}
    lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
    options: dict[str, Any] = {"over": over, "precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    instead = _instead_of_library("match_kl_scaled", precision, **tensors, **lengths)
    if instead is not None:
        return instead.match_kl_scaled(**tensors, **lengths, **options)
    refuse_gradients("match_kl_scaled", f=f, d=d, P=P)
    inputs = (*tensors.values(), _needs(v, a, b), *lengths.values())
    op = _library_for(*tensors.values(), *lengths.values()).match_kl_scaled
    return op(*inputs, **options)[0]


def _instead_of_library(op: str, precision: str, **tensors: Tensor | None) -> Any:
    """The module that computes this where the library does not; None where it does."""
    global _warned
    for name, x in tensors.items():
        optional = name in _OPTIONAL or (name == "a" and op == "maxsim")
        if not isinstance(x, Tensor) and not (optional and x is None):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(x).__name__}")
        if x is not None and x.layout is not torch.strided:
            raise TypeError(f"{op}: {name} is sparse; give it dense")
    rows = next(iter(tensors.values()))
    for name in ("q_lengths", "d_lengths"):  # which torch would take for where to compute
        lengths = tensors[name]
        if rows is not None and lengths is not None and lengths.device != rows.device:
            raise TypeError(
                f"{op}: {name} must be int64 or int32 on {rows.device}, "
                f"got {lengths.dtype} on {lengths.device}"
            )
    given = [x for x in tensors.values() if x is not None and x.device.type != "cpu"]
    if given and given[0].device.type != "cuda":
        raise RuntimeError(
            f"{op}: there is no backend for {given[0].device.type!r}; move to the CPU or CUDA"
        )
    if given:
        return _instead_on_gpu(op, precision, given[0].device.index, tensors)
    reason = _library.why_not("cpu")
    if reason is None:
        return None
    if not _warned:
        _warned = True
        warnings.warn(
            f"emergence_ext runs without its compiled library, many times slower: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )
    return reference


def _instead_on_gpu(op: str, precision: str, index: int, tensors: dict[str, Tensor | None]) -> Any:
    rows = next(iter(tensors.values()))
    if rows is None or rows.ndim != 3:
        return reference  # which says what is wrong with them
    way = ways.portable_way(rows.shape[2], rows.dtype, precision, "v" in tensors)
    by_triton = (
        way == "narrow"
        and rows.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not transforms.at_work(*tensors.values())
    )
    taken = ways.computes(op, way, index, by_triton)
    if taken == "triton":
        return ways.narrow_triton()
    return reference if taken == "reference" else None


def _library_for(*tensors: Tensor | None) -> Any:
    """The compiled ops, in a form for `torch.func` where that is at work."""
    return transforms.Transformable(_compiled) if transforms.at_work(*tensors) else _compiled


def _needs(*tensors: Tensor | None) -> list[bool]:
    return [transforms.wants_gradient(x) for x in tensors]


if _library.why_not("cpu") is None:
    register()
