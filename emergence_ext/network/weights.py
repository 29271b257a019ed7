"""Weights of networks: checked before they are used, then copied."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emergence_ext.network.calling import require_module
from emergence_ext.network.weight_files import read_weights
from emergence_ext.network.weight_names import (
    Match,
    counts,
    known,
    listed,
    matched,
    misshapen,
    own_tensors,
    tied_names,
)

__all__ = [
    "check_and_load",
    "check_fits",
    "load_weights",
    "output_rows",
    "randomise",
    "read_weights",
]

logger = logging.getLogger(__name__)


def load_weights(module: nn.Module, weights: Path | str, *, partial: bool = False) -> list[str]:
    """Copy the weights of a file into a module, converted to the module's dtype.

    They may lie in a mapping (`state_dict`, `model`, ...) and under a prefix (`module.`,
    `_orig_mod.`, `model.`, ... in any nesting): whatever makes all names fit. What lies beside them
    is left out, and logged.

    Args:
        module: changed in place.
        weights: `.safetensors`, or a file of torch.save; nothing in it is run.
        partial: let the file lack keys of the module (a head that is still to be trained), or have
            a head of another number of outputs, which is left as it is.

    Returns:
        The keys that were not loaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file of weights, or missing, unexpected or wrongly shaped keys: a checkpoint
            of another network; other kinds of numbers, or NaN; two sets of weights that fit.

    Examples:
        >>> from emergence_ext import network
        >>> torch.save({"model": {"module.weight": torch.eye(2)}}, "w.pt")
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> network.load_weights(net, "w.pt"), net.weight.tolist()
        ([], [[1.0, 0.0], [0.0, 1.0]])
    """
    return check_and_load(module, read_weights(weights), str(weights), partial_ok=partial)


def check_fits(module: nn.Module, weights: Path | str) -> None:
    """Raise what `load_weights` would raise, and load nothing.

    Examples:
        >>> from emergence_ext import network
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), "linear.pt")
        >>> network.check_fits(torch.nn.Linear(3, 2), "linear.pt")  # raises where it does not fit
    """
    _check(module, read_weights(weights), str(weights), partial_ok=False)


def check_and_load(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, partial_ok: bool
) -> list[str]:
    """Copy weights by name into a module as `load_weights` does; `source` is named in errors."""
    found = _check(module, state, source, partial_ok=partial_ok)
    if found.others:
        logger.warning(
            "weights: of %s those under %r are taken; it also holds others that fit, under %s",
            source, found.prefix, listed(found.others),
        )  # fmt: skip
    if found.beside:
        logger.info(
            "weights: %d tensors beside the network in %s are left out: %s",
            len(found.beside), source, listed(found.beside),
        )  # fmt: skip
    # Over its own, which says the versions of its parts: some networks insist on them.
    state = module.state_dict()
    state.update(found.tensors)
    module.load_state_dict(state, strict=False)
    own = own_tensors(module)
    lacking = [names for names in tied_names(own) if not names & found.tensors.keys()]
    return [name for name in own if not counts(name) and any(name in names for names in lacking)]


def output_rows(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the weights' number of outputs where the module differs in nothing else.

    Args:
        module: the network, built for any number of outputs.
        state: weights by name, as `read_weights` gives them.

    Examples:
        >>> from emergence_ext import network
        >>> mine, published = torch.nn.Linear(48, 5), torch.nn.Linear(48, 1000)
        >>> network.output_rows(mine, published.state_dict())
        1000
    """
    own, tensors = own_tensors(module), matched(module, state, "the file").tensors
    head = _head(own, tensors)
    return len(tensors[head[0]]) if head else None


def randomise(module: nn.Module, random_state: int) -> None:
    """Initialise every layer of a network anew, as its class does, in place.

    Parameters whose layer does not say how are drawn from a normal of their own mean and deviation.

    Args:
        module: the network.
        random_state: seed. The numbers are others than those that a network has which was built
            with this seed: it would be its own control.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Linear(4, 2)
        >>> before = net.weight.clone()
        >>> network.randomise(net, random_state=1)
        >>> bool((net.weight == before).any())
        False
    """
    require_module(module)
    own = torch.Generator().manual_seed(random_state)
    seed = int(torch.randint(2**62, (), generator=own))
    initialised: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            for name in ("reset_parameters", "_reset_parameters"):  # the latter of attention
                reset: Any = getattr(layer, name, None)
                if callable(reset):
                    reset()
                    initialised |= {id(x) for x in layer.parameters(recurse=False)}
        for x in module.parameters():
            if id(x) not in initialised:
                x.copy_(torch.randn(x.shape).to(x) * x.std(correction=0) + x.mean())


def _check(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, partial_ok: bool
) -> Match:
    """Match weights with a module and check them; the tensors come in the module's dtypes."""
    own, found = own_tensors(module), matched(module, state, source)
    for name in _head(own, found.tensors) if partial_ok else ():
        del found.tensors[name]
    _check_names(own, found, source, partial_ok=partial_ok)
    tensors = {
        name: _converted(name, value, own[name], source)
        for name, value in found.tensors.items()
        if not counts(name) or value.shape == own[name].shape
    }
    for names in tied_names(own):
        there = [name for name in own if name in names and name in tensors]
        if any(not torch.equal(tensors[name], tensors[there[0]]) for name in there[1:]):
            raise ValueError(
                f"weights: {source} is a checkpoint of another network: {' and '.join(there)} are "
                "one tensor in this network, and differ there"
            )
    return found._replace(tensors=tensors)


def _check_names(own: Mapping[str, Tensor], found: Match, source: str, *, partial_ok: bool) -> None:
    missing = [
        next(name for name in own if name in names)
        for names in tied_names(own)
        if not names & found.tensors.keys() and not all(map(counts, names))
    ]
    wrong = [
        f"{name} {list(found.tensors[name].shape)}, expected {list(own[name].shape)}"
        for name in misshapen(own, found.tensors)
    ]
    problems = {
        "missing": [] if partial_ok else missing,
        "unexpected": found.unexpected,
        "wrong shape": wrong,
    }
    text = "; ".join(f"{len(x)} {kind} ({listed(x)})" for kind, x in problems.items() if x)
    if not text and found.tensors:
        return
    under = f" under the prefix {found.prefix!r}" if found.prefix else ""
    raise ValueError(
        f"weights: {source} is a checkpoint of another network:{under} "
        f"{text or 'no key of this one'}. Give the network that it was saved from (--model), with "
        "as many outputs"
    )


def _converted(name: str, value: Tensor, like: Tensor, source: str) -> Tensor:
    """Return a tensor in the dtype of the network's own, unless that would change what it says."""
    if value.is_meta or value.is_quantized or (_kind(value) != _kind(like) and not counts(name)):
        found, wanted = (str(x.dtype).removeprefix("torch.") for x in (value, like))
        raise ValueError(
            f"weights: {name!r} in {source} is {'without values' if value.is_meta else found}, the "
            f"network's is {wanted}. Load it where it is from, and save it converted"
        )
    dense = value if value.layout == torch.strided else value.to_dense()
    converted = dense.to(like.dtype)
    broken = ~converted.isfinite()
    # A mask of the network's own may hold infinite values.
    if broken.any() and not (known(like) and torch.equal(converted[broken], like.cpu()[broken])):
        why = (
            f"values too large for the network's {str(like.dtype).removeprefix('torch.')}"
            if dense.isfinite().all()
            else "NaN or infinite values; the training diverged"
        )
        raise ValueError(f"weights: {name!r} in {source} holds {why}")
    return converted


def _head(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ in shape, if they do in one number of rows alone."""
    differing = misshapen(own, tensors)
    rows = {(own[name].shape[:1], tensors[name].shape[:1]) for name in differing}
    alike = all(own[name].shape[1:] == tensors[name].shape[1:] for name in differing)
    return differing if alike and len(rows) == 1 and all(map(len, next(iter(rows)))) else []


def _kind(x: Tensor) -> str:
    if x.is_complex() or x.is_floating_point():
        return "complex" if x.is_complex() else "float"
    return "bool" if x.dtype == torch.bool else "integer"
