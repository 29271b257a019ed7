"""What could be used instead of the ops on a GPU.

Bodies, eager torch, torch.compile and KeOps are those of the CPU. Late interaction has two packages
of Triton kernels: `flash-maxsim` and `late-interaction-kernels`. They take no weights (a = 1) and
return no matches; their products are of 16-bit numbers or TF32, and their autograd gives the
gradients of q and d, behind which plain torch puts the softmax and the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks import peers
from benchmarks.cases import Problem
from benchmarks.peers import Peer, Unusable

BLOCK_BYTES: Final = 1 << 30
"""Scores that a peer holds at once: enough to fill a GPU."""

NARROWEST: Final = 16
"""Channels of the smallest product in Triton; narrower rows are filled up with zeros."""

PartOfLoss = tuple[Tensor, tuple[Tensor | None, ...]]
Score = Callable[[Tensor, Tensor], Tensor]
"""From q `[N, R, D]` and d `[B, S, D]` to scores `[N, B]`."""


def forward_peers(D: int) -> Iterator[Peer]:
    """Peers of `maxsim_indices` at a width D, without torch.compile."""
    yield from peers.forward_anywhere(D, max_memory=3 * BLOCK_BYTES)
    if D > peers.KEOPS_WIDEST:
        yield Peer("eager, product and max in blocks", "product", product_and_maximum)
        yield Peer("the same with TF32", "product", in_tf32(product_and_maximum), rough=True)
        yield peers.alone("blocks", BLOCK_BYTES)
    for name, (group, score, _) in PACKAGES.items():
        call = package_forward(score)
        yield Peer(name, group, call, _remark(D, "scores only"), weighted=False, rough=True)


def gradient_peers(D: int, *, scaled: bool) -> Iterator[Peer]:
    """Peers of `match_kl`, or scaled of `match_kl_scaled`, without torch.compile."""
    yield from peers.gradient_peers(D, scaled=scaled, max_memory=3 * BLOCK_BYTES)
    for name, (group, _, score) in PACKAGES.items():
        call = package_gradients(score, scaled=scaled)
        yield Peer(name, group, call, _remark(D, "no gradient of a"), weighted=False, rough=True)


def _remark(D: int, lacks: str) -> str:
    filled = f", filled up to {NARROWEST} channels" if D < NARROWEST else ""
    return f"{lacks}, a = 1{filled}"


def product_and_maximum(x: Problem) -> tuple[Tensor, Tensor]:
    """The library's product of a block of images, in the type of the inputs, then its maximum."""
    rows, S = x.q.flatten(0, 1), x.d.shape[1]
    images = max(1, BLOCK_BYTES // (rows.element_size() * len(rows) * S))
    T, argmax = [], []
    for block in x.d.split(images):
        best = (rows @ block.flatten(0, 1).t()).view(*x.a.shape, len(block), S).max(dim=3)
        T.append((x.a[..., None] * best.values.float()).sum(1).t())
        argmax.append(best.indices.permute(2, 0, 1))
    return torch.cat(T), torch.cat(argmax)


def in_tf32(call: Callable[[Problem], Any]) -> Callable[[Problem], Any]:
    """Let the library's product of float32 matrices round to TF32."""

    def with_tf32(x: Problem) -> Any:
        if x.q.dtype != torch.float32:
            raise Unusable("TF32 is for float32 inputs")
        with _matmul_precision("high"):
            return call(x)

    return with_tf32


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# The packages, imported where they are used, as they may be absent


def flash_maxsim(q: Tensor, d: Tensor) -> Tensor:
    """Scores of flash-maxsim, for any pair of images."""
    import flash_maxsim

    return flash_maxsim.flash_maxsim_batched(q, d)


def flash_maxsim_train(q: Tensor, d: Tensor) -> Tensor:
    """The same with autograd."""
    import flash_maxsim

    return flash_maxsim.flash_maxsim_batched_train(q, d)


def late_interaction(q: Tensor, d: Tensor) -> Tensor:
    """Scores of late-interaction-kernels, with autograd where a gradient is wanted."""
    import late_interaction_kernels

    return late_interaction_kernels.maxsim(q, d)


PACKAGES: Final[dict[str, tuple[str, Score, Score]]] = {
    "flash-maxsim": ("flash-maxsim", flash_maxsim, flash_maxsim_train),
    "late-interaction-kernels": ("late-interaction", late_interaction, late_interaction),
}
"""Name of each, its group, its scores, and its scores with autograd."""

GROUPS: Final = tuple(group for group, _, _ in PACKAGES.values())


def package_forward(score: Score) -> Callable[[Problem], tuple[Tensor, None]]:
    """Score all pairs of images at once."""

    def call(x: Problem) -> tuple[Tensor, None]:
        return score(_filled(x.q), _filled(x.d)).t(), None

    return call


def package_gradients(score: Score, *, scaled: bool) -> Callable[[Problem], PartOfLoss]:
    """Differentiate `match_kl` in (q, d, b), or scaled in (v, b), through all pairs at once."""

    def call(x: Problem) -> PartOfLoss:
        v, q, d, b = (t.detach() for t in (x.v, x.q, x.d, x.b))
        wanted = [v, b] if scaled else [q, d, b]
        for leaf in wanted:
            leaf.requires_grad_()
        product = v[:, None] * q if scaled else q
        T = score(_filled(product), _filled(d)).t() + b
        log_q = torch.log_softmax(T, dim=1)
        loss = (torch.xlogy(x.P, x.P) - x.P * log_q).sum(1).mean()
        *grads, db = torch.autograd.grad(loss, wanted)
        return loss.detach(), (*grads, None, db)

    return call


def _filled(x: Tensor) -> Tensor:
    return pad(x, (0, NARROWEST - x.shape[2])) if x.shape[2] < NARROWEST else x
