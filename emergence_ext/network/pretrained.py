"""Weights to begin a training with: the head starts anew where it has other outputs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from emergence_ext.network.weight_names import matched, own_tensors
from emergence_ext.network.weights import check_and_load, read_weights

__all__ = ["load_pretrained"]


def load_pretrained(module: nn.Module, weights: Path | str) -> list[str]:
    """Copy the weights of a file into a network that is to be trained.

    What leads to the outputs stays as it is where the file has another number of them, and so does
    what the file lacks.

    Args:
        module: changed in place.
        weights: as `load_weights` takes them.

    Returns:
        What starts anew, a phrase for each module.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.

    Examples:
        >>> from emergence_ext import network
        >>> def net(outputs):
        ...     return torch.nn.Sequential(
        ...         torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4, outputs)
        ...     )
        ...
        >>> torch.save(net(1000).state_dict(), "w.pt")
        >>> network.load_pretrained(net(5), "w.pt")
        ['2: 1000 outputs there, 5 here, trained anew']
    """
    state = read_weights(weights)
    there, own = matched(module, state, str(weights)).tensors, own_tensors(module)
    anew: dict[str, str] = {}
    for name in check_and_load(module, state, str(weights), partial_ok=True):
        why = "not there"
        if name in there:
            why = f"{len(there[name])} outputs there, {len(own[name])} here"
        anew.setdefault(name.rpartition(".")[0] or name, why)
    return [f"{name}: {why}, trained anew" for name, why in anew.items()]
