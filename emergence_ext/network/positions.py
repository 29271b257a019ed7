"""Networks that are built for images of one size: which one their weights were trained at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from emergence_ext.network.origin import read_origin
from emergence_ext.network.weight_names import matched, misshapen, own_tensors

__all__ = ["require_size"]

_PREFIXES = (1, 0, 2, 5)  # class token, none, class and distillation token, class and 4 registers


def require_size(
    module: nn.Module, state: Mapping[str, Tensor], weights: Path | str, size: int | None
) -> None:
    """Refuse weights whose positions alone are those of images of another size.

    Args:
        module: the network, built for images of `size` pixels.
        state: weights by name, as `read_weights` gives them.
        weights: their file.
        size: side of the images; None where it is the network's own.

    Raises:
        ValueError: says at which size they were trained, as far as that can be told.
    """
    own, there = own_tensors(module), matched(module, state, str(weights)).tensors
    other = misshapen(own, there)
    positions = [key for key in other if _is_positions(own[key], there[key], key)]
    rest = [key for key in other if key not in positions]
    # A head of other outputs may differ beside them.
    if not positions or any(own[key].shape[1:] != there[key].shape[1:] for key in rest):
        return
    key = positions[0]
    trained = read_origin(weights).size or next(_sizes(own[key], there[key], size), None)
    told = "at another size" if trained is None else f"at {trained} pixels: --size {trained}"
    raise ValueError(
        f"weights: {weights} was trained {told} ({key} is {list(there[key].shape)} there, "
        f"{list(own[key].shape)} in a network for images of "
        f"{'its own size' if size is None else f'{size} pixels'})"
    )


def _is_positions(here: Tensor, there: Tensor, name: str) -> bool:
    """Whether two tensors are named for positions, and differ in how many there are alone."""
    named = any(word in name for word in ("pos", "relative", "attn_mask", "rope"))
    return named and here.ndim == there.ndim


def _sizes(here: Tensor, there: Tensor, size: int | None) -> Iterator[int]:
    """Sizes that tokens `[1, n, E]` were made for: squares of patches behind a few others."""
    if size is None or here.ndim != 3 or here.shape[2] != there.shape[2]:
        return
    for prefix in _PREFIXES:
        now, then = here.shape[1] - prefix, there.shape[1] - prefix
        if now > 0 and then > 0 and math.isqrt(now) ** 2 == now and math.isqrt(then) ** 2 == then:
            patch = size / math.isqrt(now)
            yield round(patch * math.isqrt(then))
