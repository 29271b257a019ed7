"""Weights that are published for a network, and the names of ImageNet's outputs."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from emergence_ext.network import (
    Origin,
    imagenet_names,
    load_model,
    published_size,
    weights_file,
)
from emergence_ext.run import SubjectSpec

models = pytest.importorskip("torchvision.models")

SMALL = "squeezenet1_1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "torch" / "hub" / "checkpoints"


def _publish(cache: Path, scale: float = 0.5) -> Path:
    """Put weights where torchvision keeps those that it publishes."""
    url = models.get_model_weights(SMALL).DEFAULT.url
    module = models.get_model(SMALL, weights=None)
    with torch.no_grad():
        module.classifier[1].bias.fill_(scale)
    cache.mkdir(parents=True)
    torch.save(module.state_dict(), cache / url.rpartition("/")[2])
    return cache / url.rpartition("/")[2]


def test_what_is_published_is_taken_from_the_cache(cache: Path) -> None:
    file = _publish(cache)
    assert weights_file(f"torchvision:{SMALL}", "DEFAULT") == file
    assert weights_file(f"torchvision:{SMALL}", "default") == file
    loaded = load_model(f"torchvision:{SMALL}", weights="DEFAULT")
    assert loaded.module.state_dict()["classifier.1.bias"][0] == 0.5
    assert loaded.preprocess == "imagenet"


def test_what_cannot_be_fetched_says_where_it_belongs(cache: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        load_model(f"torchvision:{SMALL}", weights="DEFAULT")
    said = str(raised.value)
    assert str(cache) in said and "no route to host" in said and "--weights" in said
    assert models.get_model_weights(SMALL).DEFAULT.url in said and "\n" not in said


def test_it_is_fetched_with_the_digits_of_its_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def fetch(url: str, place: str, digits: str, progress: bool) -> None:
        asked.append((url, digits))
        Path(place).write_bytes(b"")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    file = weights_file(f"torchvision:{SMALL}", "DEFAULT")
    assert file is not None and file.is_file() and file.parent == cache
    url = models.get_model_weights(SMALL).DEFAULT.url
    assert asked == [(url, file.stem.rpartition("-")[2])]


def test_timms_hub_is_asked_for_what_is_there_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    asked: list[bool] = []

    def download(repository: str, file: str, local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        if local_files_only:
            raise FileNotFoundError("not cached")
        return f"/cache/{repository}/{file}"

    hub = types.ModuleType("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", download, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    file = weights_file("timm:resnet18", "DEFAULT")
    assert asked == [True, False]
    assert file is not None and str(file).startswith("/cache/timm/resnet18")


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("small_vgg28", "DEFAULT is for torchvision:NAME and timm:NAME"),
        ("tests.tiny_networks:three", "DEFAULT is for"),
        ("torchvision:resnet19", r"no 'resnet19'.*resnet18"),
        ("timm:resnet19", r"no 'resnet19'.*resnet18"),
    ],
)
def test_other_networks_have_none(model: str, error: str) -> None:
    if model.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=error):
        weights_file(model, "DEFAULT")


@pytest.mark.parametrize(
    ("model", "weights", "size"),
    [
        ("torchvision:efficientnet_b4", "DEFAULT", 380),
        ("torchvision:efficientnet_b4", "mine.pt", None),  # trained at who knows what
        ("timm:mobilevit_xxs", None, 256),
        ("timm:no_such_network", None, None),
        ("torchvision:no_such_network", "DEFAULT", None),
        (
            "torchvision:fcn_resnet50",
            "DEFAULT",
            None,
        ),  # crops nothing
        ("small_vgg28", None, None),
    ],
)
def test_images_are_of_the_size_that_a_network_is_published_for(
    model: str, weights: str | None, size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    if model.startswith("timm"):
        pytest.importorskip("timm")
    assert published_size(model, weights) == size
    caplog.set_level("INFO", "emergence_ext")
    assert Origin().size_for(None, size) == (size or 224)
    assert ("as the network is published for" in caplog.text) == (size is not None)
    assert Origin(size=64).size_for(None, size) == 64 and Origin().size_for(32, size) == 32
    with pytest.raises(ValueError, match="size: expected at least 1 pixel, got -3"):
        Origin().size_for(-3, size)


def test_files_stay_as_they_are() -> None:
    assert weights_file("anything", None) is None
    assert weights_file("anything", "w.pt") == Path("w.pt")


def test_outputs_of_imagenet_have_their_names_and_ids() -> None:
    names = imagenet_names(1000)
    assert len(names) == 1000 and imagenet_names(10) == []
    assert "golden retriever" in names[207] and "tabby" in names[281]
    pytest.importorskip("timm")
    assert "n02099601" in names[207]


@pytest.mark.parametrize("folders", [("golden_retriever", "Tabby"), ("n02099601", "n02123045")])
def test_folders_named_like_imagenets_categories_find_their_outputs(
    folders: tuple[str, str], cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if folders[0].startswith("n0"):
        pytest.importorskip("timm")
    file = _publish(cache)
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "data" / name / "a.png")
    spec = SubjectSpec(str(tmp_path / "data"), f"torchvision:{SMALL}", weights="DEFAULT", size=64)
    with caplog.at_level("INFO"):
        subject = spec.load()
    where = dict(zip(subject.dataset.categories, subject.outputs or (), strict=True))
    assert where == {folders[0]: 207, folders[1]: 281}
    assert f"{folders[0]} is output 207 (golden retriever" in caplog.text
    assert subject.spec is not None and subject.spec.weights == str(file)


def test_labels_beside_the_folders_name_the_outputs(image_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for folder in image_folder.iterdir():
        (data / folder.name).symlink_to(folder)
    (data / "labels.txt").write_text("Green\nyellow\nblue\nblack\nred\n")
    subject = SubjectSpec(str(data), "tests.tiny_networks:five_outputs", size=16).load()
    assert (subject.dataset.categories, subject.outputs) == (["blue", "green", "red"], [2, 0, 4])
