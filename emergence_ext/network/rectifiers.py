"""Which ReLUs a network runs: as modules, which hooks can see, and as functions, which none can.

A ReLU is a call that is zero below zero and the identity above, up to a ceiling if it has one,
whatever its arguments: `relu`, `clamp(x, 0)`, `maximum(x, 0)`. One that is put together from other
operations, as `x * (x > 0)` or `where(x > 0, x, 0)`, is none here, nor is `leaky_relu(x, 0)`. Both
go through the same few functions of torch, so a `TorchFunctionMode` meets all of them, in the
order of the calls, whether a module is shared, works in place, or is not there at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emergence_ext.network.trace import Call, trace

RELU_MODULES: Final = (nn.ReLU, nn.ReLU6, nn.Threshold)

# Names of functions and tensor methods -> names of what they take after the tensor. Some have
# another name that begins with an underscore; those that end in one work in place.
_ALWAYS: Final = frozenset({"relu", "relu6"})
_BOUNDED: Final[Mapping[str, tuple[str, ...]]] = {
    "threshold": ("threshold", "value"),
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min",),
}
_LARGER: Final = frozenset({"max", "maximum"})


class RectifierMode(TorchFunctionMode):
    """Counts module calls, and tells ReLUs that are modules from those that are not.

    Attributes:
        runs: dotted name of a module -> how often it ran.
        shapes: its name -> the shape of its latest output, None where that is no tensor.
        functional: (module, function) -> how often a ReLU ran there that is no module.
        rectified: how often any ReLU ran.
        before_relu: modules whose output has negative values and goes straight into a ReLU.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> mode = network.RectifierMode(net)
        >>> mode.run(torch.rand(1, 3, 8, 8))
        >>> mode.rectified, dict(mode.functional), mode.before_relu
        (1, {}, {'0'})
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.runs: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.functional: dict[tuple[str, str], int] = {}
        self.rectified = 0
        self.before_relu: set[str] = set()
        self._negative: dict[int, tuple[Tensor, list[str]]] = {}
        self._running: list[tuple[str, nn.Module]] = []

    def run(self, example: Tensor) -> None:
        """Run the network once on images `[B, channels, H', W']`; it comes back as it was.

        Raises:
            ValueError: what `check_open` says of a part of it.
        """
        with self:
            trace(self.module, example, before=self._enter, after=self._leave)
        self._negative.clear()

    def _enter(self, call: Call) -> None:
        self._running.append((call.name, call.module))

    def _leave(self, call: Call) -> None:
        self._running.pop()
        self.runs[call.name] = self.runs.get(call.name, 0) + 1
        output = call.output
        is_tensor = isinstance(output, Tensor)
        self.shapes[call.name] = tuple(output.shape) if is_tensor else None
        if is_tensor and output.is_floating_point() and output.numel() and output.min() < 0:
            # Kept so that its id stays its own; a container gives the tensor of its last part.
            self._negative.setdefault(id(output), (output, []))[1].append(call.name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        function = getattr(func, "__name__", "")
        if rectifies(function, args, kwargs):
            self.rectified += 1
            x = _operand(function, args, kwargs)
            if id(x) in self._negative:
                self.before_relu.update(self._negative[id(x)][1])
            owner, part = self._running[-1] if self._running else ("", self.module)
            if not isinstance(part, RELU_MODULES):
                place = (owner, function)
                self.functional[place] = self.functional.get(place, 0) + 1
        return func(*args, **kwargs)


class AsModules(TorchFunctionMode):
    """Sends every ReLU of the block through a module of its own, in the order of the calls.

    What is cut off above, as by ReLU6, keeps its own gradient; the module is the part below zero.

    Args:
        relus: one module a call.

    Examples:
        >>> from emergence_ext import network
        >>> relu = torch.nn.ReLU()
        >>> with network.observed({"relu": relu}, after=lambda call: print(call.name)):
        ...     with network.AsModules([relu]):
        ...         _ = torch.nn.functional.relu(torch.tensor([-1.0, 2.0]))
        ...
        relu
    """

    def __init__(self, relus: Iterable[nn.Module]) -> None:
        super().__init__()
        self._relus = iter(relus)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        function = getattr(func, "__name__", "")
        if not rectifies(function, args, kwargs):
            return func(*args, **kwargs)
        x = _operand(function, args, kwargs)
        relu = self._next()
        # A copy, so that hooks on its gradient meet what comes back through this ReLU alone.
        y = relu(x.clone())
        ceiling = _ceiling(function, args, kwargs)
        y = y if ceiling is None else y.clamp(max=ceiling)
        return x.copy_(y) if function.endswith("_") or kwargs.get("inplace") else y

    def _next(self) -> nn.Module:
        relu = next(self._relus, None)
        if relu is None:
            raise ValueError(
                "module: it runs more ReLUs than before on the same images, so what it does is not "
                "the same every time"
            )
        return relu


def rectifies(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a call of a torch function is a ReLU, with or without a ceiling.

    Args:
        function: its name, as `relu_` or `clamp`.
        args, kwargs: what it is called with, the tensor first.
    """
    name = function.strip("_")
    if name in _ALWAYS:
        return True
    if name in _LARGER:
        one, other = _pair(args, kwargs)
        return isinstance(other, Tensor) and (_is_zero(other, one) or _is_zero(one, other))
    if name not in _BOUNDED:
        return False
    given = _given(name, args, kwargs)
    if name == "threshold":
        return given.get("threshold") == 0 == given.get("value")
    if not _is_zero(given.get("min", given.get("min_val")), _pair(args, kwargs)[0]):
        return False
    ceiling = _ceiling(function, args, kwargs)
    return ceiling is None or bool((torch.as_tensor(ceiling) > 0).all())


def _operand(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What is rectified by a call that is a ReLU."""
    one, other = _pair(args, kwargs)
    swapped = function in _LARGER and not _is_zero(other, one)
    return other if swapped else one


def _ceiling(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Above which value the function is constant, a number or a tensor; None: nowhere."""
    name = function.strip("_")
    if name == "relu6":
        return 6.0
    if name not in _BOUNDED:
        return None
    given = _given(name, args, kwargs)
    return given.get("max_val", 1.0) if name == "hardtanh" else given.get("max")


def _given(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_BOUNDED[name], args[1:], strict=False)), **kwargs}


def _pair(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The first two tensors that a function takes."""
    given = {**dict(zip(("input", "other"), args, strict=False)), **kwargs}
    return given.get("input"), given.get("other")


def _is_zero(bound: Any, x: Any) -> bool:
    """Whether a bound of x is zero everywhere: a number, or a tensor that leaves its shape."""
    if isinstance(bound, Tensor):
        # From the right, as broadcasting goes.
        sizes = zip(reversed(bound.shape), reversed(x.shape), strict=False)
        fits = bound.ndim <= x.ndim and all(size in (1, whole) for size, whole in sizes)
        return fits and not bound.any()
    return isinstance(bound, int | float) and bound == 0
