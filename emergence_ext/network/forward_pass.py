"""One batch of images through a network, and what is asked of that which comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from emergence_ext.data import Samples
from emergence_ext.lookup import device_named
from emergence_ext.network.batches import stacked
from emergence_ext.network.calling import classify, fitted
from emergence_ext.network.preprocessing import require_preprocess
from emergence_ext.settings import Precision, require_choice

logger = logging.getLogger(__name__)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes: "bfloat16" only where that is quicker.

    Without bfloat16 products of its own a CPU takes about ten times as long as in float32.

    Examples:
        >>> from emergence_ext import network
        >>> with network.autocast("float32", torch.device("cpu")):
        ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        ...
        torch.float32
    """
    wanted = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and _multiplies(device.type))


@cache
def _multiplies(device: str) -> bool:
    """Whether the hardware multiplies bfloat16; says once where it does not."""
    if device == "cuda":
        known = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not known:
        logger.warning(
            "precision: bfloat16 is slower than float32 on this %s, which has no such products: "
            "the network computes in float32",
            {"cpu": "processor", "cuda": "GPU"}[device],
        )
    return known


@dataclass(frozen=True)
class ForwardPass:
    """How one batch of images `[B, 3, H, W]` goes through the network.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> run = network.ForwardPass(net, None, [4, 0], "float32", torch.device("cpu"))
        >>> run.logits(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 2])
    """

    module: nn.Module
    preprocess: Callable[[Tensor], Tensor] | None
    outputs: Sequence[int] | None
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        require_preprocess(self.preprocess)
        require_choice("precision", self.precision, Precision)

    def images(self, samples: Samples, batch: slice) -> Tensor:
        """Stack the images of a batch, `[B, 3, H, W]`.

        Raises:
            ValueError: images of different sizes.
        """
        images = [samples[index][0] for index in range(*batch.indices(len(samples)))]
        return stacked(images, samples.names[batch])

    def prepared(self, images: Tensor) -> Tensor:
        """Bring images to the device and into the form that the network expects."""
        images = images.to(self.device)
        if self.preprocess is not None:
            images = self.preprocess(images)
        images = fitted(self.module, images)
        # Convolutions on the CPU are quicker where the channels are innermost.
        return images.to(memory_format=torch.channels_last) if images.ndim == 4 else images

    def logits(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` of images that are not yet preprocessed."""
        with autocast(self.precision, self.device):
            result = classify(self.module, self.prepared(images))
        if self.outputs is None:
            return result.float()
        wrong = [column for column in self.outputs if not 0 <= column < result.shape[1]]
        if wrong:
            raise ValueError(
                f"outputs: the network has outputs 0..{result.shape[1] - 1}, not {wrong}"
            )
        return result[:, list(self.outputs)].float()


def flat_features(f: Tensor, head: str) -> Tensor:
    """Give the input of the last linear layer as `[B, E]`, averaged over places and tokens.

    Raises:
        ValueError: another shape.

    Examples:
        >>> from emergence_ext import network
        >>> network.flat_features(torch.rand(2, 8, 4, 4), "head").shape
        torch.Size([2, 8])
    """
    if f.ndim == 4:
        return f.float().mean(dim=(2, 3))
    if f.ndim == 3:
        return f.float().mean(dim=1)
    if f.ndim != 2:
        raise ValueError(
            f"features: the input of {head!r} has shape {list(f.shape)}, expected the sample "
            "feature [B, E]"
        )
    return f.float()


def check_finite(part: Tensor, what: str, names: Sequence[str]) -> None:
    """Refuse values `[B, ...]` that are not finite, and name the image they are of.

    Raises:
        ValueError: a value that is not finite.

    Examples:
        >>> from emergence_ext import network
        >>> logits = torch.tensor([[1.0], [float("nan")]])
        >>> network.check_finite(logits, "logits", ["a.png", "b.png"])
        Traceback (most recent call last):
        ...
        ValueError: ...b.png...
    """
    finite = part.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = names[int(finite.logical_not().nonzero()[0])]
        raise ValueError(
            f"features: NaN or infinite values in {what} for image {bad!r}. Check that image, the "
            "weights and the preprocessing."
        )


def check_batch(part: Tensor, what: str, expected: Sequence[int]) -> None:
    """Refuse what has another shape, before it is copied to images that it is not of.

    Raises:
        ValueError: another shape.
    """
    if list(part.shape) != list(expected):
        raise ValueError(
            f"features: {what} has shape {list(part.shape)} for {expected[0]} images, expected "
            f"{list(expected)}: one row for each image"
        )


@contextmanager
def moved_to(module: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Have the module on a device for the length of the block.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Linear(3, 2)
        >>> with network.moved_to(net, None) as device:  # where it is
        ...     print(device)
        ...
        cpu
    """
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    home = torch.device("cpu") if first is None else first.device
    target = home if device is None else device_named(device)
    if target == home:
        yield target
        return
    try:
        module.to(target)
        yield target
    finally:
        module.to(home)
