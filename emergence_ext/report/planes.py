"""Numbers as the page's view takes them: few bits each, by planes of bytes, deflated, base64."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BITS = 11
"""Of a coordinate, the sign among them: an error of 1 / 2,046 of the frame's largest."""


def quantised(x: Tensor) -> tuple[float, Tensor]:
    """Return the scale of coordinates, and each as an integer below `2 ** BITS`.

    Args:
        x: of any shape; what is not finite counts as 0.

    Returns:
        scale, q: `x` is about `scale * (q - middle) / (middle - 1)`, `middle = 2 ** (BITS - 1)`.
    """
    x = torch.nan_to_num(x.float(), nan=0.0, posinf=0.0, neginf=0.0)
    middle = 2 ** (BITS - 1)
    scale = float(x.abs().max()) if x.numel() else 0.0
    unit = x / scale if scale > 0 else x
    return scale, (unit * (middle - 1)).round().int() + middle


def planes(numbers: Tensor, count: int) -> list[Tensor]:
    """Split integers into `count` planes of bytes, the lowest first: what varies little packs well.

    Args:
        numbers: `[n]`, not negative and below `256 ** count`.
        count: planes.
    """
    return [(numbers >> (8 * k) & 255).to(torch.uint8) for k in range(count)]


def packed(parts: Sequence[Tensor]) -> str:
    """Return planes of bytes, one after the other, as the browser's own inflation reads them."""
    data = np.concatenate([part.numpy() for part in parts]) if parts else np.zeros(0, np.uint8)
    return b64encode(zlib.compress(data.tobytes(), 9)).decode("ascii")
