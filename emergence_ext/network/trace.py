"""What runs in a forward pass of a network, call by call, by hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emergence_ext.network.calling import forward, observing, preserved, require_module


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        name: dotted name of the module, empty for the network itself.
        module: the module.
        inputs: its positional arguments.
        keywords: its keyword arguments.
        output: what it returned; None before it did.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> def tell(call):
        ...     print(repr(call.name), call.output.shape)
        ...
        >>> _ = network.trace(net, torch.rand(2, 3, 4, 4), after=tell)
        '0' torch.Size([2, 48])
        '1' torch.Size([2, 5])
        '' torch.Size([2, 5])
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any


Observer = Callable[[Call], object]


def trace(
    module: nn.Module,
    inputs: Tensor,
    *,
    before: Observer | None = None,
    after: Observer | None = None,
) -> Any:
    """Run a network once, without gradients, and return its output; it comes back as it was.

    Args:
        module: the network; every submodule of it is observed, and it itself.
        inputs: a batch as the network takes it.
        before: called as a module begins to run, in the order in which they begin.
        after: called as a module has run, in the order in which they end.

    Raises:
        ValueError: what `check_open` says.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> network.trace(net, images, before=lambda call: print(repr(call.name))).shape
        ''
        '0'
        '1'
        torch.Size([2, 5])
    """
    require_module(module)
    check_open(*module.modules())
    parts = dict(module.named_modules())
    with preserved(module), torch.no_grad(), observed(parts, before=before, after=after):
        return forward(module, inputs)


@contextmanager
def observed(
    parts: Mapping[str, nn.Module],
    *,
    before: Observer | None = None,
    after: Observer | None = None,
) -> Iterator[None]:
    """Tell observers of every call of some modules, for the length of the block.

    Args:
        parts: name -> module.
        before: called as one of them begins to run; `output` is None.
        after: called as one of them has run.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> with network.observed({"head": net[1]}, after=lambda call: print(call.name)):
        ...     _ = net(torch.rand(2, 3, 4, 4))
        ...
        head
    """

    def hook(name: str, tell: Observer) -> Callable[..., None]:
        # What is called before a module runs is given no output.
        def tell_call(part: nn.Module, inputs: Any, keywords: Any, output: Any = None) -> None:
            if observing():
                tell(Call(name, part, inputs, keywords, output))

        return tell_call

    with ExitStack() as undo:
        for name, part in parts.items():
            if before is not None:
                handle = part.register_forward_pre_hook(hook(name, before), with_kwargs=True)
                undo.callback(handle.remove)
            if after is not None:
                handle = part.register_forward_hook(hook(name, after), with_kwargs=True)
                undo.callback(handle.remove)
        yield


def check_open(*parts: nn.Module) -> None:
    """Refuse what cannot be looked into: modules that take no hooks.

    Raises:
        ValueError: one is compiled to TorchScript.

    Examples:
        >>> from emergence_ext import network
        >>> network.check_open(torch.nn.Linear(3, 2))  # raises where it takes no hooks
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise ValueError(
            "module: it is compiled to TorchScript, or a part of it is, and takes no hooks. Give "
            "the network as it is in Python; else, with layers named, only what goes by its output "
            "works."
        )
