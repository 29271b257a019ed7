"""Stored states of a network by epoch, the index beside them, and the state to resume from."""

import glob
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from emergence_ext.lookup import path_named
from emergence_ext.network.epochs import Epoch, read_epochs
from emergence_ext.network.origin import Origin, sealed
from emergence_ext.store import (
    StoreError,
    digest,
    load_arrays,
    made_from,
    save_arrays,
    write_file,
)

__all__ = [
    "CheckpointFile",
    "find_state",
    "keep_state",
    "load_checkpoints",
    "restore_state",
    "save_checkpoint",
    "write_index",
]

logger = logging.getLogger(__name__)

INDEX = "checkpoints.json"


class CheckpointFile(NamedTuple):
    """A stored state of a network: a label to show, its epoch, its file.

    Examples:
        >>> from emergence_ext import network
        >>> torch.save(torch.nn.Linear(2, 2).state_dict(), "epoch_3.pt")
        >>> network.load_checkpoints(["epoch_3.pt"])[0].label
        'epoch 3'
    """

    label: str
    epoch: int
    path: Path


def save_checkpoint(folder: Path, epoch: int, module: nn.Module, origin: Origin) -> None:
    """Write `epoch_0003.safetensors`, the state_dict of a module as it is after an epoch.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import network
        >>> folder = Path("saved")
        >>> network.save_checkpoint(folder, 3, torch.nn.Linear(3, 2), network.Origin(size=32))
        >>> network.read_origin(folder / "epoch_0003.safetensors").size
        32
    """
    write_file(_checkpoint_file(folder, epoch), sealed(module.state_dict(), origin))


def write_index(folder: Path, rows: Sequence[Mapping[str, float]], origin: Origin) -> None:
    """Write `checkpoints.json`: `epoch` and whatever else a row says, for files that are there.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import network
        >>> folder, origin = Path("indexed"), network.Origin(size=32)
        >>> network.save_checkpoint(folder, 3, torch.nn.Linear(3, 2), origin)
        >>> network.write_index(folder, [{"epoch": 3, "val_accuracy": 0.9}], origin)
        >>> network.load_checkpoints("indexed/*.safetensors")[0].epoch
        3
    """
    entries = [
        {
            "file": _checkpoint_file(folder, int(row["epoch"])).name,
            **{key: None if math.isnan(value) else value for key, value in row.items()},
        }
        for row in rows
        if _checkpoint_file(folder, int(row["epoch"])).is_file()
    ]
    content = {
        "training": {**asdict(origin), "categories": list(origin.categories)},
        "checkpoints": entries,
    }
    text = json.dumps(content | {"sha256": digest(content)}, indent=1)
    write_file(folder / INDEX, text.encode())


def load_checkpoints(pattern: Path | str | Sequence[Path | str]) -> list[CheckpointFile]:
    """Find checkpoints and put them in the order of their epochs; how each was read is logged.

    Args:
        pattern: files, or a pattern as `runs/*/epoch_*.safetensors`. The epoch of a file is what
            `checkpoints.json` beside it says, else the whole number in its name that counts epochs,
            else steps, else the one that differs from file to file. Scores are never taken.

    Raises:
        ValueError: nothing matches, something that is no file, a file without an epoch or with
            several numbers that it could be, two files of one epoch, or epochs beside steps.
        TypeError: neither paths nor a pattern.

    Examples:
        >>> from emergence_ext import network
        >>> for step in (0, 500):
        ...     torch.save(torch.nn.Linear(3, 2).state_dict(), f"step_{step}.pt")
        ...
        >>> [file.label for file in network.load_checkpoints("step_*.pt")]
        ['step 0', 'step 500']
    """
    if isinstance(pattern, str | Path):
        paths = [Path(path) for path in glob.glob(str(pattern), recursive=True)]
    else:
        given = pattern if isinstance(pattern, Iterable) else [pattern]
        paths = [path_named(path, "checkpoints") for path in given]
    if not paths:
        raise ValueError(f"checkpoints: nothing matches {str(pattern)!r}. Is the pattern quoted?")
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:
        hint = ", but a folder: name the files in it" if absent.is_dir() else ""
        raise ValueError(f"checkpoints: no file {absent}{hint}")
    epochs = _epochs(paths)
    files = sorted((epoch.number, path, epoch) for path, epoch in zip(paths, epochs, strict=True))
    for (_, path, epoch), (_, next_path, next_epoch) in pairwise(files):
        if epoch.unit != next_epoch.unit:
            raise ValueError(
                f"checkpoints: {path} is read as {_label(epoch)} and {next_path} as "
                f"{_label(next_epoch)}, which have no common order. Say their epochs in {INDEX}"
            )
        if epoch.number == next_epoch.number:
            raise ValueError(
                f"checkpoints: {path} and {next_path} are both of {_label(epoch)}. Say their "
                f"epochs in {INDEX} beside them, or leave one out"
            )
    for _, path, epoch in files:
        logger.info("checkpoint %s is read as %s, %s", path, _label(epoch), epoch.source)
    return [CheckpointFile(_label(epoch), number, path) for number, path, epoch in files]


def keep_state(
    folder: Path,
    epoch: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    depends_on: Mapping[str, str],
) -> None:
    """Store what training goes on from, less the frozen weights; two are kept, should one break.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import network
        >>> net = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> network.keep_state(Path("training"), 1, net, optimizer, {"epoch": 1}, {"images": "a1"})
        >>> network.find_state(Path("training"))[1:]
        ({'epoch': 1}, {'images': 'a1'})
    """
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    state = dict(module.state_dict())
    arrays = {f"module/{name}": value for name, value in state.items() if name not in frozen}
    # What a network counts or averages in buffers that its checkpoints do not hold.
    arrays |= {f"buffer/{n}": value for n, value in module.named_buffers() if n not in state}
    for place, values in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{place}/{key}": value for key, value in values.items()}
    save_arrays(
        _states(folder) / f"{epoch:06d}",
        arrays,
        settings,
        kind="TrainingState",
        made_from=depends_on,
    )
    for path in _states(folder).glob("[0-9]*.*"):
        if path.stem not in (f"{epoch:06d}", f"{epoch - 1:06d}"):
            path.unlink()


def find_state(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str] | None] | None:
    """Return the latest whole state that `keep_state` stored, or None where nothing was trained.

    What it depends on is None where it was stored by a version that did not say so.

    Raises:
        StoreError: no state is whole, or none is there beside checkpoints of a training.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import network
        >>> Path("empty").mkdir()
        >>> network.find_state(Path("empty")) is None
        True
    """
    stored = sorted(_states(folder).glob("[0-9]*.json"), reverse=True)
    for path in stored:
        try:
            stem = path.with_suffix("")
            return *load_arrays(stem, kind="TrainingState"), made_from(stem)
        except StoreError as error:
            logger.warning("the state after epoch %s is left aside: %s", path.stem, error)
    # That of epoch 0 may be all that a training had time for.
    trained = sorted(set(folder.glob("epoch_*.safetensors")) - {_checkpoint_file(folder, 0)})
    if stored or trained:
        there = f"only damaged states in {_states(folder)}" if stored else f"{trained[0].name}"
        raise StoreError(
            f"out: {folder} holds {there} and no state to go on from. Choose another folder, or "
            "delete this one to train again."
        )
    return None


def restore_state(
    arrays: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a stored state back into a module and its optimizer.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import network
        >>> def made():
        ...     net = torch.nn.Linear(3, 2)
        ...     return net, torch.optim.SGD(net.parameters(), lr=0.1)
        ...
        >>> net, fresh = made(), made()
        >>> network.keep_state(Path("stopped"), 1, *net, {}, {})
        >>> network.restore_state(network.find_state(Path("stopped"))[0], *fresh)
        >>> torch.equal(fresh[0].weight, net[0].weight)
        True
    """
    learned: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        owner, _, key = name.partition("/")
        if owner == "module":
            learned[key] = value
        elif owner == "buffer":
            module.get_buffer(key).copy_(value)
        else:
            place, _, kind = key.partition("/")
            moments.setdefault(int(place), {})[kind] = value
    # Over its own, which says the versions of its parts: some networks insist on them.
    state = module.state_dict()
    state.update(learned)
    module.load_state_dict(state, strict=False)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})


def _checkpoint_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:04d}.safetensors"


def _states(folder: Path) -> Path:
    return folder / "resume"


def _label(epoch: Epoch) -> str:
    return f"{epoch.unit} {epoch.number}"


def _epochs(paths: Sequence[Path]) -> list[Epoch]:
    """Epochs of files: what an index says, and the names of the others, read together."""
    indexed = {path: epoch for path in paths if (epoch := _indexed(path)) is not None}
    others = [path for path in paths if path not in indexed]
    read = indexed | dict(zip(others, read_epochs(others), strict=True))
    return [read[path] for path in paths]


def _indexed(path: Path) -> Epoch | None:
    """What the index beside a file says of it; None where there is nothing about it."""
    index = path.parent / INDEX
    said = [
        entry.get("epoch")
        for entry in _read_index(index)
        if isinstance(entry, dict) and entry.get("file") == path.name
    ]
    if not said:
        return None
    if len(said) > 1 or type(said[0]) is not int:
        raise ValueError(
            f"checkpoints: expected one whole number as the epoch of {path.name} in {index}, got "
            f"{', '.join(map(repr, said))}"
        )
    return Epoch(said[0], "epoch", f"as {INDEX} says")


def _read_index(path: Path) -> list[object]:
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_bytes())
        entries = content["checkpoints"]
        # A training writes both, others none: one alone is the other with a flipped bit.
        written = content.pop("sha256", None)
        if (written is not None or "training" in content) and written != digest(content):
            raise ValueError("changed after the training wrote it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"checkpoints: {path} is damaged ({error!r}). Delete it: the names of files say their "
            "epochs too."
        ) from error
    if not isinstance(entries, list):
        raise ValueError(f"checkpoints: expected a list in {path}, got {entries!r:.60}")
    return entries
