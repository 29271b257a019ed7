"""A checkpoint of a finished run by name: `RUN_DIR@CHECKPOINT`."""

from __future__ import annotations

import re
from pathlib import Path

from emergence_ext.lookup import path_named
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.results import Emergence


def open_at(address: str) -> tuple[FinishedRun, int]:
    """Open a run and find one of its checkpoints.

    Args:
        address: a run directory, which means its last checkpoint, or `RUN_DIR@CHECKPOINT`.

    Raises:
        ValueError: nothing before or after the @, no such checkpoint, or several.
        FileNotFoundError: no finished run there.

    Examples:
        >>> from emergence_ext import run
        >>> found, checkpoint = run.open_at("runs/demo@epoch 2")
        >>> found.emergence.labels[checkpoint]
        'epoch 2'
    """
    folder, label = split_address(address)
    run = FinishedRun.open(folder)
    return run, find_checkpoint(run.emergence, label)


def split_address(text: str) -> tuple[Path, str | None]:
    """Take `RUN_DIR@CHECKPOINT` apart; None without a checkpoint, or where it is part of a folder.

    Raises:
        ValueError: nothing before or after the @.

    Examples:
        >>> from emergence_ext import run
        >>> run.split_address("runs/demo@epoch 2")[1], run.split_address("runs/demo")[1]
        ('epoch 2', None)
    """
    text = str(path_named(text, "run"))
    if "@" not in text or Path(text).is_dir():
        return Path(text), None
    folder, _, label = text.rpartition("@")
    if not folder or not label:
        raise ValueError(f"run: expected RUN_DIR or RUN_DIR@CHECKPOINT, got {text!r}")
    return Path(folder), label


def find_checkpoint(e: Emergence, label: str | None) -> int:
    """Return the place of a checkpoint by its label, with or without its spaces, or by its epoch.

    Args:
        e: what the run found.
        label: as "epoch 3", "epoch3" or "3"; None for the last checkpoint.

    Raises:
        ValueError: no such checkpoint, or several.
    """
    if label is None:
        return len(e.labels) - 1
    if label in e.labels:
        return e.labels.index(label)

    def plain(text: str) -> str:
        return re.sub(r"[\W_]+", "", text).lower()

    places = [t for t, name in enumerate(e.labels) if plain(name) == plain(label)]
    if not places and label.strip().isdigit():
        places = [t for t, epoch in enumerate(e.epochs) if epoch == int(label)]
    if len(places) != 1:
        raise ValueError(
            f"run: {'several' if places else 'no'} checkpoints {label!r}; there are "
            f"{', '.join(e.labels)}"
        )
    return places[0]
