"""Everything that lies in a run, read and held against the digests that were noted of it.

Nothing is loaded that could run code: networks are compared as files, images as pixels.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from emergence_ext.lookup import path_named, require_kind
from emergence_ext.network import FeatureSet, find_state, load_checkpoints
from emergence_ext.run.emerging import Checkpoint, emergence
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.folder import STUDY, STUDY_VERSION, Config, RunFolder
from emergence_ext.run.identity import file_digest, weights_name
from emergence_ext.run.results import Emergence
from emergence_ext.run.subject import SubjectSpec
from emergence_ext.store import (
    ShardStore,
    StoreError,
    differences,
    load_arrays,
    made_from,
    read_document,
)


@dataclass
class Verification:
    """What was read in a run, and what is wrong with it.

    Attributes:
        read: kind -> how many were read and are as they were written.
        notes: what could not be compared, and why.
        wrong: what is damaged or does not belong together, a line each.

    Examples:
        >>> from emergence_ext import run
        >>> found = run.verify("runs/demo")
        >>> found.wrong, sum(found.read.values()) > 0
        ([], True)
    """

    read: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, kind: str, look: Callable[[], object]) -> None:
        """Do one comparison, which raises where something is wrong."""
        try:
            look()
        except (StoreError, ValueError, OSError) as error:
            self.wrong.append(" ".join(str(error).split()))
        else:
            self.read[kind] = self.read.get(kind, 0) + 1


def verify(folder: Path | str) -> Verification:
    """Read every file of a run and compare it with what was noted of it.

    Raises:
        FileNotFoundError: no run there.

    Examples:
        >>> from emergence_ext import run
        >>> run.verify("runs/demo").wrong
        []
    """
    inside, result = RunFolder(path_named(folder, "run")), Verification()
    if not inside.config.is_file():
        raise FileNotFoundError(f"run: {folder} holds no run")
    result.check("configuration", lambda: Config.read(inside.config))
    study = inside.fits.path / STUDY
    if study.is_file():
        advice = "Compute the fits again."
        result.check("studies of fits", lambda: read_document(study, STUDY_VERSION, advice))
    for path in _results(inside.path):
        result.check("results", lambda path=path: _read(path, inside))  # type: ignore[misc]
    if result.wrong:
        return result
    run = FinishedRun.open(inside.path)
    result.check("chain of digests", lambda: run.emergence)
    if not run.config.digested:
        result.notes.append("made by an earlier version: what it was made from is not noted")
        return result
    if not result.wrong:
        for path in _results(inside.path):
            _belongs(run, path, result)
    _sources(run, result)
    return result


def recompute(run: FinishedRun) -> Emergence:
    """Compute what was found again, from the features and fits that are kept.

    Where many images were streamed, the rows of those whose features are kept are.

    Raises:
        StoreError: a part is missing, damaged or of something else, or the result is another.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> found = ee.FinishedRun.open("runs/demo")
        >>> torch.allclose(run.recompute(found).h, found.emergence.h)
        True
    """
    require_kind(run=(run, FinishedRun))
    e, inside = run.emergence, run.inside
    if e.stores:
        _recompute_rows(run)
        return e
    whole = len(inside.origins(e.labels, e.layers))
    if whole < 2 * len(e.labels):
        raise StoreError(f"run: {run.folder} lacks features or fits to compute its results from")

    def features(label: str) -> FeatureSet:
        return FeatureSet.load(inside.features(label))

    again = emergence(
        [
            Checkpoint(label, epoch, lambda label=label: features(label))  # type: ignore[misc]
            for label, epoch in zip(e.labels, e.epochs, strict=True)
        ],
        run.settings,
        folder=inside.fits.path,
    )
    for name in ("g", "z", "h", "w", "scale", "raw_strength", "held_out", "region_images", "y"):
        ours, theirs = getattr(e, name).double(), getattr(again, name).double()
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise StoreError(f"run: computed again, {name} of {inside.emergence} is another")
    return again


def _recompute_rows(run: FinishedRun) -> None:
    """Project the features that are kept of some images again, and compare with their rows."""
    e = run.emergence
    for t, label in enumerate(e.labels):
        learned, features = run.learned(t), run.features(t)
        pairs = [("g", learned.samples.transform(features.f), e.samples(t, run.kept_images))]
        for k, (layer, F) in enumerate(features.layers.items()):
            h = learned.regional[layer].transform(F)
            pairs.append((f"h of {layer}", h, e.regions(t, k, run.kept_images)))
        for name, ours, theirs in pairs:
            # Images went through the network in other batches, and rows are in half precision.
            if not torch.allclose(ours, theirs, rtol=2e-3, atol=2e-3 * float(ours.abs().max())):
                raise StoreError(
                    f"run: computed again, {name} of {run.inside.projected(label)} is another"
                )


def _read(path: Path, inside: RunFolder) -> None:
    """Read a result, or rows that many images left, a shard at a time."""
    if path.parent == inside.rows:
        ShardStore(path).verify()
    else:
        load_arrays(path)


def _results(folder: Path) -> Iterator[Path]:
    """Paths, without a suffix, of all results in a folder."""
    # Rows in shards are read as the result that they make.
    yield from dict.fromkeys(x.parent for x in sorted(folder.rglob("shard-*")) if _is_of_rows(x))
    for arrays in sorted(folder.rglob("*.safetensors")):
        if _is_of_rows(arrays):
            continue
        path = arrays.with_name(arrays.name.removesuffix(".safetensors"))
        # Checkpoints of a network stand alone.
        if Path(f"{path}.json").exists() or not _is_checkpoint(arrays):
            yield path


def _is_of_rows(path: Path) -> bool:
    return re.fullmatch(r"shard-\d{5,}\.(json|safetensors)", path.name) is not None


def _is_checkpoint(path: Path) -> bool:
    return (path.parent / "checkpoints.json").exists() and path.name.startswith("epoch_")


def _belongs(run: FinishedRun, path: Path, result: Verification) -> None:
    """Compare what a study was made from with the results of the run."""
    if path.parent == run.inside.rows:  # the results hold their digests
        return
    there = made_from(path)
    if there is None:
        result.notes.append(f"{path} does not note what it was made from")
    elif "emergence" in there and differences(there, run.made_from):
        result.wrong.append(f"{path} was made from other results than {run.folder} has now")
    elif path.name == "log":
        result.check("trainings", lambda: _of_its_training(path, there))


def _of_its_training(log: Path, there: Mapping[str, str]) -> None:
    """Insist that the log of a training is of the one whose states lie beside it."""
    state = find_state(log.parent)
    if state is None or differences(there, state[2] or {}):
        raise StoreError(f"{log} is of another training than {log.parent} holds")


def _sources(run: FinishedRun, result: Verification) -> None:
    """Compare weights and images with those that the run looked at, where they are there."""
    config = run.config
    if config.subject is None:
        result.notes.append("made from Python: where network and images are is not noted")
        return
    spec = SubjectSpec.from_settings(config.subject, run.folder)
    if spec.checkpoints:
        try:
            files = load_checkpoints(spec.checkpoints)
        except (ValueError, OSError) as error:
            # Files that are gone are no fault of the run; an index that is damaged is.
            told = result.wrong if glob.glob(spec.checkpoints) else result.notes
            told.append(f"checkpoints are not compared: {error}")
            files = []
        for state in files:
            noted = config.hashes.get(weights_name(state))
            if noted is not None:
                result.check("checkpoints", lambda s=state, n=noted: _same(s.path, n))  # type: ignore[misc]
        seen = {weights_name(state) for state in files}
        gone = [n for n in config.hashes if n.startswith("weights of epoch") and n not in seen]
        if files and gone:
            result.notes.append(f"not there: {', '.join(gone)}")
    noted = config.hashes.get("weights file")
    if spec.weights and noted is not None:
        if Path(spec.weights).is_file():
            result.check("weights", lambda: _same(Path(spec.weights or ""), noted))
        else:
            result.notes.append(f"weights are not compared: no file {spec.weights}")
    if spec.size is None:
        result.notes.append("images are not compared: their size is not noted")
        return
    try:
        images = spec.images(spec.size)
        masks = spec.objects(images.names)
        now = {"images": images.digest(), **({} if masks is None else {"masks": masks.digest()})}
    except (ValueError, OSError, ImportError) as error:
        result.notes.append(f"images are not compared: {error}")
        return
    places = {"images": spec.data, "masks": spec.masks or spec.boxes}
    for what, found in now.items():
        if found != config.hashes.get(what):
            place = places[what]
            result.wrong.append(f"the {what} in {place} are not those that the run looked at")
        else:
            result.read[f"sets of {what}"] = 1


def _same(path: Path, noted: str) -> None:
    if file_digest(path) != noted:
        raise StoreError(f"{path} is not the file that the run looked at")
