"""What of a network is trained when the rest is frozen, and what goes into it."""

import re
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from emergence_ext.data import MAX_MEMORY, Samples
from emergence_ext.network import Call, forward, observed

__all__ = [
    "CachedInputs",
    "ImageInputs",
    "Inputs",
    "frozen_names",
    "remember_inputs",
    "set_training",
    "trained_part",
]


class Inputs(Protocol):
    """Batches of what a module takes, and their labels `[N]`."""

    labels: Tensor

    def batches(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Generator[Tensor, None, None]:
        """Yield inputs at each batch's indices; with a generator, augmented where possible."""


class ImageInputs:
    """Images of a data set, preprocessed when they are asked for."""

    def __init__(self, samples: Samples, preprocess: nn.Module, device: torch.device) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.device = device
        self.labels = torch.tensor(samples.labels, device=device)

    def batches(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Generator[Tensor, None, None]:
        """Yield preprocessed images `[B, channels, H, W]`; the next ones are read meanwhile."""
        with closing(self.samples.read(torch.cat(list(batches)).tolist())) as images:
            for indices in batches:
                stack = torch.stack(list(islice(images, len(indices))))
                if generator is not None:
                    stack = augment(stack, generator)
                yield self.preprocess(stack.to(self.device))


class CachedInputs:
    """Inputs of a submodule, computed once."""

    def __init__(self, values: Tensor, labels: Tensor) -> None:
        self.values = values
        self.labels = labels

    def batches(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Generator[Tensor, None, None]:
        """Yield stored inputs `[B, ...]`; they cannot be augmented any more."""
        for indices in batches:
            yield self.values[indices]


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
        ValueError: no regular expression, or one that finds no parameter or leaves none; or layers
            that have no parameters before their first images.
    """
    lazy = next((n for n, p in module.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise ValueError(
            f"model: {lazy!r} has no values before the network's first images. Run it once on some "
            "where it is built"
        )
    names = [name for name, _ in module.named_parameters()]
    # A tied parameter has several names, any of which may be meant; it is trained by its first.
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    every = [(n, first[id(p)]) for n, p in module.named_parameters(remove_duplicate=False)]
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    if pattern is not None:
        try:
            matching = {own for name, own in every if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"freeze: {pattern!r} is no regular expression ({error})") from error
        if not matching:
            raise ValueError(
                f"freeze: {pattern!r} is in no parameter's name: {', '.join(names[:6])}, ..."
            )
        frozen |= matching
    if len(frozen) == len(names):
        if pattern is None:
            raise ValueError(
                "model: it has no parameter to train, as requires_grad is False for all of them"
            )
        raise ValueError(f"freeze: {pattern!r} leaves no parameter to train")
    return frozen


def trained_part(module: nn.Module, frozen: set[str], example: Tensor) -> str:
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
    chain = {}
    for depth in range(1, len(common) + 1):
        name = ".".join(common[:depth])
        chain[name] = module.get_submodule(name)
    calls: dict[str, list[Call]] = {name: [] for name in chain}
    with observed(chain, after=lambda call: calls[call.name].append(call)), torch.no_grad():
        output = forward(module, example)
    # A container that only holds modules (ModuleList) never runs: its parent may.
    for name in reversed(chain):
        if len(calls[name]) == 1 and _gives(calls[name][0], output):
            return name
    return ""


def _gives(call: Call, output: object) -> bool:
    """Whether a call took one tensor and nothing else, and returned this very object."""
    one = not call.keywords and len(call.inputs) == 1 and isinstance(call.inputs[0], Tensor)
    return one and call.output is output


def remember_inputs(
    module: nn.Module, part: str, inputs: Inputs, batch_size: int, autocast: torch.autocast
) -> Inputs:
    """Compute what enters the submodule `part` once; return `inputs` if it is too much to keep."""
    kept: list[Tensor] = []

    class _ReachedError(Exception):
        pass

    def stop(call: Call) -> None:
        kept.append(call.inputs[0].detach().clone())
        raise _ReachedError

    batches = torch.arange(len(inputs.labels)).split(batch_size)
    with observed({part: module.get_submodule(part)}, before=stop), torch.no_grad(), autocast:
        for given in tqdm(
            inputs.batches(batches), total=len(batches), desc="frozen layers", leave=False,
            disable=None,
        ):  # fmt: skip
            with suppress(_ReachedError):
                forward(module, given)
            if kept[0][0].nbytes * len(inputs.labels) > MAX_MEMORY:
                return inputs
    return CachedInputs(torch.cat(kept), inputs.labels)


def set_training(module: nn.Module, part: str) -> None:
    """Put the submodule `part` into training mode, except for what is frozen."""
    module.eval()
    for submodule in module.get_submodule(part).modules():
        own = list(submodule.parameters(recurse=False))
        submodule.training = not own or any(parameter.requires_grad for parameter in own)
