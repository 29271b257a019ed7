"""What the results of a run depend on: a digest of each thing, by a name that an error can say."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

from emergence_ext.lookup import path_named
from emergence_ext.network import CheckpointFile, code_digest, weights_digest
from emergence_ext.run.folder import Config
from emergence_ext.run.subject import Subject
from emergence_ext.store import digest

logger = logging.getLogger(__name__)

CODE: Final = "code of the network"
PREPROCESSING: Final = "preprocessing"
_KNOWN: Final = {
    "module", "layers", "dataset", "preprocess", "checkpoints", "outputs", "precision",
    "batch_size", "device", "spec", "masks",
}  # fmt: skip


def identity(subject: Subject) -> dict[str, str]:
    """Digests of what is the same in all states of a network: images, code, layers and so on.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> "images" in run.identity(ee.FinishedRun.open("runs/demo").subject())
        True
    """
    outputs = None if subject.outputs is None else list(subject.outputs)
    prepare = [code_digest(subject.preprocess), weights_digest(subject.preprocess)]
    # What else a subject may say of the forward pass counts as it stands.
    rest = {f.name for f in fields(subject)} - _KNOWN
    return {
        **{name: digest(getattr(subject, name)) for name in sorted(rest)},
        "images": subject.dataset.digest(),
        PREPROCESSING: digest(prepare),
        CODE: code_digest(subject.module),
        "layers": digest(dict(subject.layers)),
        "outputs": digest(outputs),
        "precision": subject.precision,
        **({} if subject.masks is None else {"masks": subject.masks.digest()}),
    }


def weights_of(subject: Subject, state: CheckpointFile | None) -> str:
    """Digest of the weights of one state: of its file, or of the network as it is."""
    return weights_digest(subject.module) if state is None else file_digest(state.path)


def weights_name(state: CheckpointFile | None) -> str:
    """How the weights of a state are called among the digests of a run."""
    return "weights" if state is None else f"weights of {state.label}"


def feature_origins(hashes: Mapping[str, str], weights: str) -> dict[str, str]:
    """What the features of one state are made from, of the digests of its run.

    Args:
        hashes: of the run.
        weights: how those of the state are called, see `weights_name`.
    """
    kept = {k: value for k, value in hashes.items() if not k.startswith("weights")}
    return {"weights": hashes[weights], **kept}


def thumbnail_origins(config: Config) -> dict[str, str] | None:
    """What the small images of a run are made from; None where it does not note that."""
    names = ("images", "layers", CODE)
    return {name: config.hashes[name] for name in names} if config.digested else None


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> _ = Path("note.txt").write_text("abc")
        >>> run.file_digest(Path("note.txt"))[:8]
        'ba7816bf'
    """
    with path_named(path, "path").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def comparable(
    there: Mapping[str, str], now: Mapping[str, str], python: str | None
) -> dict[str, str]:
    """The digests of now, less what another version of Python compiles otherwise.

    Args:
        there: digests of a run.
        now: those of what is there now.
        python: the version that the run was made with; None: not known.
    """
    if python is None or python.split(".")[:2] == platform.python_version().split(".")[:2]:
        return dict(now)
    logger.warning(
        "the run was made with Python %s: the code of network and preprocessing cannot be compared",
        python,
    )
    return {**now, **{name: there[name] for name in (CODE, PREPROCESSING) if name in there}}
