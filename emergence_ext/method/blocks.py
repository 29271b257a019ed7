"""A loss that is a mean over images, in parts of them that the processes of a job share.

All pairs of images are scored in blocks of conditioning images, each against all others; with some
pairs alone, in groups, within each of which all pairs are scored. Blocks have a size of their own
and groups are drawn alike everywhere, and what comes of them is summed in their order, in float32:
one process or eight, the loss and its gradients are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext import parallel

BLOCK: Final = 512
"""Conditioning images of a block, at most."""

SHARES: Final = 8
"""Blocks, where there are images enough: so many processes can share them evenly."""

LEAST: Final = 16
"""Conditioning images of a block, at least."""

TOLD: Final = 2**24
"""Bytes of gradients that a process tells the others at once, where one block has fewer."""

Evaluate = Callable[[Sequence[Tensor], Sequence[bool]], list[Tensor]]
"""From inputs, and whether each wants a gradient, to the loss and the gradients that are wanted."""


def mean_over_blocks(loss: Callable[..., Tensor], count: int, *inputs: Tensor) -> Tensor:
    """Return the mean of a loss over `count` images, differentiable once in the inputs.

    Within a job all processes call this together, with equal inputs. Beside these and their
    gradients, a process holds for each process those of one block, or of several in `TOLD` bytes.

    Args:
        loss: from the slice of a block and the inputs to the mean over the images of that block, a
            scalar.
        count: number of images.
        inputs: whatever of the loss is to have a gradient.

    Raises:
        PeerError: another process of the job ended.
    """

    def evaluate(inputs: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
        size, world = block_size(count), parallel.world()
        blocks = [slice(k, min(k + size, count)) for k in range(0, count, size)]
        rounds = [blocks[first : first + world] for first in range(0, len(blocks), world)]
        each = sum(x.nbytes for x, want in zip(inputs, wanted, strict=True) if want)
        some = max(1, TOLD // max(1, each)) if world > 1 else 1
        total: list[Tensor] = []
        for first in range(0, len(rounds), some):
            own = []
            for together in rounds[first : first + some]:
                # Who has no block left does the last one again, which is not summed.
                block = together[min(parallel.rank(), len(together) - 1)]
                share = (block.stop - block.start) / count
                own.append(_with_gradients(partial(loss, block), share, inputs, wanted))
            everyone = _of_everyone(own)
            for k, together in enumerate(rounds[first : first + some]):
                for theirs, _ in zip(everyone, together, strict=False):
                    total = total or [torch.zeros_like(x) for x in theirs[k]]
                    for x, y in zip(total, theirs[k], strict=True):
                        x += y
        return total

    return _mean(evaluate, inputs)


def mean_over_groups(
    loss: Callable[..., Tensor], groups: Sequence[Tensor], *inputs: Tensor
) -> Tensor:
    """Return the mean of a loss over images in groups, differentiable once in the inputs.

    Within a job all processes call this together, with equal inputs.

    Args:
        loss: from the images of a group, `[n]`, and their rows of the inputs to the mean over them,
            a scalar.
        groups: indices; each image is in one of them.
        inputs: whatever of the loss is to have a gradient, `[N, ...]`.

    Raises:
        PeerError: another process of the job ended.
    """
    count, world = sum(map(len, groups)), parallel.world()
    each = -(-len(groups) // world)
    shares = [groups[k * each : (k + 1) * each] for k in range(world)]
    images = torch.cat(list(groups))

    def evaluate(inputs: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
        own = [
            _with_gradients(
                partial(loss, group), len(group) / count, [x[group] for x in inputs], wanted
            )
            for group in shares[parallel.rank()]
        ]
        losses = [part[0][None] for part in own]
        results = [_joined(losses, [len(share) for share in shares], inputs[0].new_empty(0)).sum()]
        lengths = [sum(map(len, share)) for share in shares]
        for k, x in enumerate(x for x, want in zip(inputs, wanted, strict=True) if want):
            gradient = torch.empty_like(x)
            gradient[images] = _joined([part[1 + k] for part in own], lengths, x)
            results.append(gradient)
        return results

    return _mean(evaluate, inputs)


def is_of_all(pairs: int | None, count: int) -> bool:
    """Whether scoring each image against `pairs` others, None for all, is scoring all pairs.

    Examples:
        >>> from emergence_ext import method
        >>> method.is_of_all(None, 1000), method.is_of_all(256, 1000), method.is_of_all(256, 200)
        (True, False, True)
    """
    return pairs is None or count < 2 * (pairs + 1)


def parts_of(pairs: int | None, count: int) -> int:
    """In how many parts the loss over `count` images is computed, which processes can share.

    Examples:
        >>> from emergence_ext import method
        >>> method.parts_of(None, 1000), method.parts_of(256, 1000)
        (8, 3)
    """
    if is_of_all(pairs, count):
        return -(-count // block_size(count))
    return max(1, count // ((pairs or 0) + 1))


def block_size(count: int) -> int:
    """How many of `count` conditioning images a block has, whoever computes it."""
    return min(BLOCK, max(LEAST, -(-count // SHARES)))


def deal(count: int, pairs: int, generator: torch.Generator) -> list[Tensor]:
    """Deal images into random groups in which each meets `pairs` others, or a few more.

    Any two images are as likely to meet as any other two.

    Args:
        count: number of images.
        pairs: others in the group of an image; with as many as there are, one group of all.
        generator: of the random numbers.
    """
    order = torch.randperm(count, generator=generator)
    groups = order.tensor_split(max(1, count // (pairs + 1)))
    return [group.sort().values for group in groups]


def deal_to_each(count: int, others: int | None, generator: torch.Generator) -> list[Tensor]:
    """Give every image in turn, in random order, `others` random ones of its own.

    Args:
        count: number of images.
        others: of an image, drawn without putting back; None: all.
        generator: of the random numbers.

    Returns:
        For each image its index and, behind it, those of its others.
    """
    groups = []
    for image in torch.randperm(count, generator=generator):
        order = torch.randperm(count - 1, generator=generator)[:others]
        groups.append(torch.cat([image[None], order + (order >= image)]))
    return groups


def _joined(parts: Sequence[Tensor], lengths: Sequence[int], like: Tensor) -> Tensor:
    """Put the rows of all processes, of which each has so many, one after the other."""
    own = like.new_zeros(max(lengths), *like.shape[1:])
    if parts:
        own[: lengths[parallel.rank()]] = torch.cat(list(parts))
    everyone = zip(parallel.gathered(own), lengths, strict=True)
    return torch.cat([rows[:length] for rows, length in everyone])


def _of_everyone(own: list[list[Tensor]]) -> list[list[list[Tensor]]]:
    """Tell all processes what each has of some blocks, at once: an answer is long in coming."""
    if parallel.world() == 1:
        return [own]
    parts = [x for block in own for x in block]
    lengths, each = [x.numel() for x in parts], len(own[0])
    found = []
    for theirs in parallel.gathered(torch.cat([x.reshape(-1) for x in parts])):
        like = zip(theirs.split(lengths), parts, strict=True)
        arrays = [x.view_as(part) for x, part in like]
        found.append([arrays[k : k + each] for k in range(0, len(arrays), each)])
    return found


def _with_gradients(
    loss: Callable[..., Tensor], share: float, inputs: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor]:
    """A share of a loss, and its gradient for each input that wants one."""
    leaves = [x.detach().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    with torch.set_grad_enabled(any(wanted)):
        part = loss(*leaves) * share
    if not any(wanted):
        return [part]
    of = [x for x, want in zip(leaves, wanted, strict=True) if want]
    return [part.detach(), *torch.autograd.grad(part, of)]


def _mean(evaluate: Evaluate, inputs: Sequence[Tensor]) -> Tensor:
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in inputs]
    result: Tensor = _Evaluated.apply(evaluate, wanted, *inputs)
    return result


class _Evaluated(torch.autograd.Function):
    """Gradients are formed with the loss, part by part, so that no part's graph outlives it."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, wanted: list[bool], *inputs: Tensor) -> Tensor:
        loss, *gradients = evaluate(inputs, wanted)
        ctx.wanted = wanted
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        of_inputs = (grads[0] * next(gradients) if wanted else None for wanted in ctx.wanted)
        return None, None, *of_inputs
