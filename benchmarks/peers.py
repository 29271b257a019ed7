"""What could be used instead of the ops, each as well as its maker would use it.

A *body* does one conditioning image: `body(q, d_i, a) -> (T_i [N], argmax [N, R])`. Forward peers
run a body image by image; gradients come by autograd through it, again image by image, so that no
peer needs more memory than its fastest form does. `torch.compile` compiles the same bodies.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.cases import Problem
from emergence_ext import ops
from emergence_ext.ops import reference

Body = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Loss = tuple[Tensor, tuple[Tensor, ...]]
Call = Callable[[Problem], Any]
ByMode = Callable[[str], Call]

MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
GRAPHED: Final = ("reduce-overhead", "max-autotune")
"""Modes that record CUDA graphs on a GPU."""

KEOPS_WIDEST: Final = 64
WRITTEN_OUT_WIDEST: Final = 8
MAXSIM_CPU_LARGEST: Final = 64**3
"""R S D of one product of maxsim-cpu 0.1.0; seen to fail above it, and at no size below."""


class Unusable(RuntimeError):
    """A peer that is there and cannot do this problem."""


@dataclass(frozen=True)
class Peer:
    """One thing that is timed; `call` gets a problem and returns what the op returns.

    A forward call returns T and the matches (None in their place where it finds none), a call with
    gradients the loss and the gradients (None in the place of one that it has not), and a call that
    is there for its time alone returns None. A peer that is not `weighted` gets a = 1; one that is
    `rough` computes in less than float32 whatever it gets.
    """

    name: str
    group: str
    call: Call
    remark: str = ""
    weighted: bool = True
    rough: bool = False


# Bodies


def maximum(q: Tensor, d_i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """One product and its maximum with index, as anyone would write it first."""
    best = (q.flatten(0, 1) @ d_i.t()).max(dim=1)
    return (a * best.values.view(a.shape).float()).sum(1), best.indices.view(a.shape)


def maximum_then_place(q: Tensor, d_i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The same with the index found afterwards: compiled, two sweeps beat a maximum with index."""
    return _largest(q.flatten(0, 1) @ d_i.t(), a)


def written_out(q: Tensor, d_i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The same without a library product: compiled, one loop that stores no scores; for small D."""
    rows = q.flatten(0, 1)
    scores = rows[:, 0, None] * d_i[:, 0]
    for k in range(1, q.shape[2]):
        scores = scores + rows[:, k, None] * d_i[:, k]
    return _largest(scores, a)


def _largest(scores: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    top = scores.amax(dim=1, keepdim=True)
    # Places as float32 share the registers of the scores: twice as fast as integers, once compiled.
    places = torch.arange(scores.shape[1], dtype=torch.float32, device=scores.device)
    index = torch.where(scores == top, places, float(scores.shape[1])).amin(dim=1)
    return (a * top.view(a.shape).float()).sum(1), index.long().view(a.shape)


def keops(q: Tensor, d_i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """KeOps' reduction, which stores no scores."""
    lazy = _lazy_tensor(q.dtype)
    top, index = (lazy(q.reshape(-1, 1, q.shape[2])) | lazy(d_i[None])).max_argmax(dim=1)
    return (a * top.view(a.shape)).sum(1), index.view(a.shape)


@cache
def _lazy_tensor(dtype: torch.dtype) -> Any:
    if dtype not in (torch.float32, torch.float64):
        raise Unusable("KeOps takes float32 and float64")
    # Imported where it is used, as it may be absent, and without its remarks about CUDA.
    with contextlib.redirect_stdout(io.StringIO()):
        import pykeops
        from pykeops.torch import LazyTensor
    pykeops.set_verbose(False)
    return LazyTensor


def winner(body: Body) -> Body:
    """Find the match without a graph, and take its product again with one: cheaper backward."""

    def differentiable(q: Tensor, d_i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            index = body(q, d_i, a)[1]
        return (a * (q * d_i[index]).sum(2, dtype=torch.float32)).sum(1), index

    return differentiable


# From a body to a peer


def forward(body: Body) -> Callable[[Problem], tuple[Tensor, Tensor]]:
    """Run a body image by image."""

    def call(x: Problem) -> tuple[Tensor, Tensor]:
        T, argmax = zip(*(body(x.q, d_i, x.a) for d_i in x.d), strict=True)
        return torch.stack(T), torch.stack(argmax)

    return call


def row_loss(body: Body) -> Callable[..., Tensor]:
    """Give the term of `match_kl` that belongs to one conditioning image."""

    def term(q: Tensor, d_i: Tensor, a: Tensor, b: Tensor, P_i: Tensor) -> Tensor:
        log_q = torch.log_softmax(body(q, d_i, a)[0] + b, dim=0)
        return (torch.xlogy(P_i, P_i) - P_i * log_q).sum()

    return term


def gradients(term: Callable[..., Tensor], *, scaled: bool) -> Callable[[Problem], Loss]:
    """Differentiate the mean of the terms, image by image, in (q, d, a, b), or scaled (v, a, b)."""

    def call(x: Problem) -> Loss:
        v = x.v.detach().requires_grad_()
        product = v[:, None] * x.q if scaled else x.q
        q, a, b = (_leaf(y) for y in (product, x.a, x.b))
        loss, dd = x.b.new_zeros(()), []
        for d_i, P_i in zip(x.d, x.P, strict=True):
            # A leaf of its own: a slice of one large leaf would have gradients of its size.
            d_i = d_i.detach() if scaled else _leaf(d_i)
            one = term(q, d_i, a, b, P_i) / len(x.d)
            one.backward()
            loss += one.detach()
            dd.append(d_i.grad)
        if not scaled:
            return loss, (q.grad, torch.stack(dd), a.grad, b.grad)  # type: ignore[arg-type]
        product.backward(q.grad)
        return loss, (v.grad, a.grad, b.grad)  # type: ignore[return-value]

    return call


def _leaf(x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    # Gradients are added to it. Else it would become the first one, which a CUDA graph overwrites.
    leaf.grad = torch.zeros_like(leaf)
    return leaf


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Compile, with nothing left over from what was compiled before."""
    torch.compiler.reset()
    run = torch.compile(function, mode=mode, dynamic=False, fullgraph=True)
    if mode not in GRAPHED or not torch.cuda.is_available():
        return run
    # The next replay of a graph overwrites its results.
    return lambda *inputs: tree_map(torch.clone, run(*inputs))


# The ops, and functions that take a whole problem


def op_forward(precision: str = "highest", *, module: Any = ops, **options: Any) -> Call:
    """`maxsim_indices` of `ops` or `reference`."""
    return lambda x: module.maxsim_indices(x.q, x.d, x.a, precision=precision, **options)


def op_gradients(
    precision: str = "highest", *, scaled: bool, module: Any = ops, **options: Any
) -> Callable[[Problem], Loss]:
    """`match_kl` or `match_kl_scaled` of `ops` or `reference`, with all gradients."""
    options["precision"] = precision

    def call(x: Problem) -> Loss:
        if scaled:
            v, a, b = wanted = [y.detach().requires_grad_() for y in (x.v, x.a, x.b)]
            loss = module.match_kl_scaled(x.q, v, x.d, a, b, x.P, **options)
        else:
            q, d, a, b = wanted = [y.detach().requires_grad_() for y in (x.q, x.d, x.a, x.b)]
            loss = module.match_kl(q, d, a, b, x.P, **options)
        return loss.detach(), torch.autograd.grad(loss, wanted)

    return call


def keops_at_once(x: Problem) -> tuple[Tensor, Tensor]:
    """KeOps' reduction over all images in one call."""
    lazy = _lazy_tensor(x.q.dtype)
    rows, others = x.q.reshape(1, -1, 1, x.q.shape[2]), x.d[:, None]
    top, index = (lazy(rows) | lazy(others)).max_argmax(dim=2)
    shape = (len(x.d), *x.a.shape)
    return (x.a * top.view(shape)).sum(2), index.view(shape)


def maxsim_cpu(x: Problem) -> tuple[Tensor, None]:
    """Scores without weights or matches, one scored image against all others per call."""
    import maxsim_cpu

    if x.q.shape[1] * x.d.shape[1] * x.q.shape[2] > MAXSIM_CPU_LARGEST:
        raise Unusable("products over 64^3 go to a BLAS that its wheel lacks: wrong, or a crash")
    others = x.d.numpy()
    scores = [torch.as_tensor(maxsim_cpu.maxsim_scores(q.numpy(), others)) for q in x.q]
    return torch.stack(scores, dim=1), None


def product_alone(block_bytes: int | None) -> Callable[[Problem], None]:
    """The library product of all regions in blocks, which nobody looks at: no maximum is taken."""

    def call(x: Problem) -> None:
        rows, S = x.q.flatten(0, 1), x.d.shape[1]
        size = rows.element_size() * len(rows) * S
        images = len(x.d) if block_bytes is None else max(1, block_bytes // size)
        out = rows.new_empty(len(rows) * min(images, len(x.d)) * S)
        for block in x.d.split(images):
            columns = block.flatten(0, 1).t()
            size = len(rows) * columns.shape[1]
            torch.mm(rows, columns, out=out[:size].view(len(rows), -1))

    return call


# The peers of an op


def bodies(D: int) -> Iterator[tuple[str, Body]]:
    """Name the bodies of plain torch that this width can have."""
    yield "max", maximum
    yield "amax, then place", maximum_then_place
    if D <= WRITTEN_OUT_WIDEST:
        yield "written out", written_out


def forward_peers(D: int) -> Iterator[Peer]:
    """Peers of `maxsim_indices` at a width D on the CPU, without torch.compile."""
    yield from forward_anywhere(D)
    yield Peer("maxsim-cpu", "maxsim-cpu", maxsim_cpu, "scores only, a = 1", weighted=False)
    if D > KEOPS_WIDEST:
        yield alone("blocks", reference.BLOCK_BYTES)
        yield alone("one call", None)


def forward_anywhere(D: int, max_memory: int | None = None) -> Iterator[Peer]:
    """Those of them that run on any device; the reference in blocks of `max_memory`."""
    yield Peer("eager, one image at a time", "eager", forward(maximum))
    blocks = op_forward(module=reference, max_memory=max_memory)
    yield Peer("eager, blocks of images (reference)", "eager", blocks)
    if D <= KEOPS_WIDEST:
        yield Peer("KeOps, one image at a time", "keops", forward(keops))
        yield Peer("KeOps, all images at once", "keops", keops_at_once)


def alone(name: str, block_bytes: int | None) -> Peer:
    """Name a bound that the library's product sets: the time of that alone, in blocks."""
    remark = "the same FLOPs without a maximum"
    return Peer(f"sgemm alone, {name}", "sgemm", product_alone(block_bytes), remark)


def gradient_peers(D: int, *, scaled: bool, max_memory: int | None = None) -> Iterator[Peer]:
    """Peers of `match_kl`, or scaled of `match_kl_scaled`, without torch.compile."""
    for name, body in (("through max", maximum), ("through the winner", winner(maximum))):
        call = gradients(row_loss(body), scaled=scaled)
        yield Peer(f"eager autograd {name}", "eager", call)
    by_hand = op_gradients(scaled=scaled, module=reference, max_memory=max_memory)
    yield Peer("eager, gradients by hand (reference)", "reference", by_hand)
    if D <= KEOPS_WIDEST:
        call = gradients(row_loss(winner(keops)), scaled=scaled)
        yield Peer("KeOps, autograd through the winner", "keops", call)


def compiled_forward(D: int) -> dict[str, ByMode]:
    """Name the bodies that torch.compile gets, each as a function of the mode."""
    return {name: lambda mode, body=body: forward(compiled(body, mode)) for name, body in bodies(D)}


def compiled_gradients(D: int, *, scaled: bool) -> dict[str, ByMode]:
    """Name the bodies that torch.compile gets under autograd, each as a function of the mode."""
    named = {"through max": maximum}
    named |= {f"through the winner of {name}": winner(body) for name, body in bodies(D)}
    return {
        name: lambda mode, body=body: gradients(compiled(row_loss(body), mode), scaled=scaled)
        for name, body in named.items()
    }


def use_threads(threads: int) -> None:
    """Give torch and every peer the same number of threads; before a peer is imported."""
    torch.set_num_threads(threads)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("LIBXSMM_VERBOSE", "0")  # maxsim-cpu's library reports at the end
