"""Weights to begin a training with: the head starts anew where it has other outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

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
        ValueError: as `load_weights`.
    """
    state = read_weights(weights)
    heads = _heads(module, state)
    taken = {key: value for key, value in state.items() if key not in heads}
    missing = check_and_load(module, taken, str(weights), partial_ok=True)
    own = module.state_dict()
    anew = {
        key.rpartition(".")[0]: f"{len(state[key])} outputs there, {len(own[key])} here"
        for key in heads
    }
    absent = (key.rpartition(".")[0] or key for key in missing if key not in heads)
    anew |= {name: "not there" for name in absent if name not in anew}
    return [f"{name}: {why}, trained anew" for name, why in anew.items()]


def _heads(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Name what differs from the weights of a file in the number of outputs alone."""
    own = module.state_dict()
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    alike = all(
        own[key].ndim
        and own[key].ndim == state[key].ndim
        and own[key].shape[1:] == state[key].shape[1:]
        for key in other
    )
    rows = {(len(own[key]), len(state[key])) for key in other} if alike else set()
    return other if len(rows) == 1 else []
