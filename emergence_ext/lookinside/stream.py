"""A data set through a network, batch by batch, with what layers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from emergence_ext.data import MapStyle, as_samples
from emergence_ext.network import (
    ForwardPass,
    Precision,
    as_map,
    check_finite,
    forward,
    in_batches,
    moved_to,
    read_ahead,
    recorder,
)


def stream(
    module: nn.Module,
    dataset: MapStyle,
    layers: Iterable[str],
    each: Callable[[int, Mapping[str, Tensor]], None],
    *,
    inputs: Iterable[str] = (),
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> None:
    """Run a network once over a data set and hand the maps of layers on, a batch at a time.

    The module is run in eval mode without gradients and comes back as it was; its output may be
    anything. Only one batch is in memory.

    Args:
        module: the network, images `[B, channels, H', W']` to whatever it gives.
        dataset: map-style, (image `[channels, H', W']` in 0..1, label).
        layers: dotted names.
        each: called with the index of the batch's first image and dotted name -> maps
            `[B, K, H, W]` of a layer, float32, or the first input of a module of `inputs`.
        inputs: dotted names of modules whose input is wanted.
        preprocess: applied to every batch of images before the network.
        batch_size: images at a time; halved with a warning where memory runs out.
        precision: `"bfloat16"` runs the network in autocast.
        device: where to run; by default where the module is.

    Raises:
        ValueError: an unknown layer, one that gives no map, that never runs or runs twice; values
            that are not finite, with their image; images of different sizes.

    Examples:
        >>> from emergence_ext import lookinside
        >>> import emergence_ext as ee
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> lookinside.stream.stream(
        ...     net, images, ["0"], lambda start, record: print(start, record["0"].shape)
        ... )
        0 torch.Size([12, 4, 14, 14])
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    inputs, samples = list(inputs), as_samples(dataset)
    with (
        recorder(module, layers, inputs=inputs, keep=_copied) as record,
        moved_to(module, device) as target,
        read_ahead(samples) as read,
        torch.no_grad(),
    ):
        run = ForwardPass(module, preprocess, None, precision, target)

        def pass_on(batch: slice) -> None:
            images = read(batch)
            with torch.autocast(target.type, torch.bfloat16, enabled=precision == "bfloat16"):
                forward(module, run.prepared(images))

        for batch, _ in in_batches(
            pass_on, len(samples), batch_size, description="images", leave=False
        ):
            parts = {**record.outputs, **record.inputs}
            silent = next((name for name in [*layers, *inputs] if name not in parts), None)
            if silent is not None:
                raise ValueError(f"layer: {silent!r} never runs in the forward pass")
            for name, part in parts.items():
                if part.sum().isfinite():  # quicker than to look at each
                    continue
                check_finite(part, f"layer {name!r}", samples.names[batch])
            each(batch.start, parts)


def layer_maps(module: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Return what a layer makes of images, `[B, K, H, W]`; see `maps_of_layers`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> lookinside.stream.layer_maps(net, torch.rand(2, 3, 8, 8), "1").shape
        torch.Size([2, 4, 6, 6])
    """
    return maps_of_layers(module, images, [layer])[layer]


def maps_of_layers(module: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return what layers make of images, `[B, K, H, W]` each, float32, without gradients.

    Args:
        module: the network; comes back as it was.
        images: `[B, channels, H', W']`, as the network takes them.
        layers: dotted names of layers that give maps or tokens.

    Raises:
        ValueError: an unknown layer, one that gives no map, that never runs or runs twice.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> list(lookinside.stream.maps_of_layers(net, torch.rand(2, 3, 8, 8), ["0", "1"]))
        ['0', '1']
    """
    with torch.no_grad(), recorder(module, layers, keep=_copied) as record:
        forward(module, images)
    silent = next((name for name in layers if name not in record.outputs), None)
    if silent is not None:
        raise ValueError(f"layer: {silent!r} never runs in the forward pass")
    return {name: record.outputs[name] for name in layers}


def _copied(output: Tensor) -> Tensor:
    return as_map(output).float().clone()
