"""Small jobs that write: a training, a run, an attack, a distillation; and what they left."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from emergence_ext import data, parallel, report
from emergence_ext.run import FinishedRun, Settings, SubjectSpec, run
from emergence_ext.store import locked
from emergence_ext.studies import attack, distill
from emergence_ext.training import Recipe
from emergence_ext.training import train as fit
from tests import tiny_networks
from tests.trust.disk import Trouble, trouble

MODEL = "tests.tiny_networks:three"
SETTINGS = Settings(region_images=12, importance_evals=3, regional_evals=3)
RECIPE = Recipe(epochs=4, batch_size=12, lr=0.02, weight_decay=0)


def train(images: Path, out: Path) -> None:
    """Train for four epochs and keep three checkpoints, in `out/training`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = tiny_networks.three()
    samples = data.ImageFolder(images, size=16)
    fit(module, samples, samples, RECIPE, out=out / "training", checkpoints=[0, 2, 4])


def analyse(images: Path, out: Path) -> None:
    """Analyse the checkpoints of the training in it, and write the tables."""
    checkpoints = str(out / "training" / "epoch_*.safetensors")
    spec = SubjectSpec(str(images), MODEL, checkpoints=checkpoints, size=16)
    with (
        mock.patch("emergence_ext.run.strength.TEMPERATURES", (1.0,)),
        mock.patch("emergence_ext.store.filling.SHARD_BYTES", 1),  # a batch
    ):
        finished = run(spec.load(), out, SETTINGS)
        if parallel.launched()[0] == 0:
            report_tables(finished)


def streamed(images: Path, out: Path) -> None:
    """The same as a run of many images, which go through the network once more after the fits."""
    with mock.patch("tests.trust.jobs.SETTINGS", replace(SETTINGS, keep_features=0)):
        analyse(images, out)


def report_tables(finished: FinishedRun) -> None:
    """Write a run's report without its figures, which take long and hold nothing new."""
    with mock.patch("emergence_ext.report.emergence.figures", lambda run: {}):
        report.write(finished)


def attacked(images: Path, out: Path) -> None:
    """Attack the network of the run in it."""
    finished = FinishedRun.open(out)
    settings = attack.AttackSettings(eps=0.3, steps=3)
    with finished.held():
        subject, learned = finished.subject(), finished.learned()
        finished.keep(attack.attack(subject, finished.emergence, learned, settings), attack.NAME)


def distilled(images: Path, out: Path) -> None:
    """Distil a student of the run in it."""
    finished = FinishedRun.open(out)
    images_of = mock.patch("emergence_ext.studies.distill.training_images", lambda it: it.dataset)
    with finished.held(), images_of:
        result = distill.distill(finished, finished.subject(), ["fc"], None, epochs=2)
        finished.keep(result, distill.NAME)


def everything(images: Path, out: Path) -> None:
    """Train, run, attack, and write the report of all."""
    train(images, out)
    analyse(images, out)
    attacked(images, out)
    report_tables(FinishedRun.open(out))


JOBS: dict[str, Callable[..., None]] = {
    "train": train,
    "run": analyse,
    "stream": streamed,
    "attack": attacked,
    "distill": distilled,
}


def disturbed(job: str, arguments: tuple[Any, ...], at: int, kind: Trouble) -> int:
    """Do a job with trouble at one change of the disk; return how many there were."""
    logging.disable(logging.WARNING)
    with trouble(at, kind) as changes:
        JOBS[job](*arguments)
    return changes.count


def beside_another(job: str, arguments: tuple[Any, ...]) -> None:
    """Do a job while another process holds its folder."""
    folder = arguments[1] / "training" if job == "train" else arguments[1]
    held = multiprocessing.get_context("fork").Process(target=_hold, args=(folder,))
    held.start()
    try:
        while not (folder / ".held").exists():
            time.sleep(0.01)
        JOBS[job](*arguments)
    finally:
        held.kill()
        held.join()
        (folder / ".held").unlink()


def _hold(folder: Path) -> None:
    with locked(folder):
        (folder / ".held").touch()
        time.sleep(600)


# A page holds digests of tables, and one of these the seconds.
_OTHERWISE = (".lock", "report.html")


def left(folder: Path) -> dict[str, str]:
    """Digests of everything in a folder but how long things took, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        # A page holds digests of tables, and one of them the seconds.
        if path.is_file()
        and path.name not in (".lock", "report.html")
        and "resume" not in path.parts
    }


def _content(path: Path) -> bytes:
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_bytes())), sort_keys=True).encode()
    if path.name == "fits.csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return json.dumps([_timeless(row) for row in rows]).encode()
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    """Without how long things took, digests of files that say so, and the state of the checkout."""
    if isinstance(value, dict):
        timed = ("seconds", "sha256", "git")
        return {key: _timeless(item) for key, item in value.items() if key not in timed}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
