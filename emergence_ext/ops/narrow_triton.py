"""The ops by Triton, for rows of up to eight channels: no compiler of CUDA is needed.

The four functions of `emergence_ext.ops` with their arguments, results, gradients and errors, in
float32; 16-bit inputs are cast up. What the kernels do not take (float64, wider rows, tensors
that are not on CUDA) `reference` computes. The way through is that of the compiled ops: what
`register` tells torch of them holds for these too. triton itself is imported where it first
computes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from emergence_ext.ops import reference, transforms
from emergence_ext.ops.autocast import in_float32
from emergence_ext.ops.checks import checked, checked_scale, checked_targets, refuse_gradients
from emergence_ext.ops.narrow_problem import Problem, ceil_div, launch, plain
from emergence_ext.ops.ragged import Ragged
from emergence_ext.ops.registration import compact_type, register
from emergence_ext.ops.tensor_cores import NARROW

NAMESPACE: Final = "emergence_triton"
BLOCK_BYTES: Final = 256 << 20
"""Products and matches held at once when `max_memory` is not given."""

IMAGES_OF_SUM: Final = 16
"""Images of q whose gradients of d are summed at once where the softmax runs over d. Blocks hold
whole groups of so many, so that sums are the same for any block."""


def why_not(device: torch.device | str) -> str | None:
    """Say in one line why Triton cannot compute on a device; None where it can."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return f"its Triton kernels are for NVIDIA's GPUs, not for {device.type}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"its Triton kernels want compute capability 8.0, the device has {major}.{minor}"
    try:
        import emergence_ext.ops.narrow_kernels  # noqa: F401
    except Exception as error:  # what a triton that does not fit raises is anything
        return f"triton cannot be imported: {' '.join(str(error).split())}"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton builds its launcher with a C compiler; install gcc or clang, or set CC"
    return None


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
    """As `emergence_ext.ops.maxsim`; a block of products takes `max_memory`, else 256 MiB."""
    options: dict[str, Any] = {"precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    if not _takes(q):
        return reference.maxsim(q, d, a, q_lengths=q_lengths, d_lengths=d_lengths, **options)
    given = (q, d, a, q_lengths, d_lengths)
    if any(map(transforms.wants_gradient, (q, d, a))):
        return _ops_for(*given).maxsim_indices(*given, **options, compact=True)[0]
    return _ops_for(*given).maxsim(*given, **options)


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
) -> tuple[Tensor, Tensor]:
    """As `emergence_ext.ops.maxsim_indices`; memory as in `maxsim`."""
    options: dict[str, Any] = {"precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    if not _takes(q):
        lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
        return reference.maxsim_indices(q, d, a, **lengths, **options)
    given = (q, d, a, q_lengths, d_lengths)
    return _ops_for(*given).maxsim_indices(*given, **options)


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
    """As `emergence_ext.ops.match_kl`."""
    options: dict[str, Any] = {"over": over, "precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    if not _takes(q):
        lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
        return reference.match_kl(q, d, a, b, P, exclude, **lengths, **options)
    refuse_gradients("match_kl", P=P)
    inputs, both = (q, d, a, b, P, exclude), (q_lengths, d_lengths)
    needs = [transforms.wants_gradient(x) for x in (q, d, a, b)]
    return _ops_for(*inputs, *both).match_kl(*inputs, needs, *both, **options)[0]


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
    """As `emergence_ext.ops.match_kl_scaled`."""
    options: dict[str, Any] = {"over": over, "precision": precision, "max_memory": max_memory}
    options["empty_score"] = empty_score
    if not _takes(f):
        lengths: dict[str, Any] = {"q_lengths": q_lengths, "d_lengths": d_lengths}
        return reference.match_kl_scaled(f, v, d, a, b, P, exclude, **lengths, **options)
    refuse_gradients("match_kl_scaled", f=f, d=d, P=P)
    inputs, both = (f, v, d, a, b, P, exclude), (q_lengths, d_lengths)
    needs = [transforms.wants_gradient(x) for x in (v, a, b)]
    return _ops_for(*inputs, *both).match_kl_scaled(*inputs, needs, *both, **options)[0]


def _takes(q: Tensor) -> bool:
    """Whether the kernels can compute this; Triton's interpreter takes what is on the CPU."""
    there = q.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    narrow = q.ndim == 3 and 1 <= q.shape[2] <= NARROW
    return there and narrow and q.is_floating_point() and q.dtype != torch.float64


def _ops_for(*tensors: Tensor | None) -> Any:
    """The ops, in a form for `torch.func` where that is at work."""
    ops = getattr(torch.ops, NAMESPACE)
    return transforms.Transformable(ops) if transforms.at_work(*tensors) else ops


# The ops, as schemas.h has them; checked here, computed below.


def _maxsim(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    *,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> Tensor:
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    return _scores(q, d, a, None, ragged, precision, max_memory)[0]


def _maxsim_indices(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    *,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
    compact: bool = False,
) -> tuple[Tensor, Tensor]:
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    T, argmax = _scores(q, d, a, compact, ragged, precision, max_memory)
    assert argmax is not None
    return T, argmax


def _maxsim_backward(
    G: Tensor,
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    argmax: Tensor,
    needs: Sequence[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    stored, ragged = q.dtype, Ragged(q_lengths, d_lengths)
    q, d, weights = checked("maxsim", q, d, a, "highest", ragged=ragged)
    plainly = a is None and ragged.q_lengths is None
    problem = Problem.of(q, d, None if plainly else weights)
    G, argmax = plain(G), argmax.contiguous()
    with problem.on_its_device():
        u = problem.new_sums() if needs[0] or needs[2] else None
        dd = d.new_zeros(d.shape, dtype=torch.float32) if needs[1] else None
        if dd is not None:
            problem.add_conditioning(G, argmax, dd, len(q))
            dd = ragged.without_empty(dd)
        if u is not None:
            problem.add_scored(0, G, argmax, u)
        da = problem.weight_gradient(u) if needs[2] and u is not None else None
        dq = problem.weighed(u) if needs[0] and u is not None else None
    return _given(dq, q).to(stored), _given(dd, q).to(stored), _given(da, q).to(stored)


def _match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    needs: Sequence[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    *,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (q, d, a)
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    q, d, a = checked("match_kl", *given, precision, ragged=ragged)
    b, P = checked_targets("match_kl", q, d, b, P, exclude, over)
    b = ragged.bias(b, over)
    problem, targets = Problem.of(q, d, a), _Targets.of(b, P, exclude, over)
    beside = problem.copied(*given)
    with problem.on_its_device():
        loss, u, dd, db = _loss("match_kl", problem, targets, needs, beside, max_memory)
        da = problem.weight_gradient(u) if needs[2] and u is not None else None
        dq = problem.weighed(u) if needs[0] and u is not None else None
        dd = None if dd is None else ragged.without_empty(dd)
    return loss, _given(dq, q), _given(dd, q), _given(da, q), _given(db, q)


def _match_kl_scaled(
    f: Tensor,
    v: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None,
    needs: Sequence[bool],
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    *,
    empty_score: float = -1e9,
    over: str = "q",
    precision: str = "highest",
    max_memory: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (f, v, d, a)
    v = checked_scale("match_kl_scaled", f, v)
    ragged = Ragged(q_lengths, d_lengths, empty_score)
    f, d, a = checked("match_kl_scaled", f, d, a, precision, first="f", ragged=ragged)
    b, P = checked_targets("match_kl_scaled", f, d, b, P, exclude, over)
    b = ragged.bias(b, over)
    problem, targets = Problem.of(f, d, a, v), _Targets.of(b, P, exclude, over)
    wanted = (needs[0], False, needs[1], needs[2])
    beside = problem.copied(*given)
    with problem.on_its_device():
        loss, u, _, db = _loss("match_kl_scaled", problem, targets, wanted, beside, max_memory)
        da = problem.weight_gradient(u) if needs[1] and u is not None else None
        dv = problem.weighed(u).mul_(problem.q).sum(1) if needs[0] and u is not None else None
    return loss, _given(dv, f), _given(da, f), _given(db, f)


def _scale_gradient(grad: Tensor, gradient: Tensor, of: Tensor) -> Tensor:
    return (grad * gradient).to(of.dtype)


class _Targets(NamedTuple):
    """What the softmax of each row is compared with, contiguous: b, P, exclude as in `match_kl`."""

    b: Tensor
    P: Tensor
    exclude: Tensor | None
    over: str

    @classmethod
    def of(cls, b: Tensor, P: Tensor, exclude: Tensor | None, over: str) -> _Targets:
        return cls(plain(b), plain(P), None if exclude is None else exclude.contiguous(), over)


def _scores(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    compact: bool | None,
    ragged: Ragged,
    precision: str,
    max_memory: int | None,
) -> tuple[Tensor, Tensor | None]:
    """T of `maxsim`, a block of images at a time, and its matches unless `compact` is None."""
    given = [x for x in (q, d, a) if x is not None]
    q, d, weights = checked("maxsim", q, d, a, precision, ragged=ragged)
    plainly = a is None and ragged.q_lengths is None
    problem = Problem.of(q, d, None if plainly else weights)
    (N, R, _), B = q.shape, len(d)
    T, argmax = q.new_empty(B, N), None
    if compact is not None:
        dtype = compact_type(problem.S) if compact else torch.int64
        argmax = q.new_empty((B, N, R), dtype=dtype)
    with problem.on_its_device():
        parts, beside = [(R, torch.float32)], problem.copied(*given)
        (value,) = _block("maxsim", q.device, B, N, parts, beside, max_memory)
        for start in range(0, B, len(value)):
            rows = slice(start, min(start + len(value), B))
            problem.match(rows, value, None if argmax is None else argmax[rows], T[rows])
    return ragged.scores(T), argmax


def _loss(
    op: str,
    problem: Problem,
    targets: _Targets,
    needs: Sequence[bool],
    beside: int,
    max_memory: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss, and u, dd and db where `needs` asks for the gradients of (q, d, a, b).

    `beside` are the bytes that the caller took.
    """
    q, (N, R, _), B = problem.q, problem.q.shape, len(problem.d)
    over_q = targets.over == "q"
    count, columns = (B, N) if over_q else (N, B)
    u = problem.new_sums() if needs[0] or needs[2] else None
    dd = q.new_zeros(B, problem.S, q.shape[2]) if needs[1] else None
    db = q.new_zeros(columns) if needs[3] else None
    losses = q.new_zeros(count, dtype=torch.float64)
    parts = [(R, torch.float32), (1, torch.float32)]
    if u is not None or dd is not None:
        parts.append((R, compact_type(problem.S)))
    beside += losses.nbytes + (0 if u is None else u.nbytes)
    group = 1 if over_q else IMAGES_OF_SUM
    block = _block(op, q.device, count, columns, parts, beside, max_memory, group)
    for start in range(0, count, len(block[0])):
        rows = slice(start, min(start + len(block[0]), count))
        # Over q images of d are complete in themselves, over d images of q.
        part, images = (problem, rows) if over_q else (problem.of_q(rows), slice(0, B))
        pairs = (images.stop - images.start, len(part.q))
        value, G, *places = (x.flatten(0, 1)[: pairs[0] * pairs[1]] for x in block)
        G, place = G.view(pairs), places[0].view(*pairs, R) if places else None
        part.match(images, value, place, G)
        across = dict(
            zip(("row", "column"), G.stride() if over_q else G.stride()[::-1], strict=True)
        )
        exclude = None if targets.exclude is None else targets.exclude[rows]
        options = {"N": columns, "B": count, "COLUMNS": 512, **across}
        n = rows.stop - rows.start
        launch("kl", n, G, targets.b, targets.P[rows], exclude, losses[rows], **options)
        if db is not None:
            options = {"N": columns, "n": n, "COLUMNS": 128, **across}
            launch("add_bias", ceil_div(columns, 128), G, db, **options)
        if place is not None and u is not None:
            part.add_scored(images.start, G, place, u if over_q else u[rows])
        if place is not None and dd is not None:
            part.add_conditioning(G, place, dd[images], len(part.q) if over_q else IMAGES_OF_SUM)
    return (losses.sum() / max(count, 1)).to(q.dtype), u, dd, db


def _block(
    op: str,
    device: torch.device,
    count: int,
    others: int,
    parts: Sequence[tuple[int, torch.dtype]],
    beside: int,
    max_memory: int | None,
    group: int = 1,
) -> list[Tensor]:
    """Memory for a block of images: for each part `[images, others, columns]` of its dtype.

    As many of the `count` images as `max_memory` holds beside the bytes of the rest, or 256 MiB, in
    whole groups; where the device has less to give, half as many, and again.
    """
    if max_memory is not None and max_memory <= 0:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory}")
    each = max(1, sum(others * columns * dtype.itemsize for columns, dtype in parts))
    room = BLOCK_BYTES if max_memory is None else max_memory - beside
    least = min(group, max(count, 1))
    if room < least * each and max_memory is not None:
        raise ValueError(
            f"{op}: max_memory = {max_memory} bytes holds no block; "
            f"give at least {beside + least * each}"
        )
    images = min(max(room // each // group * group, group), max(count, 1))
    while True:
        try:
            return [
                torch.empty(images, others, columns, dtype=dtype, device=device)
                for columns, dtype in parts
            ]
        except torch.OutOfMemoryError:
            if images <= group:
                raise
        images = max(images // 2 // group * group, group)


def _given(x: Tensor | None, like: Tensor) -> Tensor:
    """A gradient, or what stands for one that nobody asked for."""
    return like.new_empty(0) if x is None else x


def _define() -> None:
    """Tell torch of the ops, for CUDA and for Triton's interpreter."""
    ops: dict[str, Callable[..., Any]] = {
        "maxsim": _maxsim,
        "maxsim_indices": _maxsim_indices,
        "maxsim_backward": _maxsim_backward,
        "match_kl": _match_kl,
        "match_kl_scaled": _match_kl_scaled,
        "scale_gradient": _scale_gradient,
    }
    for name, op in ops.items():
        schema = torch.library.infer_schema(op, mutates_args=())
        tags = (torch.Tag.pt2_compliant_tag,)
        torch.library.define(f"{NAMESPACE}::{name}", schema, tags=tags)
        torch.library.impl(f"{NAMESPACE}::{name}", ("cuda", "cpu"), op)
    register(NAMESPACE)


_define()
