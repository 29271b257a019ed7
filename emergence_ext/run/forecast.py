"""What a run will take, stage by stage: what is measured on few images, carried to all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import torch

from emergence_ext.lookup import require_kind
from emergence_ext.method import evaluations, is_of_all, parts_of
from emergence_ext.network import check_fits
from emergence_ext.run.analyse import check_alphas
from emergence_ext.run.plan import Sizes
from emergence_ext.run.rates import Clock, Curve, Rates
from emergence_ext.run.settle import settled
from emergence_ext.run.strength import temperatures
from emergence_ext.run.subject import Subject
from emergence_ext.settings import Backend, Settings, require_count
from emergence_ext.store import SHARD_BYTES

FOLDS: Final = 5
"""Of strength against entropy: a fit of M to four fifths of the images for each."""

COPIES: Final = 3
"""Of the features of a layer that a fit holds: as they are, as unit rows, and a gradient's."""

DRAWN: Final = 160 * 2**20
"""Bytes of what draws tables, figures and page, with the largest figure and the page in it."""

WORTH: Final = 0.9
"""Of the seconds of a run: what leaves more of them is no cure."""

Pass = Literal["fit", "stream"]
"""What is learned of some images; or all of them: read, through the network, and kept."""


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: in words.
        of: the pass that it is of.
        seconds: of all checkpoints together.
        memory: bytes of its arrays.
        disk: bytes that it leaves.
        spread: whether two processes of a job share it.

    Examples:
        >>> from emergence_ext import run
        >>> run.Stage("importance", of="regions", seconds=90.0, spread=True).seconds
        90.0
    """

    name: str
    of: Pass
    seconds: float
    memory: int = 0
    disk: int = 0
    spread: bool = False


@dataclass(frozen=True)
class Forecast:
    """What a run will take, without tables, figures and page.

    Attributes:
        sizes: what the numbers follow from.
        settings: of the fits.
        rates: what the parts take here.
        alphas: how many further weights of the alignment are fitted.
        processes: that do it together, each with a core or GPU of its own.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> subject = run.subject_of(net, ee.ImageFolder("photos", size=16, per_class=8), ["0"])
        >>> settings = run.Settings(importance_evals=2, regional_evals=2)
        >>> ahead = run.forecast(subject, "runs/new", settings)
        >>> sum(stage.seconds for stage in ahead.stages) > 0
        True
    """

    sizes: Sizes
    settings: Settings
    rates: Rates
    alphas: int = 0
    processes: int = 1

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All of them, in their order; fits take at most what is said here."""
        alone = [*self._before(), *self._fits(), *self._after()]
        return tuple(
            replace(stage, seconds=stage.seconds / self.processes) if stage.spread else stage
            for stage in alone
        )

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes of all stages."""
        return sum(stage.disk for stage in self.stages)

    @property
    def resident(self) -> int:
        """Bytes that are held all the time: torch, the network, a batch in it, decoded images."""
        return self.rates.resident + self.rates.pixels * self.sizes.images

    @property
    def memory(self) -> int:
        """Bytes at the peak, but for the report."""
        return self.resident + max(stage.memory for stage in self.stages)

    @property
    def report_memory(self) -> int:
        """Bytes at the peak while the report is drawn of what was found of the images in it."""
        x = self.sizes
        found = x.checkpoints * x.shown * x.row_bytes if x.streamed else 0
        rows = 0 if x.streamed else x.checkpoints * x.images * x.row_bytes
        return self.resident + DRAWN + COPIES * (found + rows + x.shown * x.pixels)

    @property
    def passes(self) -> dict[Pass, float]:
        """Seconds of either."""
        return {
            of: sum(stage.seconds for stage in self.stages if stage.of == of)
            for of in ("fit", "stream")
        }

    @property
    def largest(self) -> Stage:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds)

    def cures(self) -> dict[str, float]:
        """What would make the longest stage shorter: an option -> seconds of the whole run then."""
        x, s, name = self.sizes, self.settings, self.largest.name
        found: dict[str, float] = {}
        n = x.region_images
        if name in ("w and v", "Lambda"):
            fewer = max(2, int(n / 2**0.5))
            found[f"--region-images {fewer}"] = self._with(replace(x, region_images=fewer)).seconds
            if is_of_all(s.pairs, n) and n >= 16:
                paired = replace(self, settings=replace(s, pairs=n // 4))
                found[f"--pairs {n // 4}"] = paired.seconds
        elif name in ("M and frame", "kappa_p", "strength against entropy"):
            fewer = max(2 * x.categories, x.samples // 2)
            if fewer < x.samples:
                half = self._with(replace(x, samples=fewer))
                found[f"--sample-images {fewer}"] = half.seconds
        else:
            if x.streamed:
                mib = -(-x.images * x.feature_bytes // 2**20)
                found[f"--keep-features {mib}"] = self._with(replace(x, kept=x.images)).seconds
            half = self._with(replace(x, images=x.images // 2, kept=min(x.kept, x.images // 2)))
            found["half of the images (--per-class)"] = half.seconds
        shared = sum(stage.seconds for stage in self.stages if stage.spread)
        many = {1: "two", 2: "four"}.get(self.processes, "twice as many")
        found[f"torchrun with {many} processes, each with a core or GPU of its own"] = (
            self.seconds - shared / 2
        )
        return {option: took for option, took in found.items() if took < WORTH * self.seconds}

    def _with(self, sizes: Sizes) -> Forecast:
        return replace(self, sizes=sizes)

    def _before(self) -> list[Stage]:
        """Reading, and the features that fits need."""
        x, r, T = self.sizes, self.rates, self.sizes.checkpoints
        disk = x.disk()["features"]
        looked = x.samples + x.kept if x.streamed else x.images
        passes = 2 if x.streamed else 1
        seconds = T * (passes * r.hold + looked * r.image) + disk * r.write
        shard = min(SHARD_BYTES, x.kept * x.feature_bytes)
        # Of an earlier checkpoint features are held beside those of the last.
        held = x.images * x.feature_bytes * min(T, 2)
        return [
            # Of files; a data set of the user's is read by each process.
            Stage("reading of images", "stream", x.images * r.read, spread=True),
            Stage("features of fits", "fit", seconds, 2 * shard, disk, spread=True)
            if x.streamed
            else Stage("features", "stream", seconds, held, disk, spread=True),
        ]

    def _fits(self) -> list[Stage]:
        """What is learned of the frame and of regions."""
        x, r, s, T = self.sizes, self.rates, self.settings, self.sizes.checkpoints
        n, m = x.region_images, x.samples
        held = 0 if x.streamed else x.images * x.feature_bytes * min(T, 2)
        part = n * x.feature_bytes + COPIES * 4 * n * x.regions * max(x.layers.values())
        pairs = 4 * n * n if is_of_all(s.pairs, n) else 0
        last = list(x.layers)[-1]
        spread = parts_of(s.pairs, n) > 1
        by_steps = s.solver == "sgd"
        evals = s.importance_evals
        evals = evals if s.importance_solver == "sgd" else evaluations(evals)
        w_and_v = T * evals * self._evaluation(r.importance)
        also = {last: r.regional[last]}
        if by_steps:  # one image after the other, each against some
            some = n if s.pairs is None else min(n, s.pairs + 1)
            evals = s.regional_evals * n
            regional, other = (sum(x(some) for x in y.values()) for y in (r.regional, also))
        else:
            evals = evaluations(s.regional_evals)
            regional, other = self._evaluation(r.regional), self._evaluation(also)
        kappa_p = r.kappa_p(m) if s.kappa_p is None else 0.0
        return [
            Stage(
                "kappa_p", "fit", kappa_p, held + (4 * m * m if s.kappa_p is None else 0),
                spread=True,
            ),
            Stage(
                "M and frame", "fit", T * r.rounds * r.round(m),
                held + COPIES * 4 * m * (x.width + 2 * x.categories),
            ),
            Stage(
                "w and v", "fit", w_and_v, held + part + pairs, x.disk()["fits"], spread,
            ),
            Stage(
                "Lambda", "fit", evals * (T * regional + self.alphas * other),
                held + part + pairs, 0, spread and not by_steps,
            ),
        ]  # fmt: skip

    def _after(self) -> list[Stage]:
        """What all images are looked at for when the fits are done."""
        x, r, T = self.sizes, self.rates, self.sizes.checkpoints
        disk, rows = x.disk(), x.images * x.row_bytes
        seconds = T * x.images * r.project + disk["rows of all images"] * r.write
        if x.streamed:
            seconds += T * (r.hold + x.images * r.image)
            memory, held, looked = min(SHARD_BYTES, rows), 0, x.samples
        else:
            held = x.images * x.feature_bytes + T * rows
            memory, looked = held + rows, x.images
        fold = (FOLDS - 1) * looked // FOLDS
        return [
            Stage(
                "all images projected", "stream", seconds, memory,
                disk["rows of all images"], spread=x.streamed,
            ),
            Stage(
                "thumbnails", "stream", r.thumbnail(x.shown), held + 2 * disk["thumbnails"],
                disk["thumbnails"], spread=True,
            ),
            Stage(
                "strength against entropy", "fit",
                len(temperatures(self.settings.temperature)) * FOLDS * r.rounds * r.round(fold),
                held + COPIES * 4 * looked * (x.width + 2 * x.categories), spread=True,
            ),
        ]  # fmt: skip

    def _evaluation(self, layers: Mapping[str, Curve]) -> float:
        """Seconds of one evaluation of each layer, in the groups that it is computed in."""
        n, pairs = self.sizes.region_images, self.settings.pairs
        groups = 1 if is_of_all(pairs, n) else parts_of(pairs, n)
        return sum(groups * curve(n / groups) for curve in layers.values())


def forecast(
    subject: Subject,
    out: Path | str,
    settings: Settings | None = None,
    *,
    alphas: Sequence[float] = (),
    backend: Backend = "auto",
    processes: int = 1,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """Predict what a run will take, from what its parts take on few images.

    Nothing is written but some MiB of temporary files.

    Args:
        subject, out, settings, alphas, backend: as of `run`; the images may be listed alone.
        processes: that are to do it together; this one alone measures.
        clock: gives seconds.

    Raises:
        ValueError: as of `run`, where few images show it.
        OSError: what the run writes does not fit on the disk.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> subject = run.subject_of(net, ee.ImageFolder("photos", size=16, per_class=8), ["0"])
        >>> settings = run.Settings(importance_evals=2, regional_evals=2)
        >>> ahead = run.forecast(subject, "runs/new", settings)
        >>> ahead.seconds > 0, ahead.disk > 0
        (True, True)
    """
    require_kind(subject=(subject, Subject), settings=(settings or Settings(), Settings))
    require_count("processes", processes, 1)
    for state in subject.checkpoints:
        check_fits(subject.module, state.path)
    check_alphas(alphas)
    dataset = subject.dataset
    settings = settings or Settings()
    settings = settled(settings, torch.tensor(dataset.labels), dataset.categories)
    sizes = Sizes.of(subject, settings)
    sizes.require_dim()
    sizes.require_space(Path(out))
    rates = Rates.measure(subject, sizes, settings, backend, clock)
    return Forecast(sizes, settings, rates, len(alphas), processes)
