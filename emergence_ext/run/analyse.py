"""One run: from a network, its checkpoints and images to a directory of saved results."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy
import torch

from emergence_ext._version import __version__
from emergence_ext.method import SampleProjection
from emergence_ext.network import CheckpointFile, FeatureSet, check_fits, load_weights
from emergence_ext.ops import build_info, in_words
from emergence_ext.run.emerging import Checkpoint, Emergence, emergence
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.folder import Config, RunFolder
from emergence_ext.run.strength import (
    ImportanceStrength,
    StrengthEntropy,
    strength_entropy,
    temperatures,
)
from emergence_ext.run.subject import Subject
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import StoreError, once

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
    figures and a page of what is saved.

    Args:
        subject: network and images.
        out: the run directory; made if it is not there.
        settings: of the fits.
        alphas: further weights of the alignment, compared in the last layer.
        backend: what matches regions, see `backend.choose`. A run may go on with another one.
        command: how the run was asked for, kept with the results.

    Raises:
        ValueError: `out` holds another run, or something about the network or images does not fit,
            or an unknown backend.
        RuntimeError: a backend that cannot compute here.
        StoreError: a stored result is damaged.
    """
    settings, folder = settings or Settings(), RunFolder(Path(out))
    for state in subject.checkpoints:  # before the first of them costs anything
        check_fits(subject.module, state.path)
    # Features are kept on the CPU, whatever the network runs on.
    logger.info("regions are matched by %s", in_words(backend))
    config = _config(subject, settings, alphas, backend, command)
    _claim(folder, config)
    states: Sequence[CheckpointFile | None] = subject.checkpoints or [None]
    checkpoints = [_checkpoint(subject, state, folder) for state in states]
    results = emergence(checkpoints, settings, folder=folder.fits.path, backend=backend)
    results.save(folder.emergence)
    once(folder.thumbnails, Thumbnails, lambda: Thumbnails.of(subject, results.grid))
    missing = _strengths(checkpoints[-1].features(), settings, folder)
    finished = FinishedRun(
        folder.path,
        replace(
            config,
            versions=_versions(),
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
    finished.config.write(folder.config)
    return finished


def _config(
    subject: Subject, settings: Settings, alphas: Sequence[float], backend: str, command: str
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
            **shown,
        },
        subject=None if spec is None else spec.settings(),
        hashes=_hashes(subject),
        layers=list(subject.layers),
    )


def _checkpoint(subject: Subject, state: CheckpointFile | None, folder: RunFolder) -> Checkpoint:
    """One state of the network, or the network as it is, its features kept in the directory."""
    label = "network" if state is None else state.label

    def make() -> FeatureSet:
        if state is None:
            return subject.extract()
        kept = {name: x.clone() for name, x in subject.module.state_dict().items()}
        load_weights(subject.module, state.path)
        try:
            return subject.extract()
        finally:
            subject.module.load_state_dict(kept)

    path = folder.features(label)
    return Checkpoint(
        label, 0 if state is None else state.epoch, lambda: once(path, FeatureSet, make)
    )


def _strengths(last: FeatureSet, settings: Settings, folder: RunFolder) -> list[str]:
    """Keep strength against entropy at several temperatures; return why there is none at others."""
    seed = settings.random_state

    def make(temperature: float) -> SampleProjection:
        return SampleProjection(dim=settings.dim, temperature=temperature, random_state=seed)

    missing = []
    for temperature in temperatures(settings.temperature):

        def study(t: float = temperature) -> StrengthEntropy:
            return strength_entropy(last.f, last.z, last.y, t, make=make, random_state=seed)

        try:
            once(folder.strength(temperature), StrengthEntropy, study)
        except ValueError as error:
            if temperature == settings.temperature or isinstance(error, StoreError):
                raise
            missing.append(f"No correlation at temperature {temperature:g}: {error}")
    return missing


def _computed(results: Emergence, others: Sequence[ImportanceStrength]) -> str:
    """What matched regions in all fits: those that were kept may be of another backend."""
    stats = [x for name, x in results.fits.items() if not name.startswith("samples/")]
    stats += [x.projection.stats_ for x in others]
    return ", ".join(sorted({x.backend or "not recorded" for x in stats}))


def _claim(folder: RunFolder, config: Config) -> None:
    """Take the directory for this run, unless it holds results of another."""
    if not folder.holds_results:
        config.write(folder.config)
        return
    try:
        there = Config.read(folder.config)
    except (StoreError, FileNotFoundError) as error:
        raise StoreError(
            f"out: {folder.path} holds results, but its config.json does not say of what "
            f"({error}). Choose another directory, or remove that one."
        ) from error
    different = _differences(there, config)
    if different:
        raise ValueError(
            f"out: {folder.path} holds another run, which differs in {', '.join(different)}. "
            "Choose another directory, or remove that one."
        )


def _differences(there: Config, now: Config) -> list[str]:
    """What another run has set otherwise, in words."""
    # As JSON gives it back.
    new, hashes = json.loads(json.dumps([now.settings, now.hashes]))
    old = there.settings
    settings = [
        f"{name} ({old.get(name)} there, {new.get(name)} now)"
        for name in sorted({*old, *new} - {"backend"})  # results are the same but for rounding
        if old.get(name) != new.get(name)
    ]
    return [
        *settings,
        *(name for name, value in hashes.items() if there.hashes.get(name) != value),
        *(["layers"] if there.layers != now.layers else []),
    ]


def _hashes(subject: Subject) -> dict[str, str]:
    """What the results depend on: weights; names, labels and a sample of the network's inputs."""
    weights = hashlib.sha256()
    if subject.checkpoints:
        for checkpoint in subject.checkpoints:
            weights.update(Path(checkpoint.path).read_bytes())
    else:
        for name, x in subject.module.state_dict().items():
            weights.update(name.encode())
            weights.update(
                x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
    images = hashlib.sha256(json.dumps([subject.dataset.names, subject.dataset.labels]).encode())
    for index in range(0, len(subject.dataset), max(1, len(subject.dataset) // 100)):
        image = subject.preprocess(subject.dataset[index][0][None])
        images.update(image.detach().cpu().contiguous().numpy().tobytes())
    return {"weights": weights.hexdigest(), "images": images.hexdigest()}


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
