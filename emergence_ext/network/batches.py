"""Batches of samples, in order, that become smaller where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.data import Samples
from emergence_ext.lookup import is_out_of_memory
from emergence_ext.settings import require_count

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def in_batches(
    run: Callable[[slice], Result],
    count: int,
    batch_size: int,
    *,
    description: str,
    leave: bool = True,
    ranges: Sequence[range] | None = None,
) -> Iterator[tuple[slice, Result]]:
    """Run samples `0 .. count - 1` in batches; where memory runs out, go on with half as many.

    Args:
        run: called with the samples of a batch; called again with fewer where it has no memory.
        count: number of samples.
        batch_size: samples at a time.
        description: what the progress bar says.
        leave: whether the bar stays when all is done.
        ranges: of the samples that are run, in order, no batch over the end of one; None: all.

    Yields:
        The samples of a batch and what `run` made of them.

    Raises:
        ValueError: a batch of no samples.
        MemoryError, RuntimeError: there is not enough memory for one sample, or another error.

    Examples:
        >>> from emergence_ext import network
        >>> x = torch.arange(5)
        >>> parts = network.in_batches(lambda rows: x[rows].sum().item(), 5, 2, description="sums")
        >>> [total for _, total in parts]
        [1, 5, 4]
    """
    require_count("batch_size", batch_size, 1)
    ranges = [range(count)] if ranges is None else ranges
    mine = sum(map(len, ranges))
    with tqdm(
        total=mine if parallel.world() > 1 else count,
        initial=0 if parallel.world() > 1 else count - mine,
        desc=description,
        unit="image",
        leave=leave,
        disable=parallel.no_bar(),
    ) as bar:
        for samples in ranges:
            start = samples.start
            while start < samples.stop:
                batch = slice(start, min(start + batch_size, samples.stop))
                try:
                    result = run(batch)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error) or batch_size == 1:
                        raise
                    batch_size = (batch.stop - batch.start + 1) // 2
                    logger.warning("out of memory; going on with %d images at a time", batch_size)
                    continue
                yield batch, result
                start = batch.stop
                bar.update(batch.stop - batch.start)


def stacked(images: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Stack images `[channels, H, W]` to `[B, channels, H, W]`.

    Raises:
        ValueError: images of different sizes.
    """
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"dataset: image {name!r} has shape {list(image.shape)}, expected "
                f"{list(images[0].shape)} like those before. Resize the images to one size."
            )
    return torch.stack(list(images))


@contextmanager
def read_ahead(
    samples: Samples, ranges: Sequence[range] | None = None
) -> Iterator[Callable[[slice], Tensor]]:
    """Stack batches as `in_batches` asks for them while the images of the next are read.

    Args:
        samples: whose images are read.
        ranges: of those that are read, as of `in_batches`.

    Yields:
        Batch -> `[B, channels, H, W]`; batches in order, or the last one again or a part of it.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> with network.read_ahead(images) as stack:
        ...     print(stack(slice(0, 8)).shape)
        ...
        torch.Size([8, 3, 16, 16])
    """
    ranges = [range(len(samples))] if ranges is None else ranges
    held: list[Tensor] = []
    first = 0  # image of the first that is held
    taken = 0  # images that were read
    images = samples.read(chain.from_iterable(ranges))

    def stack(batch: slice) -> Tensor:
        nonlocal first, taken, images
        del held[: batch.start - first]  # all of them where a range was jumped to
        first = batch.start
        count = batch.stop - batch.start
        try:
            for image in islice(images, max(0, count - len(held))):
                held.append(image)  # one by one: those before an error stay
                taken += 1
        except Exception:
            # A generator ends with what it raises, and for want of memory a batch is tried again.
            images = samples.read(islice(chain.from_iterable(ranges), taken, None))
            raise
        return stacked(held[:count], samples.names[batch])

    try:
        yield stack
    finally:
        images.close()
