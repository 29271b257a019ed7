"""Everything that reads a file that a user names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from emergence_ext import data, lookinside, network
from emergence_ext.lookinside.correspondence import read_keypoints
from emergence_ext.run import FinishedRun
from emergence_ext.store import load_arrays

MODEL = "tests.tiny_networks:three"


def _folder(path: Path) -> Any:
    """A folder of images, of which the hostile one is one."""
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path.parent / "good.png")
    found = data.ImageFolder(path.parent.parent, size=8)
    (path.parent / "good.png").unlink()
    return found.bad


def _run(path: Path) -> Any:
    return FinishedRun.open(path.parent).emergence


def _arrays(path: Path) -> Any:
    return load_arrays(path.with_suffix(""))


def _manifest_of(path: Path) -> Any:
    """Arrays whose manifest is whole."""
    from emergence_ext.store import save_arrays

    beside = path.with_name("whole")
    save_arrays(beside, {"x": torch.zeros(3)}, {}, kind="Thing")
    shutil.move(beside.with_suffix(".json"), path.with_suffix(".json"))
    beside.with_suffix(".safetensors").unlink()
    try:
        return load_arrays(path.with_suffix(""))
    finally:
        path.with_suffix(".json").unlink()


READERS: dict[str, Callable[[Path], Any]] = {
    "weights": lambda path: network.load_model(MODEL, weights=path).name,
    "weights of torch": lambda path: network.load_model(MODEL, weights=path).name,
    "checkpoints": lambda path: network.load_checkpoints([path.parent / "epoch_1.pt"]),
    "class map": lambda path: data.class_map(path, ["a", "b"], 2),
    "boxes": lambda path: data.read_boxes(path),
    "keypoints": read_keypoints,
    "attributes": lambda path: lookinside.attributes.read_attributes(path, ["a"]),
    "annotators": lambda path: lookinside.annotators.read_labels(path, ["a"], ["x", "y"]),
    "images": _folder,
    "tar": lambda path: data.TarFiles([path], size=8),
    "config": _run,
    "manifest": _arrays,
    "arrays": _manifest_of,
}


def read(reader: str, path: Path) -> None:
    """Read a file by a reader's name."""
    READERS[reader](path)


NAMES: dict[str, str] = {
    "weights": "w.safetensors",
    "weights of torch": "w.pt",
    "checkpoints": "checkpoints.json",
    "class map": "map.json",
    "boxes": "boxes.csv",
    "keypoints": "keypoints.csv",
    "attributes": "attributes.csv",
    "annotators": "labels.csv",
    "images": "a/hostile.png",
    "tar": "0.tar",
    "config": "config.json",
    "manifest": "result.json",
    "arrays": "result.safetensors",
}
