"""A loss that is a mean over conditioning images, in blocks that the processes of a job share.

Blocks have a size of their own and are summed in their order, in float32: one process or eight, the
loss and its gradients are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext import parallel

BLOCK: Final = 512
"""Conditioning images of a block."""


def mean_over_blocks(loss: Callable[..., Tensor], count: int, *inputs: Tensor) -> Tensor:
    """Return the mean of a loss over `count` images, differentiable once in the inputs.

    Within a job all processes call this together, with equal inputs. Beside these and their
    gradients, a process holds those of one block for each process.

    Args:
        loss: from the slice of a block and the inputs to the mean over the images of that block, a
            scalar.
        count: number of images.
        inputs: whatever of the loss is to have a gradient.

    Raises:
        PeerError: another process of the job ended.
    """
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in inputs]
    result: Tensor = _Mean.apply(loss, count, wanted, *inputs)
    return result


class _Mean(torch.autograd.Function):
    """Gradients are formed with the loss, block by block, so that no block's graph outlives it."""

    @staticmethod
    def forward(
        ctx: Any, loss: Callable[..., Tensor], count: int, wanted: list[bool], *inputs: Tensor
    ) -> Tensor:
        blocks = [slice(k, min(k + BLOCK, count)) for k in range(0, count, BLOCK)]
        total: list[Tensor] = []
        for first in range(0, len(blocks), parallel.world()):
            together = blocks[first : first + parallel.world()]
            # Who has no block left does the last one again, which is not summed.
            own = together[min(parallel.rank(), len(together) - 1)]
            parts = _of_block(loss, own, count, wanted, inputs)
            everyone = zip(*map(parallel.gathered, parts), strict=True)
            for _, block in zip(together, everyone, strict=False):
                total = [x + y for x, y in zip(total, block, strict=True)] if total else [*block]
        mean, *gradients = total
        ctx.wanted = wanted
        ctx.save_for_backward(*gradients)
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        of_inputs = (grads[0] * next(gradients) if wanted else None for wanted in ctx.wanted)
        return None, None, None, *of_inputs


def _of_block(
    loss: Callable[..., Tensor],
    block: slice,
    count: int,
    wanted: Sequence[bool],
    inputs: Sequence[Tensor],
) -> list[Tensor]:
    """What a block adds to the mean, and to the gradient of each input that wants one."""
    leaves = [x.detach().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    with torch.set_grad_enabled(any(wanted)):
        part = loss(block, *leaves) * ((block.stop - block.start) / count)
    if not any(wanted):
        return [part]
    of = [x for x, want in zip(leaves, wanted, strict=True) if want]
    return [part.detach(), *torch.autograd.grad(part, of)]
