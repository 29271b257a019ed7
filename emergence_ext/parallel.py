"""The processes of one job: who leads, and the few things that they have to say to each other.

`torchrun` starts them and torch.distributed carries what they say: gloo for arrays in the CPU's
memory, NCCL for those in a GPU's. Outside of a `job`, and in one of a single process, there is one
process, the leader; then nothing here waits, and torch.distributed is left alone. What takes part
says so by being called within a job: every process calls the same functions in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

TIMEOUT: Final = timedelta(hours=6)
"""How long a process waits for another. One that ends is noticed at once, this is for one that
hangs; the leader may have hours of work that the others wait for."""

TOGETHER: Final = 2**24
"""Bytes that a process gives to the others at once of what all are to have."""


class PeerError(RuntimeError):
    """Another process of the job has ended, or did not answer."""


class _Job(NamedTuple):
    group: Any
    rank: int
    world: int


_job: _Job | None = None


def launched() -> tuple[int, int]:
    """Return the rank of this process and their number as torchrun started them, else 0 and 1."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # as torch.distributed finds out
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def no_bar() -> bool | None:
    """What `disable` of a progress bar is: the leader alone shows one, and on a terminal alone."""
    return True if max(rank(), launched()[0]) else None


@contextmanager
def job() -> Iterator[None]:
    """Within the block this process is one of a job, where `torchrun` or the caller began one.

    A process group that the caller has initialised, as Ray's `TorchTrainer` does, is used and left.
    """
    global _job
    begun = dist.is_available() and dist.is_initialized()
    if _job is not None or not (begun or launched()[1] > 1):
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    group: Any = None
    if begun:
        group = dist.new_group(backend=backend, timeout=TIMEOUT)
    else:
        dist.init_process_group(backend, timeout=TIMEOUT)
        group = dist.group.WORLD  # only now it stands for a group
    _job = _Job(group, dist.get_rank(), dist.get_world_size())
    try:
        yield
        # Left by an error, the group stands until this process ends: the others learn of it when
        # what was wrong has been said.
        dist.destroy_process_group(None if not begun else group)
    finally:
        _job = None


def rank() -> int:
    """Return the number of this process in the job; 0 leads."""
    return 0 if _job is None else _job.rank


def world() -> int:
    """Return the number of processes in the job."""
    return 1 if _job is None else _job.world


def neighbours() -> int:
    """Return how many processes of the job share this machine, this one included."""
    return 1 if _job is None else int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def leads() -> bool:
    """Say whether this is the process that does what only one does."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here.

    Raises:
        PeerError: one of them has ended.
    """
    gathered_objects(None)


def first(make: Callable[[], T]) -> T:
    """Return what the leader made, once it has; the others wait and make nothing.

    Args:
        make: gives what can be pickled.

    Raises:
        PeerError: the leader has ended.
    """
    if _job is None:
        return make()
    made = [make() if _job.rank == 0 else None]
    with _answered():
        dist.broadcast_object_list(made, group=_job.group, group_src=0)
    return made[0]  # type: ignore[return-value]


def gathered(array: Tensor) -> Sequence[Tensor]:
    """Return the arrays of all processes, of one shape and dtype, in the order of their ranks.

    Raises:
        PeerError: a process has ended.
    """
    if _job is None:
        return [array]
    array = array.contiguous()
    arrays = [torch.empty_like(array) for _ in range(_job.world)]
    with _answered():
        dist.all_gather(arrays, array, group=_job.group)
    return arrays


def share_rows(array: Tensor) -> None:
    """Give all processes all rows of an array in which each has filled its part, in place.

    Args:
        array: on the CPU; as many rows for each process, in the order of their ranks.

    Raises:
        PeerError: a process has ended.
    """
    parts = array.tensor_split(world())
    step = max(1, TOGETHER // max(1, array[:1].nbytes))
    for start in range(0, len(parts[0]) if world() > 1 else 0, step):
        rows = slice(start, start + step)
        for part, theirs in zip(parts, gathered(parts[rank()][rows]), strict=True):
            part[rows] = theirs


def require_same(what: dict[str, str]) -> None:
    """Refuse to work together with processes that see something else.

    Args:
        what: digest of each thing that all should see, by a name that an error can say.

    Raises:
        ValueError: names what differs, and where.
        PeerError: a process has ended.
    """
    everywhere = gathered_objects(what)
    for other, theirs in enumerate(everywhere):
        names = sorted({*everywhere[0], *theirs})
        different = [name for name in names if theirs.get(name) != everywhere[0].get(name)]
        if different:
            raise ValueError(
                f"process {other} of {len(everywhere)} sees other {', '.join(different[:6])} than "
                "process 0. Give all of them the same files: a folder that they share, or copies "
                "that are equal to the last byte."
            )


def gathered_objects(value: T) -> list[T]:
    """Return what all processes give, which can be pickled, in the order of their ranks.

    Raises:
        PeerError: a process has ended.
    """
    if _job is None:
        return [value]
    values: list[Any] = [None] * _job.world
    with _answered():
        dist.all_gather_object(values, value, group=_job.group)
    return values


@contextmanager
def _answered() -> Iterator[None]:
    """Name what gloo and NCCL say of a connection that was closed."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise PeerError(
            "another process of this job ended before it was done, or did not answer. What is "
            f"finished is kept: start the job again, with any number of processes ({said:.120})"
        ) from error
