"""Call a user's network: images as it takes them, what it raises with its place, logits out.

Nothing in the package calls a network in another way (`module(images)`), so that a network of half
precision, of one channel, or one that gives a dict of tensors is one everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor, nn

from emergence_ext.lookup import UserCodeError, user_code

logger = logging.getLogger(__name__)

LUMA: Final = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601, as Pillow's mode L."""

_SIZES: Final = (224, 256, 384, 299, 128, 96, 64, 48, 32, 28)
_unseen: ContextVar[bool] = ContextVar("unseen", default=False)


def forward(module: nn.Module, images: Tensor) -> Any:
    """Run a network on images, or a part of it on what it takes, and return whatever it gives.

    Args:
        module: the network.
        images: `[B, channels, H, W]`, preprocessed; see `fitted`. Gradients flow through.

    Raises:
        UserCodeError: the network raised something; the text says what and where, and what it
            raised is the cause. Errors of observers, and those for want of memory, come as they
            are.
        ValueError: as `fitted`.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> network.forward(net, torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 5])
    """
    given = fitted(module, images)
    with user_code("model"):
        return module(given)


def classify(module: nn.Module, images: Tensor) -> Tensor:
    """Return the logits `[B, C]` of images, in the network's own dtype; see `forward`, `logits`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = ee.load_model("small_vgg28", num_classes=10).module
        >>> network.classify(net, torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return logits(forward(module, images), len(images))


def first_logits(module: nn.Module, images: Tensor) -> Tensor:
    """Return `classify` of a first look at a network, in eval mode, without gradients.

    Raises:
        UserCodeError: as `forward`; where the network takes images of another size, it is named.
        ValueError: a quantised network, or as `classify`.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> network.first_logits(net, torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 5])
    """
    quantised = next((n for n, part in module.named_modules() if _is_quantised(part)), None)
    if quantised is not None:
        raise ValueError(
            f"model: {quantised!r} is quantised, and its numbers are not those that a network "
            "computes with. Give the network as it was before it was quantised."
        )
    with preserved(module), torch.no_grad():
        try:
            return classify(module, images)
        except UserCodeError as error:
            side = _side_that_works(module, images)
            if side is None:
                raise
            advice = f"It takes images of {side} x {side} pixels (`size` {side})."
            raise UserCodeError(error.text, advice) from error.__cause__


def fitted(module: nn.Module, images: Tensor) -> Tensor:
    """Give images the dtype and the channels that a network takes.

    The dtype is that of its first floating parameter. Where its first convolution takes one
    channel, images of three become grey; where it takes three, those of one are repeated.

    Args:
        module: the network.
        images: `[B, channels, H, W]`; anything else only gets the dtype.

    Raises:
        ValueError: no tensor, or the first convolution takes another number of channels.
    """
    require_module(module)
    if not isinstance(images, Tensor):
        raise ValueError(
            "preprocess: expected a tensor [B, channels, H, W] for the network, got "
            f"{type(images).__name__}"
        )
    if images.is_floating_point():
        parameter = next((p for p in module.parameters() if p.is_floating_point()), images)
        images = images.to(parameter.dtype)
    if images.ndim != 4:
        return images
    name, takes = _first_convolution(module, images)
    channels = images.shape[1]
    if takes == channels:
        return images
    if (takes, channels) == (1, 3):
        return torch.einsum("nchw,c->nhw", images, images.new_tensor(LUMA))[:, None]
    if (takes, channels) == (3, 1):
        return images.expand(-1, 3, -1, -1)
    raise ValueError(
        f"model: its first convolution {name!r} takes {takes} channels, and the images have "
        f"{channels}. Make the channels of RGB images by `preprocess`, a module:callable of "
        "[B, 3, H, W]."
    )


def input_channels(module: nn.Module) -> int:
    """Return how many channels a network's images have, by its first convolution; else three.

    Examples:
        >>> from emergence_ext import network
        >>> network.input_channels(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3)))
        1
    """
    return next((p.in_channels for p in module.modules() if isinstance(p, nn.Conv2d)), 3) or 3


def logits(output: Any, count: int | None = None) -> Tensor:
    """Return the logits in what a network gives, `[B, C]`.

    Args:
        output: a tensor `[B, C]` or `[B, C, 1, 1]`; or a tuple, list, dict or dataclass with such
            tensors (the `ModelOutput` of Hugging Face): the one that is called `logits`, or else
            the first. Where there are several, which one is taken is logged once.
        count: B, where it is known.

    Raises:
        ValueError: there is no such tensor.

    Examples:
        >>> from emergence_ext import network
        >>> network.logits({"maps": torch.zeros(1, 3, 4, 4), "logits": torch.tensor([[0.5, 1.5]])})
        tensor([[0.5000, 1.5000]])
    """
    found = {
        name: flat for name, x in _entries(output) if (flat := _as_logits(x, count)) is not None
    }
    if not found:
        expected = "[n, C]" if count is None else f"[{count}, C]"
        raise ValueError(
            f"module: expected logits {expected} as its output, a row for each image, got "
            f"{_described(output)}. Wrap the network in a module that returns the logits alone."
        )
    taken = next((name for name in found if name.split(".")[-1] == "logits"), next(iter(found)))
    if len(found) > 1:
        _say_which(type(output).__name__, taken, tuple(found))
    return found[taken]


def select_output(module: nn.Module, name: str) -> None:
    """Have a network of one's own give one of its outputs alone, for good.

    Args:
        module: changed in place, by a forward hook.
        name: key, field or index of the output; with dots between where they are nested.

    Examples:
        >>> from emergence_ext import network
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         return {"logits": x.flatten(1), "features": x}
        ...
        >>> net = Net()
        >>> network.select_output(net, "logits")
        >>> net(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """
    module.register_forward_hook(functools.partial(_selected, name))


def _selected(name: str, _module: nn.Module, _inputs: Any, output: Any) -> Any:
    for part in name.split("."):
        output = _entry(output, part, name)
    return output


def require_module(module: Any, argument: str = "module") -> None:
    """Refuse what is no network.

    Raises:
        TypeError: no module, but its class, for example.

    Examples:
        >>> from emergence_ext import network
        >>> network.require_module(torch.nn.Linear)
        Traceback (most recent call last):
        ...
        TypeError: module: Linear is a class; give a network of it, as Linear()
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        name = module.__name__
        raise TypeError(f"{argument}: {name} is a class; give a network of it, as {name}()")
    if not isinstance(module, nn.Module):
        raise TypeError(f"{argument}: expected a torch.nn.Module, got {type(module).__name__}")


def require_numbers(module: Any, argument: str = "module") -> None:
    """Refuse what cannot be run: no network, or one without weights.

    Raises:
        TypeError: no module, but its class, for example.
        ValueError: its weights are on the meta device.
    """
    require_module(module, argument)
    if any(x.is_meta for x in (*module.parameters(), *module.buffers())):
        raise ValueError(
            f"{argument}: its weights are on the meta device, which holds no numbers; build the "
            "network on the CPU, or load its weights"
        )


@contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Put the module into eval mode and give back training modes and random state on leaving.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Dropout()
        >>> with network.preserved(net):
        ...     net.training
        False
        >>> net.training
        True
    """
    require_numbers(module)
    modes = [(part, part.training) for part in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices, key=str)):
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


def observing() -> bool:
    """Say whether a network that runs now is to be observed: a trial run is nobody's business."""
    return not _unseen.get()


class _ReachedError(Exception):
    """Ends a forward pass at the first convolution."""


def _first_convolution(module: nn.Module, images: Tensor) -> tuple[str, int]:
    """Name the convolution that takes the images, and how many channels it wants."""
    channels = images.shape[1]
    parts = {name: p for name, p in module.named_modules() if isinstance(p, nn.Conv2d)}
    first = next(iter(parts.items()), None)
    if first is None or first[1].in_channels == channels:
        return "", channels
    # The first that is listed need not be the first that runs, and a network may change channels.
    met: list[tuple[str, int]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(part: Any, inputs: tuple[Any, ...]) -> None:
            came = inputs[0].shape[1] if inputs and isinstance(inputs[0], Tensor) else None
            met.append((name, channels if came == part.in_channels else part.in_channels))
            raise _ReachedError

        return hook

    handles = [part.register_forward_pre_hook(note(name)) for name, part in parts.items()]
    try:
        with _trial(module):
            module(images[:1])
    except Exception:  # if it is not the end that was made above, the network will say it again
        logger.debug("the first convolution was looked for", exc_info=True)
    finally:
        for handle in handles:
            handle.remove()
    return met[0] if met else ("", channels)


def _side_that_works(module: nn.Module, images: Tensor) -> int | None:
    """The side of images that a network takes, where it did not take these."""
    if images.ndim != 4:
        return None
    for side in _SIZES:
        if (side, side) == tuple(images.shape[2:]):
            continue
        try:
            with _trial(module):
                classify(module, images.new_zeros(1, images.shape[1], side, side))
        except Exception as error:
            logger.debug("%d pixels do not do either: %s", side, error)
        else:
            return side
    return None


@contextmanager
def _trial(module: nn.Module) -> Iterator[None]:
    """Run the network for a test, in the block: nobody observes it and it comes back as it was."""
    token = _unseen.set(True)
    try:
        with preserved(module), torch.no_grad():
            yield
    finally:
        _unseen.reset(token)


def _is_quantised(part: nn.Module) -> bool:
    return ".quantized" in type(part).__module__ or any(
        x.is_quantized for x in part.buffers(recurse=False)
    )


def tensors(output: Any) -> list[Tensor]:
    """Return the tensors in what a network gives, of any nesting."""
    return [x for _, x in _entries(output) if isinstance(x, Tensor)]


def _entries(output: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is in an output, with names, in its order."""
    pairs: Iterator[tuple[Any, Any]] | None = None
    if isinstance(output, Mapping):
        pairs = iter(output.items())
    elif isinstance(output, tuple | list):
        pairs = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    elif dataclasses.is_dataclass(output):
        pairs = ((f.name, getattr(output, f.name)) for f in dataclasses.fields(output))
    if pairs is None:
        yield name, output
        return
    for key, value in pairs:
        yield from _entries(value, f"{name}.{key}" if name else str(key))


def _entry(output: Any, part: str, name: str) -> Any:
    names: list[Any] = []
    if isinstance(output, Mapping):
        names = list(output)
    elif isinstance(output, tuple | list):
        if part.isdigit() and int(part) < len(output):
            return output[int(part)]
        names = list(getattr(output, "_fields", range(len(output))))
    elif dataclasses.is_dataclass(output):
        names = [field.name for field in dataclasses.fields(output)]
    key = next((key for key in names if str(key) == part), None)
    if key is None:
        there = f"it has {', '.join(map(str, names))}" if names else f"it is {_described(output)}"
        raise ValueError(f"output: no {name!r} in what the network gives; {there}")
    return output[key] if isinstance(output, Mapping) else getattr(output, key)


def _as_logits(x: Any, count: int | None) -> Tensor | None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if x.ndim == 4 and x.shape[2:] == (1, 1):
        x = x.flatten(1)
    return x if x.ndim == 2 and count in (None, len(x)) else None


def _described(output: Any) -> str:
    return f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__


@functools.cache
def _say_which(kind: str, taken: str, names: tuple[str, ...]) -> None:
    logger.warning(
        "the network gives a %s with several tensors [B, C] (%s): %r is taken, the others are not "
        "used; another is chosen by its name, as output",
        kind, ", ".join(names), taken,
    )  # fmt: skip
