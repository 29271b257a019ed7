"""Which output of a network is looked at, and what it says of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emergence_ext.data import MapStyle, as_samples
from emergence_ext.network import (
    ForwardPass,
    Precision,
    check_finite,
    classify,
    in_batches,
    moved_to,
    preserved,
    read_ahead,
)
from emergence_ext.settings import require_count

Target = int | Sequence[int] | Tensor
"""A column of the output for all inputs, or one for each."""


def target_columns(module: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """Return the column of the output for each input, `[n]`, after a look at what comes out.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: as captum takes it for outputs `[n, C]`.

    Raises:
        ValueError: inputs that are no batch of images, an output that is not logits `[n, C]`, or a
            target that is outside of `0..C-1` or not one for each input.
        TypeError: inputs that are no tensor, or a target that is no integer.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> lookinside.targets.target_columns(net, torch.rand(3, 3, 8, 8), 1)
        tensor([1, 1, 1])
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs: expected a tensor [n, channels, H', W'], got {type(inputs).__name__}"
        )
    if inputs.ndim != 4 or not len(inputs) or not inputs.is_floating_point():
        raise ValueError(
            "inputs: expected floating-point images [n, channels, H', W'] as the network takes "
            f"them, got {str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
        )
    with preserved(module), torch.no_grad():
        z = classify(module, inputs[:1].clone())
    try:
        columns = torch.as_tensor(target, device=inputs.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"target: expected a column of the output, got {target!r:.80}") from None
    if columns.is_floating_point() or columns.dtype == torch.bool:
        raise TypeError(f"target: expected integers, got {columns.dtype}")
    if columns.ndim > 1 or (columns.ndim == 1 and len(columns) not in (1, len(inputs))):
        raise ValueError(
            f"target: expected one integer, or one for each of the {len(inputs)} inputs, got shape "
            f"{list(columns.shape)}"
        )
    columns = columns.long().reshape(-1).expand(len(inputs))
    if not 0 <= int(columns.min()) <= int(columns.max()) < z.shape[1]:
        raise ValueError(
            f"target: the network has outputs 0..{z.shape[1] - 1}, got {int(columns.min())} .. "
            f"{int(columns.max())}"
        )
    return columns


def check_batch(argument: str, size: int) -> None:
    """Refuse a batch of nothing.

    Raises:
        ValueError: `size` below 1, by the name of the argument.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.targets.check_batch("batch_size", 0)
        Traceback (most recent call last):
        ...
        ValueError: batch_size: ...
    """
    require_count(argument, size, 1)


def dataset_logits(
    module: nn.Module,
    dataset: MapStyle,
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    outputs: Sequence[int] | None = None,
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the logits of all images of a data set, `[N, C]`.

    Args:
        module: the network; it comes back as it was.
        dataset: map-style, (image `[channels, H', W']` in 0..1, label).
        preprocess: applied to every batch of images before the network.
        outputs: columns of the network's output that are the categories, in their order.
        batch_size: images at a time; halved with a warning where memory runs out.
        precision: `"bfloat16"` runs the network in autocast.
        device: where to run; by default where the module is.

    Raises:
        ValueError: an output that is not logits, values that are not finite, with their image, or
            images of different sizes.

    Examples:
        >>> from emergence_ext import lookinside
        >>> import emergence_ext as ee
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
        >>> lookinside.targets.dataset_logits(
        ...     net, ee.ImageFolder("photos", size=16, per_class=4)
        ... ).shape
        torch.Size([12, 3])
    """
    samples = as_samples(dataset)
    parts = []
    with (
        preserved(module),
        moved_to(module, device) as place,
        read_ahead(samples) as images,
        torch.no_grad(),
    ):
        run = ForwardPass(module, preprocess, outputs, precision, place)
        for batch, z in in_batches(
            lambda batch: run.logits(images(batch)),
            len(samples),
            batch_size,
            description="logits",
            leave=False,
        ):
            check_finite(z, "the logits", samples.names[batch])
            parts.append(z.cpu())
    return torch.cat(parts)


def nothing_of(layer: str) -> str:
    """Say that a picture of a layer would be empty."""
    return (
        f"layer: the output does not depend on the patches after {layer!r} in any of these inputs, "
        "so there is nothing to see, as in the last block of a network that reads its class token "
        "alone. Choose a layer before it."
    )
