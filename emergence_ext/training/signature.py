"""What the result of a training depends on: only the same is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from emergence_ext.data import Samples
from emergence_ext.network import code_digest, weights_digest
from emergence_ext.store import differences, digest
from emergence_ext.training.recipes import Recipe

__all__ = ["depends_on", "require_same"]


def depends_on(
    module: nn.Module,
    recipe: Recipe,
    train_set: Samples,
    val_set: Samples,
    preprocess: nn.Module,
    *,
    seed: int,
    loss: str,
    kept: Sequence[int],
) -> dict[str, str]:
    """Return digests, the same on every device, of all that a training depends on, by name.

    Args:
        module: as it is before the training, `requires_grad` included.
        recipe, train_set, val_set, preprocess, seed, loss, kept: of the training.
    """
    parts = {
        "images": [train_set.digest(), val_set.digest()],
        "size": list(train_set[0][0].shape),
        "labels": [[s.categories, s.names, s.labels] for s in (train_set, val_set)],
        "preprocessing": [code_digest(preprocess), weights_digest(preprocess)],
        "network code": code_digest(module),
        "initial weights": weights_digest(module),
        "frozen weights": [n for n, p in module.named_parameters() if not p.requires_grad],
        "seed": seed,
        "loss": loss,
        "kept epochs": list(kept),
        **asdict(recipe),
    }
    return {name: digest(part) for name, part in parts.items()}


def require_same(there: dict[str, str] | None, now: dict[str, str], out: Path) -> None:
    """Refuse to go on with another training.

    Args:
        there: what the one in the folder depends on; None where it does not say.
        now: what the one that is asked for depends on.
        out: the folder.

    Raises:
        ValueError: names what differs.
    """
    if there is None:
        raise ValueError(
            f"out: {out} holds a training of an earlier version, which does not say what it "
            "depends on; choose another folder or delete it"
        )
    other = differences(there, now)
    if other:
        raise ValueError(
            f"out: {out} holds a training with other {', '.join(other)}; choose another folder or "
            "delete it"
        )
