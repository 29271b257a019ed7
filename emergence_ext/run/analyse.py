"""One run: from a network, its checkpoints and images to a directory of results and a report."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy
import torch

from emergence_ext._version import __version__
from emergence_ext.method import SampleProjection, image_similarity
from emergence_ext.network import CheckpointFile, FeatureSet, extract, load_weights
from emergence_ext.ops import build_info, in_words
from emergence_ext.run.emerging import Checkpoint, Emergence, emergence, file_name
from emergence_ext.run.strength import (
    ImportanceStrength,
    StrengthEntropy,
    importance_strength,
    strength_entropy,
)
from emergence_ext.run.subject import Subject
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import StoreError, once, write_file

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
TEMPERATURES: Final = (1.0, 2.0, 4.0)


def run(
    subject: Subject,
    out: Path,
    settings: Settings | None = None,
    *,
    alphas: Sequence[float] = (),
    backend: Backend = "auto",
    command: str = "",
) -> Path:
    """Analyse a network: features, fits, tables, figures and `report.html` in a directory.

    What a run that was killed had finished is not computed again.

    Args:
        subject: network and images.
        out: the run directory; made if it is not there.
        settings: of the fits.
        alphas: further weights of the alignment, compared in the last layer.
        backend: what matches regions, see `backend.choose`. A run may go on with another one.
        command: how the run was asked for, kept with the results.

    Returns:
        The path of the report.

    Raises:
        ValueError: `out` holds another run, or something about the network or images does not fit,
            or an unknown backend.
        RuntimeError: a backend that cannot compute here.
        StoreError: a stored result is damaged.
    """
    # For this one move: the report follows and takes them over.
    from emergence_ext.report import drawing, tables
    from emergence_ext.report.html import write_report

    settings = settings or Settings()
    # Features are kept on the CPU, whatever the network runs on.
    logger.info("regions are matched by %s", in_words(backend))
    config = {
        "format_version": FORMAT_VERSION,
        "command": command,
        "settings": {
            **asdict(settings),
            "alphas": list(alphas),
            "modules": dict(subject.layers),
            "outputs": None if subject.outputs is None else list(subject.outputs),
            "precision": subject.precision,
            "backend": {"asked": backend},
            **_described(subject),
        },
        "subject": None if subject.spec is None else subject.spec.settings(),
        "hashes": _hashes(subject),
        "layers": list(subject.layers),
    }
    config = json.loads(json.dumps(config))
    _claim(out, config)
    states: Sequence[CheckpointFile | None] = subject.checkpoints or [None]
    checkpoints = [_checkpoint(subject, state, out) for state in states]
    found = emergence(checkpoints, settings, folder=out / "fits", backend=backend)
    found.save(out / "fits" / "emergence")
    last = checkpoints[-1].features()
    strength, collapsed = _strengths(last, settings, out / "fits" / "temperatures")
    own = next(s for s in strength if s.temperature == settings.temperature)
    sweep = _sweep(found, last, alphas, settings, backend, out / "fits") if alphas else []
    config["settings"]["backend"]["computed"] = _computed(found, sweep)
    warnings = _warnings(found) + collapsed
    for warning in warnings:
        logger.warning(warning)
    rows = {
        "correlations": tables.correlations(strength),
        "importance": tables.importance(found, settings.alpha, sweep),
        "knowledge": tables.knowledge(found),
        "similarity": tables.similarity(found),
        "fits": tables.fits(found),
        "images": tables.images(found),
    }
    for name, table in rows.items():
        tables.write(out / "tables" / f"{name}.csv", table)
    drawing.draw_all(out / "figures", found, own, subject.dataset)
    _write_config(
        out,
        {
            **config,
            "versions": _versions(),
            "git": _git_state(),
            "categories": found.categories,
            "checkpoints": [
                {"label": label, "epoch": epoch, "accuracy": found.accuracy(t)}
                for t, (label, epoch) in enumerate(zip(found.labels, found.epochs, strict=True))
            ],
            "bad_images": [list(entry) for entry in subject.dataset.bad],
            "warnings": warnings,
            "headline": _headline(found, own, rows["importance"]),
        },
    )
    return write_report(out)


def _described(subject: Subject) -> dict[str, Any]:
    """What a reader wants to know of the network beside its layers."""
    if subject.spec is None:
        return {}
    return {name: getattr(subject.spec, name) for name in ("model", "size", "preprocess")}


def _checkpoint(subject: Subject, state: CheckpointFile | None, out: Path) -> Checkpoint:
    """One state of the network, or the network as it is, its features kept in the directory."""
    label = "network" if state is None else state.label

    def make() -> FeatureSet:
        kept = None
        if state is not None:
            kept = {name: x.clone() for name, x in subject.module.state_dict().items()}
            load_weights(subject.module, state.path)
        try:
            return extract(
                subject.module,
                subject.dataset,
                subject.layers,
                preprocess=subject.preprocess,
                outputs=subject.outputs,
                precision=subject.precision,
                batch_size=subject.batch_size,
                device=subject.device,
            )
        finally:
            if kept is not None:
                subject.module.load_state_dict(kept)

    path = out / "features" / file_name(label)
    return Checkpoint(
        label, 0 if state is None else state.epoch, lambda: once(path, FeatureSet, make)
    )


def _strengths(
    last: FeatureSet, settings: Settings, folder: Path
) -> tuple[list[StrengthEntropy], list[str]]:
    """Strength against entropy at several temperatures, and why there is none at others."""
    seed = settings.random_state

    def make(temperature: float) -> SampleProjection:
        return SampleProjection(dim=settings.dim, temperature=temperature, random_state=seed)

    found, missing = [], []
    for temperature in sorted({*TEMPERATURES, settings.temperature}):

        def study(t: float = temperature) -> StrengthEntropy:
            return strength_entropy(last.f, last.z, last.y, t, make=make, random_state=seed)

        try:
            found.append(once(folder / f"{temperature:g}", StrengthEntropy, study))
        except ValueError as error:
            if temperature == settings.temperature or isinstance(error, StoreError):
                raise
            missing.append(f"No correlation at temperature {temperature:g}: {error}")
    return found, missing


def _sweep(
    found: Emergence,
    last: FeatureSet,
    alphas: Sequence[float],
    settings: Settings,
    backend: Backend,
    folder: Path,
) -> list[ImportanceStrength]:
    """Further alphas in the last layer of the finished network."""
    chosen = found.region_images
    P = image_similarity(
        last.z[chosen], found.frame.solved_kappa_p, include_self=settings.include_self
    )
    return importance_strength(
        last.layers[found.layers[-1]][chosen],
        found.w[-1, -1],
        P,
        found.g[-1, chosen],
        found.frame,
        alphas,
        max_evals=settings.regional_evals,
        include_self=settings.include_self,
        backend=backend,
        folder=folder / "alphas",
    )


def _computed(found: Emergence, sweep: Sequence[ImportanceStrength]) -> str:
    """What matched regions in all fits: those that were kept may be of another backend."""
    stats = [x for name, x in found.fits.items() if not name.startswith("samples/")]
    stats += [x.projection.stats_ for x in sweep]
    return ", ".join(sorted({x.backend or "not recorded" for x in stats}))


def _claim(out: Path, config: Mapping[str, Any]) -> None:
    """Take the directory for this run, unless it holds results of another."""
    if not any((out / part).is_dir() for part in ("features", "fits")):
        _write_config(out, config)
        return
    different = _differences(_read_config(out / "config.json"), config)
    if different:
        raise ValueError(
            f"out: {out} holds another run, which differs in {', '.join(different)}. "
            "Choose another directory, or remove that one."
        )


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What another run has set otherwise, in words."""
    old, new = there.get("settings", {}), now["settings"]
    found = [
        f"{name} ({old.get(name)} there, {new.get(name)} now)"
        for name in sorted({*old, *new} - {"backend"})  # results are the same but for rounding
        if old.get(name) != new.get(name)
    ]
    hashes = there.get("hashes", {})
    found += [name for name, value in now["hashes"].items() if hashes.get(name) != value]
    return found + [name for name in ("layers", "format_version") if there.get(name) != now[name]]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"out: {path.parent} holds results, but {path.name} does not say of what ({error}). "
            "Choose another directory, or remove that one."
        ) from error
    if not isinstance(config, dict):
        raise StoreError(f"out: {path} holds a {type(config).__name__}, no configuration of a run")
    return config


def _write_config(out: Path, config: Mapping[str, Any]) -> None:
    write_file(out / "config.json", json.dumps(config, indent=1, allow_nan=False).encode())


def _headline(
    found: Emergence, strength: StrengthEntropy, importance: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The numbers at the top of the report."""
    count = found.points().subset(found.held_out).count()
    first = found.points(0, -1).subset(found.held_out).count()
    shallow = found.points(-1, 0).subset(found.held_out).count()
    per_image = 1 / count.images
    numbers: dict[str, dict[str, Any]] = {
        "accuracy": {
            "value": 100 * found.accuracy(),
            "unit": "%",
            "explain": f"of the finished network on the {len(found.y)} images analysed",
        },
        "strength and uncertainty": {
            "value": strength.r,
            "explain": "Pearson of |g| with the entropy, on images that were not fitted; "
            f"PCA {strength.pca_r:.2f}; mean entropy {strength.mean_entropy:.2f} nats",
        },
        "knowledge points per image": {
            "value": count.total.value * per_image,
            "low": count.total.low * per_image,
            "high": count.total.high * per_image,
            "explain": f"in {found.layers[-1]}, of {found.grid[0] * found.grid[1]} regions, on "
            "held-out images",
        },
        "strength and importance": {
            "value": importance[len(found.layers) - 1]["Pearson of |h| with w, mean"],
            "explain": f"mean Pearson of |h| with w in {found.layers[-1]}; of |F| "
            f"{importance[len(found.layers) - 1]['Pearson of |F| with w, mean']:.2f}",
        },
    }
    if count.ratio is not None:
        before = [
            f"{100 * other.ratio.value:.0f} % in {where}"
            for other, where, there in (
                (shallow, found.layers[0], len(found.layers) > 1),
                (first, f"checkpoint {found.labels[0]}", len(found.labels) > 1),
            )
            if there and other.ratio is not None
        ]
        numbers["reliable ratio"] = {
            "value": 100 * count.ratio.value,
            "low": 100 * count.ratio.low,
            "high": 100 * count.ratio.high,
            "unit": "%",
            "explain": "of those points speak for the true category" + "; ".join(["", *before]),
        }
    return {
        name: {k: None if isinstance(v, float) and v != v else v for k, v in entry.items()}
        for name, entry in numbers.items()
    }


def _warnings(found: Emergence) -> list[str]:
    """What a reader has to know before believing the numbers."""
    warnings = []
    unfinished = [name for name, stats in found.fits.items() if stats.stopped.startswith("reached")]
    if unfinished:
        warnings.append(
            f"{len(unfinished)} of {len(found.fits)} fits ended at their limit of evaluations and "
            "not at their tolerance; the table of fits names them."
        )
    uncertainty = float(found.entropy().mean())
    if uncertainty < 0.15:
        warnings.append(
            f"The network is very sure (mean entropy {uncertainty:.2f} nats): strength can hardly "
            "correlate with an entropy that hardly varies. Look at the higher temperatures."
        )
    if len(found.region_images) < 100:
        warnings.append(
            f"Regions were learned on only {len(found.region_images)} images; below 100 they "
            "over-fit."
        )
    return warnings


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
