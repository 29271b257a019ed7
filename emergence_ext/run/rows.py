"""What there is of every image, in shards: g, z and the h of each layer, a row an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emergence_ext.store import ShardStore

Images = Tensor | slice | None
"""Some of the images of a run: by index or mask `[N]`, or from one to another; None: all."""


@dataclass(frozen=True)
class Rows:
    """What there is of all images in one state of the network: in memory or in shards.

    Attributes:
        g: projected sample features, `[N, dim]`.
        z: logits, `[N, C]`.
        h: projected regional features, `[L, N, R, dim]`.
        store: the same on disk, as arrays `g`, `z` and `h_of` each layer; h in half precision.
    """

    g: Tensor | None = None
    z: Tensor | None = None
    h: Tensor | None = None
    store: ShardStore | None = None


def h_of(layer: str) -> str:
    """How the array of a layer's projected regions is called among the rows."""
    return f"h/{layer}"


def read_rows(store: ShardStore, name: str, images: Images) -> Tensor:
    """Read an array of some images in float32, `[n, ...]`."""
    if images is None:
        images = slice(None)
    if isinstance(images, slice):
        start, stop, step = images.indices(len(store))
        if step == 1:
            return store.slice(name, start, max(start, stop)).float()
        images = torch.arange(start, stop, step)
    return store.rows(
        name, images.nonzero().flatten() if images.dtype == torch.bool else images
    ).float()
