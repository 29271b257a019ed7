"""Which tensors of a file are which of a network, under whatever prefix the file has them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from emergence_ext.network.weight_files import WITHIN

__all__ = [
    "Match",
    "counts",
    "known",
    "listed",
    "matched",
    "misshapen",
    "own_tensors",
    "tied_names",
]

# Numbers beside weights that nothing here reads: networks of before PyTorch 0.4.1 lack the first;
# thop leaves the next two, averaging the last.
_COUNTERS = frozenset({"num_batches_tracked", "total_ops", "total_params", "n_averaged"})
# Modules that torch puts around others, of torch.compile, DataParallel, FSDP and checkpointing.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_AVERAGED = re.compile(r"(?:^|[\W_])(?:ema|swa|avg|averaged?|shadow|polyak)(?=[\W_])|EMA|Ema|SWA")


class Match(NamedTuple):
    """Which tensors of a file are which of a network.

    Attributes:
        tensors: by the network's own names.
        prefix: what the file has before those names.
        unexpected: names under that prefix that the network does not have.
        beside: names of what is not under it.
        others: prefixes of other weights that would fit.
    """

    tensors: dict[str, Tensor]
    prefix: str
    unexpected: list[str]
    beside: list[str]
    others: list[str]


def matched(module: nn.Module, state: Mapping[str, Tensor], source: str) -> Match:
    """Find a network's weights among the tensors of a file, under one prefix for all of them.

    Args:
        module: the network.
        state: tensors by name, as `read_weights` gives them.
        source: the file, for errors.

    Returns:
        What is under the prefix under which the file has all of the network's names; where there is
        none, under the one with the most.

    Raises:
        ValueError: several sets of weights fit, with other values; nothing tells which is meant.
    """
    own = own_tensors(module)
    tied = [names for names in tied_names(own) if not all(map(counts, names))]
    as_named = {name: name for name in own}
    inner = _common_prefix(own)
    unwrapped = _without_wrappers(state, own)
    attempts = [(state, as_named), (unwrapped, as_named)]
    if inner:  # the network is inside a module that the file knows nothing of
        attempts.append((unwrapped, {name.removeprefix(inner): name for name in own}))
    for tensors, wanted in attempts:
        found = _whole(tensors, wanted, own, tied, source)
        # Few names, of any depth, fit many places; then the file must hold nothing else.
        rest = [] if found is None or wanted is as_named else found.beside + found.unexpected
        if found is not None and not rest:
            return found
    places = _places(unwrapped, as_named)
    prefix = max(places, key=lambda place: (len(places[place]), -len(place)), default="")
    # Within a mapping a single name tells; a prefix is one that most names have.
    if not prefix.endswith(WITHIN) and 2 * len(places.get(prefix, ())) < len(tied):
        mappings = [name.rpartition(WITHIN)[0] for name in unwrapped]
        prefix = max(mappings, key=mappings.count, default="")
        prefix += WITHIN if prefix else ""
    return _under(prefix, unwrapped, as_named, [])


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of a network by name; its state_dict can hold other things."""
    return {name: x for name, x in module.state_dict().items() if isinstance(x, Tensor)}


def tied_names(own: Mapping[str, Tensor]) -> list[frozenset[str]]:
    """Names by tensor: several where one tensor is in several places of the network."""
    groups: dict[Any, set[str]] = defaultdict(set)
    for name, x in own.items():
        place = x.untyped_storage().data_ptr() if known(x) and not x.is_meta else 0
        groups[(place, x.storage_offset(), x.shape, x.stride()) if place else name].add(name)
    return [frozenset(names) for names in groups.values()]


def known(own: Tensor) -> bool:
    """Whether a tensor has its shape; that of a lazy layer has it after the first images."""
    return not nn.parameter.is_lazy(own)


def counts(name: str) -> bool:
    """Whether a tensor of this name is a counter that no network computes with."""
    return re.split(rf"[.{WITHIN}]", name)[-1] in _COUNTERS


def misshapen(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors whose shape is not the network's."""
    return [
        name
        for name, x in own.items()
        if name in tensors and not counts(name) and known(x) and tensors[name].shape != x.shape
    ]


def listed(names: Sequence[str]) -> str:
    """Give the first of many names, for a message."""
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _whole(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    own: Mapping[str, Tensor],
    tied: Sequence[frozenset[str]],
    source: str,
) -> Match | None:
    """Match a prefix under which all names are there; None where there is none."""

    def there(prefix: str) -> dict[str, Tensor]:
        return {own_name: tensors[prefix + name] for name, own_name in wanted.items()
                if prefix + name in tensors}  # fmt: skip

    whole = {
        prefix: there(prefix)
        for prefix, names in _places(tensors, wanted).items()
        # Optimizers keep numbers under the names of the weights.
        if len(names) >= len(tied) and "optim" not in prefix.lower()
    }
    whole = {p: x for p, x in whole.items() if all(names & x.keys() for names in tied)}
    alike = {p: x for p, x in whole.items() if not misshapen(own, x)} or whole
    if not alike:
        return None
    different: list[str] = []
    for prefix in alike:
        if not any(_equal(alike[prefix], alike[other]) for other in different):
            different.append(prefix)
    plain = [prefix for prefix in different if not _AVERAGED.search(prefix)]
    if len(different) > 1 and len(plain) != 1:
        raise ValueError(
            f"weights: {source} holds {len(different)} sets of weights that fit this network and "
            f"differ, under {listed(different)}. Save the one that is meant by itself"
        )
    prefix = (plain or different)[0]
    found = _under(prefix, tensors, wanted, [other for other in whole if other != prefix])
    return found._replace(others=[other for other in different if other != prefix])


def _under(
    prefix: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, str], others: Iterable[str]
) -> Match:
    """Divide tensors into the network's, what the network lacks, and what lies beside it."""
    others = [other for other in others if other.startswith(prefix)]
    found = Match({}, prefix, [], [], [])
    for full, value in tensors.items():
        name = full.removeprefix(prefix)
        outside = not full.startswith(prefix) or any(map(full.startswith, others))
        if not outside and name in wanted:
            found.tensors[wanted[name]] = value
        elif not counts(name):
            (found.beside if outside or WITHIN in name else found.unexpected).append(full)
    return found


def _places(tensors: Mapping[str, Tensor], wanted: Mapping[str, str]) -> dict[str, set[str]]:
    """For every prefix, which of the wanted names the file has under it."""
    places: dict[str, set[str]] = defaultdict(set)
    for full in tensors:
        for start in (0, *(mark.end() for mark in re.finditer(rf"[.{WITHIN}]", full))):
            if full[start:] in wanted and not counts(full):
                places[full[:start]].add(full[start:])
    return places


def _without_wrappers(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Take the modules that torch puts around others out of names, where the network has none."""
    drop = _WRAPPERS - {part for name in own for part in name.split(".")}
    shorter = {
        name: ".".join(part for part in name.split(".") if part not in drop) for name in tensors
    }
    if len(set(shorter.values())) < len(shorter):
        return tensors  # there with and without
    return {shorter[name]: value for name, value in tensors.items()}


def _common_prefix(names: Iterable[str]) -> str:
    """The modules that everything is inside of, as `model.`."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


def _equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(
        x is others[name]
        or (
            x.shape == others[name].shape
            and x.dtype == others[name].dtype
            and x.layout == others[name].layout == torch.strided
            and torch.equal(x, others[name])
        )
        for name, x in some.items()
        if not counts(name)
    )
