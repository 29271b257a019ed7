"""What a network makes of images in 0..1, as objectives read it: layers and output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence_ext.lookup import UserCodeError
from emergence_ext.network import (
    Call,
    as_map,
    find_layers,
    forward,
    logits,
    observed,
    recorder,
    require_preprocess,
)
from emergence_ext.render.image import check_images
from emergence_ext.settings import require_count


@dataclass(frozen=True, eq=False)
class Seen:
    """Images and what a network makes of them.

    Attributes:
        images: in 0..1, `[n, channels, H', W']`.
        layers: dotted name -> maps, `[n, K, H, W]`.
        output: logits, `[n, C]`; None where nobody asked for them.
        progress: `(t - 1) / (T - 1)` of the iteration, 0 to 1.

    Examples:
        >>> from emergence_ext import render
        >>> seen = render.Seen(torch.zeros(1, 3, 8, 8), {"conv1": torch.ones(1, 4, 6, 6)})
        >>> render.l1("conv1").compute(seen)
        tensor([4.])
    """

    images: Tensor
    layers: Mapping[str, Tensor]
    output: Tensor | None = None
    progress: float = 0.0


See = Callable[..., Seen]
"""Images `[n, channels, H', W']` in 0..1, and a progress, to what is `Seen` of them."""


class _Enough(Exception):
    """Ends a forward pass when every layer that is read has run."""


@contextmanager
def seeing(
    module: nn.Module,
    layers: Iterable[str],
    *,
    output: bool = False,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[See]:
    """Look at images through a network, in eval mode, for the length of the block.

    What lies above the highest layer is not computed unless the output is read, but for one image
    at the first look: a layer may run again further up. Gradients flow from everything `Seen` to
    the images. Afterwards the module is as it was: modes, hooks, gradients, global random state.

    Args:
        module: the network.
        layers: dotted names of layers that give maps `[n, K, H, W]` or tokens `[n, T, K]`.
        output: whether the network's output is read.
        preprocess: from images in 0..1 to the network's input; None for images as they are.

    Raises:
        ValueError: an unknown layer; when looking, a layer that does not run, that runs twice or
            whose output is no map, an output that is no tensor `[n, C]`, or images on another
            device than the network.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> with render.seeing(net, ["1"]) as see:
        ...     print(see(torch.rand(2, 3, 8, 8)).layers["1"].shape)
        ...
        torch.Size([2, 4, 6, 6])
    """
    require_preprocess(preprocess)
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    looking, whole = False, output or not names

    def end(_call: Call) -> None:
        # Somebody else may look through the same network meanwhile.
        if looking and len(record.outputs) == len(names):
            raise _Enough

    # Observed after the recorder's own, so that the layer's output is recorded.
    ending = {} if output else find_layers(module, names)
    with recorder(module, names, keep=_recorded) as record, observed(ending, after=end):

        def run_whole(inputs: Tensor) -> None:
            """Have the recorder refuse a layer that would run again after the pass has ended."""
            try:
                with torch.no_grad():
                    forward(module, inputs.clone())
            except (RuntimeError, UserCodeError):
                # A head may want images of another size; it is not needed once all layers ran.
                if len(record.outputs) < len(names):
                    raise

        def see(images: Tensor, progress: float = 0.0) -> Seen:
            nonlocal looking, whole
            _check_device(module, images)
            inputs = images if preprocess is None else preprocess(images)
            if not whole:
                run_whole(inputs[:1])
                whole = True
            z, looking = None, True
            try:
                with suppress(_Enough):
                    z = forward(module, inputs)
            finally:
                looking = False
            missing = [name for name in names if name not in record.outputs]
            if missing:
                raise ValueError(f"layer: {missing[0]!r} never runs in the forward pass")
            maps = {name: record.outputs[name] for name in names}
            return Seen(images, maps, _as_float(logits(z)) if output else None, progress)

        yield see


def maps_of(
    module: nn.Module,
    layers: Iterable[str],
    images: Tensor,
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    keep: Callable[[Tensor], Tensor] = lambda maps: maps,
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Compute the maps of layers for images in 0..1, batch by batch, without gradients.

    Args:
        module, layers, preprocess: see `seeing`.
        images: `[n, channels, H', W']`.
        keep: what to keep of maps `[b, K, H, W]`.
        batch_size: images at a time.

    Raises:
        ValueError: what is no batch of images, or whatever `seeing` refuses.

    Returns:
        Dotted name -> what was kept, `[n, ...]`.

    Examples:
        >>> from emergence_ext import render
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> render.maps_of(net, ["0", "1"], torch.rand(5, 3, 8, 8))["1"].shape
        torch.Size([5, 4, 6, 6])
    """
    require_count("batch_size", batch_size, 1)
    check_images("images", images)
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad(), seeing(module, names, preprocess=preprocess) as see:
        for batch in images.split(batch_size):
            for name, maps in see(batch).layers.items():
                parts[name].append(keep(maps))
    return {name: torch.cat(kept) for name, kept in parts.items()}


def _recorded(y: Tensor) -> Tensor:
    """A copy of a layer's output as maps; what has few digits is summed up with more."""
    return _as_float(as_map(y).clone())


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


def _check_device(module: nn.Module, images: Tensor) -> None:
    weight = next(module.parameters(), None)
    if weight is not None and weight.device != images.device:
        raise ValueError(
            f"start: the image is on {images.device}, the network on {weight.device}; move one of "
            "them"
        )
