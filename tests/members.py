"""What the processes of a job do in tests, each forked from one that has imported the package."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, distributed

from emergence_ext import parallel
from emergence_ext.data import ImageFolder
from emergence_ext.method import (
    RegionalProjection,
    RegionImportance,
    SampleProjection,
    image_similarity,
    solve_kappa_p,
)
from emergence_ext.run import Settings, SubjectSpec, run
from emergence_ext.store import Part, fill_rows, once
from tests.planted import planted
from tests.trust.forked import Ending, forked


def together(world: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Ending]:
    """Have the processes of a job call a function of a module, and say how each ended."""
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    with ThreadPoolExecutor(world) as pool:
        members = range(world)
        return list(
            pool.map(
                lambda k: forked(_member, meeting, k, world, work, folder, *arguments), members
            )
        )


def _member(meeting: Path, rank: int, world: int, work: Callable[..., Any], *given: Any) -> Any:
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
        )
    with parallel.job():
        assert (parallel.rank(), parallel.world()) == (rank, world)
        return work(*given)


def fits(folder: Path) -> list[bytes]:
    """Fit in blocks that do not come out even, and return the bits of all that was found."""
    data = planted(44)
    P = image_similarity(data.z, 8.0)
    samples = SampleProjection(max_rounds=20, random_state=0).fit(data.f, data.z)
    frame, g = samples.frame_.with_kappa_p(8.0), samples.transform(data.f)
    with mock.patch("emergence_ext.method.blocks.BLOCK", 10):
        importance = RegionImportance(max_evals=12).fit(data.F, P)
        regional = RegionalProjection(frame, max_evals=12).fit(data.F, importance.w_, P, g)
    found = [importance.w_, importance.v_, regional.Lambda_]
    some = RegionImportance(max_evals=12, pairs=5).fit(data.F, P)
    again = RegionalProjection(frame, max_evals=12, pairs=5).fit(data.F, some.w_, P, g)
    found += [some.w_, some.v_, again.Lambda_]
    with mock.patch("emergence_ext.method.similarity.BLOCK_BYTES", 8 * 44 * 10):
        kappa_p = repr(solve_kappa_p(data.z)).encode()
    losses = [repr(fit.stats_.losses).encode() for fit in (importance, regional, some, again)]
    return [*map(_bits, found), *losses, kappa_p]


def _bits(x: Tensor) -> bytes:
    return x.numpy().tobytes()


def shards(folder: Path, dies_at: int = -1) -> list[int]:
    """Fill a store, and return the batches that this process computed; at one of them it dies."""
    computed = []

    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        for rows in ranges:
            for start in range(rows.start, rows.stop, 5):
                if start == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.005)
                stop = min(start + 5, rows.stop)
                computed.append(start)
                yield slice(start, stop), {"x": torch.arange(start, stop)}

    fill_rows(folder / "rows", {"weights": "w"}, 101, 10, compute)
    return computed


def analyse(folder: Path, out: str, images: Path, checkpoints: Path, keep_features: int) -> None:
    """Make a run: of kept features, or with few mebibytes of them streamed."""
    states = str(checkpoints / "epoch_*.safetensors")
    spec = SubjectSpec(str(images), "tests.tiny_networks:three", checkpoints=states, size=16)
    settings = Settings(
        region_images=12, importance_evals=3, regional_evals=3, keep_features=keep_features
    )
    with (
        mock.patch("emergence_ext.run.strength.TEMPERATURES", (1.0, 2.0)),
        mock.patch("emergence_ext.store.filling.SHARD_BYTES", 1),  # a batch
        mock.patch("emergence_ext.method.blocks.BLOCK", 5),
    ):
        run(replace(spec.load(), batch_size=7), folder / out, settings, alphas=[1.0])


def images(folder: Path, root: Path, max_memory: int, others: bool) -> tuple[Any, ...]:
    """Read a folder of images, of which each process checks a part; perhaps the last sees more."""
    if others and parallel.rank() == parallel.world() - 1:
        root = Path(shutil.copytree(root, folder / "copy"))
        (root / "red" / "00.png").rename(root / "red" / "more.png")
    with mock.patch("emergence_ext.parallel.TOGETHER", 4000):  # five images
        found = ImageFolder(root, size=16, max_memory=max_memory)
    return found.digest(), found.names, found.labels, found.bad


def see_others(folder: Path) -> None:
    """The last process sees other images."""
    last = parallel.rank() == parallel.world() - 1
    parallel.require_same({"weights": "w", "images": "j" if last else "i"})


def one_fails(folder: Path) -> None:
    """One process meets an error that the others do not."""
    if parallel.rank() == 1:
        raise ValueError("only here")
    parallel.barrier()


def make_and_keep(folder: Path) -> tuple[list[bytes], int]:
    """Make what is not kept, and return it with how often it was made here."""
    made = []

    def make() -> RegionImportance:
        made.append(1)
        data = planted(20)
        return RegionImportance(max_evals=3).fit(data.F, image_similarity(data.z, 8.0))

    fits = [once(folder / "fit", RegionImportance, make, {"weights": "w"}) for _ in range(2)]
    return [_bits(fit.w_) for fit in fits], len(made)
