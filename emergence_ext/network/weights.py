"""Weights of networks in files: read without running anything, and checked before they are used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emergence_ext.network.origin import check_seal

__all__ = ["check_and_load", "load_weights", "output_rows", "read_weights"]


def load_weights(module: nn.Module, weights: Path | str, *, partial: bool = False) -> list[str]:
    """Copy the weights of a file into a module, converted to the module's dtype.

    Args:
        module: changed in place.
        weights: `.safetensors`, or a file of torch.save that holds nothing but tensors.
        partial: let the file lack keys of the module (a head that is still to be trained).

    Returns:
        The keys that the file lacks.

    Raises:
        ValueError: not such a file, or missing, unexpected or wrongly shaped keys: a checkpoint of
            another network.
    """
    return check_and_load(module, read_weights(weights), str(weights), partial_ok=partial)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a checkpoint without running anything in it.

    A dict around it (`state_dict`, `model`) and `module.` before every key are taken off.

    Raises:
        ValueError: no such file, or anything in it but tensors.
    """
    path = Path(path)
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    # The unpickler can raise nearly anything on a file that is no checkpoint.
    except Exception as error:
        raise ValueError(
            f"weights: cannot read {path} as tensors alone ({type(error).__name__}: "
            f"{error!s:.200}). Save the state_dict and nothing else."
        ) from error
    check_seal(path, content)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"weights: {path} holds no state_dict but a {type(content).__name__}")
    other = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ValueError(f"weights: {other!r} in {path} is no tensor. Save the state_dict only.")
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def output_rows(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the weights' number of outputs where the module differs in nothing else.

    Args:
        module: the network, built for any number of outputs.
        state: weights by name.
    """
    own = module.state_dict()
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    rows = {len(state[key]) for key in differing if state[key].ndim in (1, 2)}
    alike = all(own[key].shape[1:] == state[key].shape[1:] for key in differing)
    return rows.pop() if alike and len(rows) == 1 and len(differing) <= 2 else None


def check_and_load(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, partial_ok: bool
) -> list[str]:
    """Copy weights by name into a module as `load_weights` does; `source` is named in errors."""
    own = module.state_dict()
    # Counters that networks of before PyTorch 0.4.1 do not have and that nothing here reads.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {list(state[key].shape)}, expected {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems = {
        "missing": [] if partial_ok else missing,
        "unexpected": unexpected,
        "wrong shape": misshapen,
    }
    text = "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    )
    if text or len(missing) == len(own):
        raise ValueError(
            f"weights: {source} is a checkpoint of another network: "
            f"{text or 'no key of this one'}. Check the model's name."
        )
    broken = next(
        (
            key
            for key, value in state.items()
            if value.is_floating_point() and not value.isfinite().all()
        ),
        None,
    )
    if broken is not None:
        raise ValueError(
            f"weights: {broken!r} in {source} holds NaN or infinite values; the training diverged"
        )
    # Over its own, which says the versions of its parts: some networks insist on them.
    own.update(state)
    module.load_state_dict(own)
    return missing


def randomise(module: nn.Module, random_state: int) -> None:
    """Initialise every layer of a network anew, as its class does, in place.

    Parameters whose layer does not say how are drawn from a normal of their own mean and deviation.

    Args:
        module: the network.
        random_state: seed. The numbers are others than those that a network has which was built
            with this seed: it would be its own control.
    """
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
