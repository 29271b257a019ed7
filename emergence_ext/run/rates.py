"""What a run takes, measured on few images: seconds of an image, of an evaluation, of a byte."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.data import ArraySamples, ImageFiles, Samples, take
from emergence_ext.method import (
    SampleProjection,
    image_similarity,
    solve_kappa_p,
)
from emergence_ext.run.estimators import (
    region_importance,
    regional_projection,
    sample_projection,
)
from emergence_ext.run.plan import Sizes
from emergence_ext.run.sources import in_state
from emergence_ext.run.strength import temperatures
from emergence_ext.run.subject import Subject
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import fill_rows, load_arrays, save_rows

Clock = Callable[[], float]

BATCHES: Final = 4
"""Batches of images that are looked at; the first warms up."""

SAMPLES: Final = 400
"""Rows of the sample features on which M is timed."""

WORK: Final = 1e9
"""Products of channels in an evaluation of w and v or of Lambda that is timed, at most."""

LEAST: Final = 12
"""Images in one, at least."""

EVALUATIONS: Final = 4
"""Of those; the first warms up."""

STEPS: Final = 24
"""Of gradient descent for Lambda, each of one image against some, in place of those."""

WRITTEN: Final = 2**23
"""Bytes that are written to time it."""


@dataclass(frozen=True)
class Curve:
    """Seconds `a + c n^power` of something that `n` things take part in."""

    a: float
    c: float
    power: int = 1

    def __call__(self, n: float) -> float:
        """Return the seconds of `n`."""
        return self.a + self.c * float(n) ** self.power

    @classmethod
    def through(cls, sizes: Sequence[int], seconds: Sequence[float], power: int = 1) -> Self:
        """Lay it through what two sizes took, neither part of it negative; of one size, `c n^p`."""
        (m, n), (first, second) = (x**power for x in sizes), seconds
        c = (second - first) / (n - m) if n > m else second / n
        c = min(max(c, 0), second / n)
        return cls(max(0.0, second - c * n), c, power)


@dataclass(frozen=True)
class Rates:
    """What the parts of a run take here.

    Attributes:
        read: an image, to be read and digested.
        hold: a network, to be held ready.
        image: an image, through the network, with its reading where that is done again.
        project: an image, to be projected in all layers.
        write: a byte, to be written to disk and read again.
        kappa_p: of images.
        rounds: of a fit of M; by gradient descent all that it may take, from one start.
        round: one of these, of images.
        importance, regional: layer -> one evaluation of loss and gradient, of images; by gradient
            descent Lambda's is that of one image against so many.
        thumbnail: of images.
        pixels: bytes of an image that is held in memory once it is decoded.
        resident: bytes of memory that the process had at most, measuring.
        gpu: bytes of a GPU's memory that torch held at most for the network and a batch; 0 where
            the network runs on none. Nothing else of a run is there.
    """

    read: float
    hold: float
    image: float
    project: float
    write: float
    kappa_p: Curve
    rounds: float
    round: Curve
    importance: Mapping[str, Curve]
    regional: Mapping[str, Curve]
    thumbnail: Curve
    pixels: int
    resident: int
    gpu: int = 0

    @classmethod
    def measure(
        cls,
        subject: Subject,
        sizes: Sizes,
        settings: Settings,
        backend: Backend = "auto",
        clock: Clock = time.perf_counter,
    ) -> Self:
        """Measure them on the first images that can be read, evenly chosen.

        Nothing is written but some MiB for temporary files.

        Args:
            subject, settings, backend: as of `run`.
            sizes: of the run.
            clock: seconds.
        """
        dataset = subject.dataset
        some = take(dataset, _readable(dataset, BATCHES * subject.batch_size))
        read = _timed(some.digest, clock) / len(some)
        again, pixels = some, 0
        if isinstance(dataset, ImageFiles) and dataset.kept:
            # A run decodes these once, before all else.
            images = torch.stack([*some.read(range(len(some)))])
            again = ArraySamples(images, some.labels, some.categories, some.names)
            pixels = images[0].numel()
        part = replace(subject, dataset=again)
        if _on_gpu(subject.device):
            torch.cuda.reset_peak_memory_stats(subject.device)
        with in_state(subject.module, [None, *subject.checkpoints][-1]):
            hold, image, grid, arrays = _network(part, clock)
        f, z = (_as_many(arrays[name], SAMPLES) for name in "fz")
        rounds, round_, samples = _of_samples(f, z, len(some), settings, clock)
        layers = {name: arrays[f"layers/{name}"] for name in sizes.layers}
        importance, regional = {}, {}
        for name, F in layers.items():
            importance[name], regional[name] = _of_regions(
                F, samples, sizes.region_images, settings, backend, clock
            )
        return cls(
            read=read,
            hold=hold,
            image=image,
            project=_project(layers, sizes.dim, clock),
            write=_write(sizes, clock),
            kappa_p=_of_kappa_p(sizes, clock),
            rounds=rounds,
            round=round_,
            importance=importance,
            regional=regional,
            thumbnail=_of_thumbnails(part, grid, clock),
            pixels=pixels,
            resident=_resident(),
            gpu=_of_gpu(subject.device),
        )


def _readable(dataset: Samples, count: int) -> list[int]:
    """Places of so many images that can be read, at even distances, in their order."""
    N = len(dataset)
    chosen = []
    for k in range(min(count, N)):
        try:
            dataset[k * N // min(count, N)]
        except Exception:  # of damaged files, decoders raise nearly anything; a run lists them
            continue
        chosen.append(k * N // min(count, N))
    return chosen or [0]


def _network(
    subject: Subject, clock: Clock
) -> tuple[float, float, tuple[int, int], dict[str, Tensor]]:
    """Seconds to hold a network, and of an image through it; its grid, and arrays of images."""
    begun = clock()
    parts: dict[str, list[Tensor]] = {}
    with subject.stream() as stream, closing(stream.batches()) as batches:
        hold, grid = clock() - begun, stream.grid
        ends: list[float] = []
        counts: list[int] = []
        for batch, arrays in batches:
            ends.append(clock())
            counts.append(batch.stop - batch.start)
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array.cpu())
    if len(ends) > 1:
        image = (ends[-1] - ends[0]) / sum(counts[1:])
    else:
        image = (ends[0] - begun - hold) / counts[0]
    return hold, image, grid, {name: torch.cat(arrays) for name, arrays in parts.items()}


def _of_samples(
    f: Tensor, z: Tensor, own: int, settings: Settings, clock: Clock
) -> tuple[float, Curve, SampleProjection]:
    """Rounds that a fit of M takes, new starts among them, seconds of a round, and a fit.

    How many rounds there are is chance: it is their mean over some fits, of the first `own` images,
    which are the network's own, and of all.
    """
    C, E = z.shape[1], f.shape[1]
    y, random = torch.arange(len(f)) % C, torch.Generator().manual_seed(0)
    # Categories that are easily told apart, so that no start collapses.
    clear = 4 * torch.randn(C, E, generator=random)[y] + torch.randn(len(f), E, generator=random)
    logits = 6 * torch.nn.functional.one_hot(y, C).float()
    seed = settings.random_state
    fitted = SampleProjection(settings.dim, max_rounds=2, tol=-1, random_state=seed)
    fitted.fit(clear, logits)  # warms up, too
    by_steps = settings.solver == "sgd"
    counts, seconds = [len(f) // 2, len(f)], []
    for count in counts:
        timed = sample_projection(settings) if by_steps else SampleProjection(settings.dim)
        timed.set_params(max_rounds=2, tol=-1, random_state=seed)
        init = fitted if by_steps else None  # from which gradient descent does not collapse
        seconds.append(_timed(partial(timed.fit, clear[:count], logits[:count], init), clock) / 2)
    round_ = Curve.through(counts, seconds)
    if by_steps:
        return float(sample_projection(settings).max_rounds), round_, fitted
    rounds = []
    with _quietly("emergence_ext.method.sample"):
        for temperature, count in product(temperatures(settings.temperature), (own, len(f))):
            projection = sample_projection(settings, temperature)
            begun = clock()
            with suppress(ValueError):  # collapsed from all starts: that takes its time, too
                projection.fit(f[:count], z[:count])
            rounds.append((clock() - begun) / round_(count))
    return sum(rounds) / len(rounds), round_, fitted


class _Enough(Exception):
    """Ends a fit that has been timed."""


def _of_regions(
    F: Tensor,
    samples: SampleProjection,
    most: int,
    settings: Settings,
    backend: Backend,
    clock: Clock,
) -> tuple[Curve, Curve]:
    """Seconds of an evaluation of w and v, and of Lambda, by the number of images."""
    R, K = F.shape[1:]
    frame = samples.frame_
    all_pairs = replace(settings, pairs=None)

    def importance(n: int, step: Any) -> None:
        fit = region_importance(all_pairs, backend)
        fit.fit(_as_many(F, n), image_similarity(_drawn(n), 1.0), step=step)

    def regional(n: int, step: Any) -> None:
        fit = regional_projection(all_pairs, frame, backend)
        P, w = image_similarity(_drawn(n), 1.0), torch.full((n, R), 1 / R)
        v = torch.full((n, F.shape[-1]), 1 / F.shape[-1])
        fit.fit(_as_many(F, n), w, P, _drawn(n, settings.dim), step=step, v=v)

    if settings.pairs is not None:
        most = min(most, settings.pairs + 1)
    by_steps = settings.solver == "sgd"
    curves = []
    for fit, width, of_one in ((importance, K, False), (regional, settings.dim, by_steps)):
        large = min(most, max(LEAST, int((WORK / (R * R * width)) ** 0.5)))
        counts = [max(2, large // 2), large]
        steps = STEPS if of_one else EVALUATIONS
        seconds = [_evaluation(fit, n, steps, clock) for n in counts]
        curves.append(Curve.through(counts, seconds, power=1 if of_one else 2))
    return curves[0], curves[1]


def _evaluation(fit: Callable[[int, Any], None], n: int, steps: int, clock: Clock) -> float:
    """Seconds of one evaluation of a fit of `n` images, the solver's work between two included."""
    ends: list[float] = []

    def step(number: int, loss: float) -> None:
        ends.append(clock())
        if number == steps:
            raise _Enough

    with suppress(_Enough):
        fit(n, step)
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1)


def _of_kappa_p(sizes: Sizes, clock: Clock) -> Curve:
    """Seconds to solve kappa_p, on drawn logits."""
    C = min(sizes.categories, 10)
    large = max(4 * C, min(sizes.samples, 600))
    counts = [large // 2, large]

    def solve(n: int) -> None:
        y = torch.nn.functional.one_hot(torch.arange(n) % C, C)
        solve_kappa_p(6 * y + _drawn(n, C))

    return Curve.through(counts, [_timed(partial(solve, n), clock) for n in counts], power=2)


def _of_thumbnails(subject: Subject, grid: tuple[int, int], clock: Clock) -> Curve:
    n = len(subject.dataset)
    counts = [max(1, n // 4), n]
    seconds = [
        _timed(partial(Thumbnails.of, subject, grid, torch.arange(k)), clock) for k in counts
    ]
    return Curve.through(counts, seconds)


def _project(layers: Mapping[str, Tensor], dim: int, clock: Clock) -> float:
    """Seconds of an image to be projected in all layers, to half precision."""

    def project() -> None:
        for F in layers.values():
            (F @ torch.ones(dim, F.shape[-1]).t()).half()

    project()
    return _timed(project, clock) / len(next(iter(layers.values())))


def _write(sizes: Sizes, clock: Clock) -> float:
    """Seconds of a byte to be written in a shard, and read again."""
    rows = max(1, min(WRITTEN // sizes.feature_bytes, 1024))
    array = torch.zeros(rows, sizes.feature_bytes // 4)

    def write(path: Path) -> None:
        fill_rows(path, {}, rows, rows, lambda _: [(slice(0, rows), {"x": array})])
        save_rows(path, {}, kind="Probe", made_from={})
        load_arrays(path, kind="Probe")

    with tempfile.TemporaryDirectory() as folder:
        return _timed(lambda: write(Path(folder) / "probe"), clock) / array.nbytes


def _as_many(x: Tensor, count: int) -> Tensor:
    """`count` rows of an array, again and slightly changed where it has fewer."""
    rows = x[torch.arange(count) % len(x)]
    change = 1 + 0.05 * _drawn(count).abs()
    change[: len(x)] = 1
    return rows * change.view(-1, *[1] * (x.ndim - 1))


def _drawn(*shape: int) -> Tensor:
    """Random numbers, `[n, 1]` where no width is given."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape if len(shape) > 1 else (*shape, 1), generator=generator)


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Keep a logger from warning of what is tried."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _timed(work: Callable[[], object], clock: Clock) -> float:
    begun = clock()
    work()
    return clock() - begun


def _on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _of_gpu(device: str) -> int:
    """Bytes that torch has taken of a GPU at most, those included that it keeps to give again."""
    return torch.cuda.max_memory_reserved(device) if _on_gpu(device) else 0


def _resident() -> int:
    """Bytes of memory that this process has had at most."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
