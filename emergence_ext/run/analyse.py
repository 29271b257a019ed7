"""One run: from a network, its checkpoints and images to a directory of saved results."""

from __future__ import annotations

import json
import logging
import math
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from numbers import Real
from pathlib import Path

import numpy
import torch
from torch import Tensor

from emergence_ext import parallel
from emergence_ext._version import __version__
from emergence_ext.lookup import require_kind
from emergence_ext.network import CheckpointFile, FeatureSet, check_fits
from emergence_ext.ops import build_info, in_words
from emergence_ext.run.emerging import Checkpoint, emergence
from emergence_ext.run.estimators import origins_of_choices, sample_projection
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.folder import STUDY, Config, RunFolder, check_place
from emergence_ext.run.identity import (
    comparable,
    feature_origins,
    file_digest,
    identity,
    thumbnail_origins,
    weights_name,
    weights_of,
)
from emergence_ext.run.plan import Sizes
from emergence_ext.run.results import Emergence
from emergence_ext.run.settle import sample_images, settled
from emergence_ext.run.sources import Source, Streamed, in_state
from emergence_ext.run.strength import (
    ImportanceStrength,
    StrengthEntropy,
    strength_entropy,
    temperatures,
)
from emergence_ext.run.subject import Subject
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.settings import Backend, Settings, with_later
from emergence_ext.store import (
    StoreError,
    content_digest,
    differences,
    digest,
    exists,
    kept,
    locked,
    once,
)

logger = logging.getLogger(__name__)


def run(
    subject: Subject,
    out: Path | str,
    settings: Settings | None = None,
    *,
    alphas: Sequence[float] = (),
    backend: Backend = "auto",
    command: str = "",
) -> FinishedRun:
    """Analyse a network: features, fits and what was found of them, saved in a directory.

    What a run that was killed had finished is not computed again. `report.write` makes tables,
    figures and a page of what is saved. Where `torchrun` started several processes, or the caller
    a process group, all of them call this, share the work, and get the same to the last bit.

    Args:
        subject: network and images.
        out: the run directory; made if it is not there.
        settings: of the fits.
        alphas: further weights of the alignment, compared in the last layer.
        backend: what matches regions, see `backend.choose`. A run may go on with another one.
        command: how the run was asked for, kept with the results.

    Raises:
        ValueError: `out` holds another run, or something about the network or images does not fit,
            or an unknown backend, or processes of a job see other images, weights or settings.
        RuntimeError: a backend that cannot compute here, or a process of the job that ended.
        StoreError: a stored result is damaged.
        OSError: what it writes does not fit on the disk.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> subject = ee.FinishedRun.open("runs/demo").subject()
        >>> settings = run.Settings(region_images=12, importance_evals=2, regional_evals=2)
        >>> run.run(subject, "runs/short", settings).emergence.labels
        ['epoch 0', 'epoch 2', 'epoch 12']
    """
    settings = settings or Settings()
    require_kind(subject=(subject, Subject), settings=(settings, Settings))
    check_place(out, None if subject.spec is None else subject.spec.data)
    folder = RunFolder(Path(out))
    for state in subject.checkpoints:  # before the first of them costs anything
        check_fits(subject.module, state.path)
    # Features are kept on the CPU, whatever the network runs on.
    logger.info("regions are matched by %s", in_words(backend))
    logger.info("%s", settings.in_words)
    dataset = subject.dataset
    settings = settled(settings, torch.tensor(dataset.labels), dataset.categories)
    check_alphas(alphas)
    with parallel.job(), locked(folder.path):
        return _analyse(subject, folder, settings, alphas, backend, command)


def _analyse(
    subject: Subject,
    folder: RunFolder,
    settings: Settings,
    alphas: Sequence[float],
    backend: Backend,
    command: str,
) -> FinishedRun:
    """Make a run in a directory that is held."""
    asked = _config(subject, settings, alphas, backend, command, folder.path)
    parallel.require_same({**asked.hashes, "settings": digest(json.dumps(asked.settings))})
    config = parallel.first(lambda: _claim(folder, asked))
    states: Sequence[CheckpointFile | None] = subject.checkpoints or [None]
    many = False  # of what an earlier run began with, all features are kept
    if not exists(folder.features(_label(states[-1]))):
        sizes = Sizes.of(subject, settings)
        sizes.require_dim()
        sizes.require_space(folder.path)
        many = sizes.streamed
    checkpoints = [
        _checkpoint(subject, state, folder, config, settings if many else None) for state in states
    ]
    results = emergence(checkpoints, settings, folder=folder.fits.path, backend=backend)
    made_from = folder.origins(results.labels, results.layers)
    parallel.first(lambda: results.save(folder.emergence, made_from))
    once(
        folder.thumbnails,
        Thumbnails,
        lambda: Thumbnails.of(subject, results.grid, results.sampled if many else None),
        thumbnail_origins(config),
    )
    missing = _strengths(checkpoints[-1].source(), results.held_out, settings, folder)
    finished = FinishedRun(
        folder.path,
        replace(
            config,
            results={"emergence": content_digest(folder.emergence)},
            git=_git_state(),
            categories=results.categories,
            checkpoints=[
                {"label": label, "epoch": epoch, "accuracy": results.accuracy(t)}
                for t, (label, epoch) in enumerate(zip(results.labels, results.epochs, strict=True))
            ],
            bad_images=[list(entry) for entry in subject.dataset.bad],
            warnings=missing,
        ),
    )
    computed = _computed(results, finished.other_alphas(backend))
    finished.config.settings["backend"]["computed"] = computed
    parallel.first(lambda: finished.config.write(folder.config))
    return finished


def check_alphas(alphas: Sequence[float]) -> None:
    """Refuse weights of the alignment that are none.

    Raises:
        TypeError: no list of them.
        ValueError: names one.
    """
    if not isinstance(alphas, Iterable) or isinstance(alphas, str):
        raise TypeError(f"alphas: expected a list of numbers, got {alphas!r}")
    for alpha in alphas:
        if not isinstance(alpha, Real) or not 0 <= float(alpha) < math.inf:
            raise ValueError(f"alphas: expected numbers of at least 0, got {alpha!r}")


def _config(
    subject: Subject,
    settings: Settings,
    alphas: Sequence[float],
    backend: str,
    command: str,
    folder: Path,
) -> Config:
    """What is known of a run before it begins."""
    spec = subject.spec
    # What a reader wants to know of the network beside its layers.
    shown = {} if spec is None else {k: getattr(spec, k) for k in ("model", "size", "preprocess")}
    return Config(
        command=command,
        settings={
            **asdict(settings),
            "alphas": list(alphas),
            "modules": dict(subject.layers),
            "outputs": None if subject.outputs is None else list(subject.outputs),
            "precision": subject.precision,
            "backend": {"asked": backend},
            **({} if subject.masks is None else {"regions": "only those on the objects"}),
            **shown,
        },
        subject=None if spec is None else spec.settings(folder),
        hashes=_hashes(subject),
        layers=list(subject.layers),
        versions=_versions(),
    )


def _hashes(subject: Subject) -> dict[str, str]:
    """Digests of all that the results depend on."""
    states: Sequence[CheckpointFile | None] = subject.checkpoints or [None]
    hashes = {weights_name(x): weights_of(subject, x) for x in states}
    if subject.spec is not None and subject.spec.weights:
        hashes["weights file"] = file_digest(Path(subject.spec.weights))
    return {**hashes, **identity(subject)}


def _label(state: CheckpointFile | None) -> str:
    return "network" if state is None else state.label


def _checkpoint(
    subject: Subject,
    state: CheckpointFile | None,
    folder: RunFolder,
    config: Config,
    many: Settings | None,
) -> Checkpoint:
    """One state of the network, or the network as it is, its features kept in the directory.

    With settings, there are many images, and of those fits choose by them.
    """
    label, epoch = _label(state), 0 if state is None else state.epoch
    path = folder.features(label)
    made_from = feature_origins(config.hashes, weights_name(state))
    if many is not None:
        source = Streamed(subject, state, folder, label, made_from, many)
        return Checkpoint(label, epoch, lambda: source)

    def make() -> FeatureSet:
        with in_state(subject.module, state):
            return subject.extract(keep=path, made_from=made_from)

    return Checkpoint(label, epoch, lambda: kept(path, FeatureSet, made_from) or make())


def _strengths(last: Source, held_out: Tensor, settings: Settings, folder: RunFolder) -> list[str]:
    """Keep strength against entropy at several temperatures; return why there is none at others."""
    seed = settings.random_state
    some = sample_images(held_out, last.y, settings) if isinstance(last, Streamed) else None
    chosen = torch.arange(len(last.y)) if some is None else some
    f, z, features = last.samples(chosen)
    y = last.y[chosen]
    origins = {
        "features": features, "dim": str(settings.dim), "random_state": str(seed),
        **origins_of_choices(settings),
    }  # fmt: skip
    every = temperatures(settings.temperature)

    def missing() -> list[float]:
        return [t for t in every if kept(folder.strength(t), StrengthEntropy, origins) is None]

    fit = partial(sample_projection, settings)
    reasons: dict[float, str] = {}
    wanted = parallel.first(missing)
    # Alone, each is kept as soon as it is done; the processes of a job share all at once.
    for together in [wanted] if parallel.world() > 1 else [[t] for t in wanted]:
        found = strength_entropy(f, z, y, together, make=fit, random_state=seed)
        for temperature, study in found.items():
            if isinstance(study, str):
                reasons[temperature] = study
            elif parallel.leads():
                replace(study, images=some).save(folder.strength(temperature), origins)
    parallel.barrier()
    if settings.temperature in reasons:
        raise ValueError(reasons[settings.temperature])
    return [f"No correlation at temperature {t:g}: {_fact(why)}" for t, why in reasons.items()]


def _fact(reason: str) -> str:
    """What an error says without its argument and its advice: nobody asked for that temperature."""
    return reason.partition(". ")[0].removeprefix("z: ")


def _computed(results: Emergence, others: Sequence[ImportanceStrength]) -> str:
    """What matched regions in all fits: those that were kept may be of another backend."""
    stats = [x for name, x in results.fits.items() if not name.startswith("samples/")]
    stats += [x.projection.stats_ for x in others]
    return ", ".join(sorted({x.backend or "not recorded" for x in stats}))


def _claim(folder: RunFolder, config: Config) -> Config:
    """Take the directory for this run, unless it holds results of another; return what it is of.

    While a run is not finished, settings of its fits may change: features are kept, and every fit
    knows what it was made from.
    """
    if not folder.holds_results:
        config.write(folder.config)
        return config
    try:
        there = Config.read(folder.config)
    except (StoreError, FileNotFoundError) as error:
        raise StoreError(
            f"out: {folder.path} holds results, but its config.json does not say of what "
            f"({error}). Choose another directory, or remove that one."
        ) from error
    if there.digested:
        python = there.versions.get("python")
        hashes = comparable(there.hashes, config.hashes, python)
        if hashes != config.hashes:
            versions = {**config.versions, "python": python}
            config = replace(config, hashes=hashes, versions=versions)
    fits, other = _differences(there, config)
    if other or (fits and (there.results or exists(folder.emergence))):
        raise ValueError(
            f"out: {folder.path} holds another run, which differs in {', '.join(fits + other)}. "
            "Choose another directory, or remove that one."
        )
    if fits:
        logger.warning(
            "the run that was begun in %s is made with other settings: %s. Its features are kept.",
            folder.path,
            ", ".join(fits),
        )
        (folder.fits.path / STUDY).unlink(missing_ok=True)
        config.write(folder.config)
    return config


def _differences(there: Config, now: Config) -> tuple[list[str], list[str]]:
    """What another run has set otherwise, in words: of the fits, and of all else."""
    new = json.loads(json.dumps(now.settings))  # as JSON gives it back
    old = with_later(there.settings)
    different = {
        name: f"{name} ({old.get(name)} there, {new.get(name)} now)"
        for name in sorted({*old, *new} - {"backend"})  # results are the same but for rounding
        if old.get(name) != new.get(name)
    }
    of_fits = {*Settings.__dataclass_fields__, "alphas"}
    hashes = differences(there.hashes, now.hashes) if there.digested else []
    layers = ["layers"] if there.layers != now.layers else []
    other = [text for name, text in different.items() if name not in of_fits]
    return (
        [text for name, text in different.items() if name in of_fits],
        list(dict.fromkeys([*other, *hashes, *layers])),
    )


def _versions() -> dict[str, str | None]:
    return {
        "emergence_ext": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "instruction set": build_info().get("instruction_set"),
    }


def _git_state() -> str:
    """Commit of the package's own checkout, and whether it was changed; empty outside of one."""
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
