"""What of a network is trained when the rest is frozen, and what goes into it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from emergence_ext.data import MAX_MEMORY, Samples

__all__ = [
    "CachedInputs",
    "ImageInputs",
    "Inputs",
    "find_head",
    "frozen_names",
    "remember_inputs",
    "set_training",
]


class Inputs(Protocol):
    """Batches of what a module takes, and their labels `[N]`."""

    labels: Tensor

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the inputs at `indices` `[B]`; with a generator, augmented where they can be."""


class ImageInputs:
    """Images of a data set, preprocessed when they are asked for."""

    def __init__(self, samples: Samples, preprocess: nn.Module, device: torch.device) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.device = device
        self.labels = torch.tensor(samples.labels, device=device)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return preprocessed images `[B, channels, H, W]`."""
        images = torch.stack([self.samples[index][0] for index in indices.tolist()])
        if generator is not None:
            images = augment(images, generator)
        return self.preprocess(images.to(self.device))


class CachedInputs:
    """Inputs of a submodule, computed once."""

    def __init__(self, values: Tensor, labels: Tensor) -> None:
        self.values = values
        self.labels = labels

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the stored inputs `[B, ...]`; they cannot be augmented any more."""
        return self.values[indices]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, enlarge (up to 1.5 times) and shift images `[B, channels, H, W]` at random."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    share = uniform(0.5, 1.0).sqrt()
    aspect = uniform(-0.15, 0.15).exp()
    width, height = (share * aspect).clamp(max=1.0), (share / aspect).clamp(max=1.0)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = mirror * width
    transform[:, 1, 1] = height
    transform[:, 0, 2] = uniform(-1, 1) * (1 - width)
    transform[:, 1, 2] = uniform(-1, 1) * (1 - height)
    grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def frozen_names(module: nn.Module, pattern: str | None) -> set[str]:
    """Name the parameters that `pattern` finds, and those that need no gradient already.

    Raises:
        ValueError: no regular expression, or one that finds no parameter or leaves none.
    """
    names = [name for name, _ in module.named_parameters()]
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    if pattern is not None:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"freeze: {pattern!r} is no regular expression ({error})") from error
        if not found:
            raise ValueError(
                f"freeze: {pattern!r} is in no parameter's name: {', '.join(names[:6])}, ..."
            )
        frozen |= found
    if len(frozen) == len(names):
        raise ValueError(f"freeze: {pattern!r} leaves no parameter to train")
    return frozen


def find_head(module: nn.Module, frozen: set[str], example: Tensor) -> str:
    """Name the smallest submodule around all that is trained whose output is the network's.

    Args:
        module: in eval mode.
        frozen: names of the parameters that are not trained.
        example: one input of the network, `[1, ...]`.

    Returns:
        A dotted name; empty for the network itself.
    """
    if not frozen:
        return ""
    owners = [name.split(".")[:-1] for name, _ in module.named_parameters() if name not in frozen]
    common = owners[0]
    for owner in owners[1:]:
        same = [left == right for left, right in zip(common, owner, strict=False)]
        common = common[: same.index(False) if False in same else len(same)]
    # A container that only holds modules (ModuleList) never runs: its parent may.
    for depth in range(len(common), 0, -1):
        name = ".".join(common[:depth])
        calls: list[tuple[bool, object]] = []
        with _inputs_of(module.get_submodule(name), calls), torch.no_grad():
            output = module(example)
        if len(calls) == 1 and calls[0][0] and calls[0][1] is output:
            return name
    return ""


def remember_inputs(
    module: nn.Module, head: str, inputs: Inputs, batch_size: int, autocast: torch.autocast
) -> Inputs:
    """Compute what enters the submodule `head` once; return `inputs` if it is too much to keep."""
    kept: list[Tensor] = []

    class _ReachedError(Exception):
        pass

    def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        kept.append(arguments[0].detach().clone())
        raise _ReachedError

    places = torch.arange(len(inputs.labels)).split(batch_size)
    handle = module.get_submodule(head).register_forward_pre_hook(stop)
    try:
        with torch.no_grad(), autocast:
            for indices in tqdm(places, desc="frozen layers", leave=False, disable=None):
                with suppress(_ReachedError):
                    module(inputs.batch(indices))
                if kept[0][0].nbytes * len(inputs.labels) > MAX_MEMORY:
                    return inputs
    finally:
        handle.remove()
    return CachedInputs(torch.cat(kept), inputs.labels)


def set_training(module: nn.Module, head: str) -> None:
    """Put the submodule `head` into training mode, except for what is frozen."""
    module.eval()
    for submodule in module.get_submodule(head).modules():
        own = list(submodule.parameters(recurse=False))
        submodule.training = not own or any(parameter.requires_grad for parameter in own)


@contextmanager
def _inputs_of(submodule: nn.Module, calls: list[tuple[bool, object]]) -> Iterator[None]:
    """Record (took one tensor and nothing else, output) of every call."""

    def record(
        _: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object], output: object
    ) -> None:
        calls.append(
            (not keywords and len(arguments) == 1 and isinstance(arguments[0], Tensor), output)
        )

    handle = submodule.register_forward_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
