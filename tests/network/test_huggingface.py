"""Networks of Hugging Face, from folders that `save_pretrained` wrote: no hub is asked."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext.network import (
    classify,
    extract,
    load_model,
    preprocess,
    suggest_layers,
    weights_file,
)
from emergence_ext.network.huggingface import hub_size, output_names
from emergence_ext.run import SubjectSpec

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
NAMES = {0: "green, lime", 1: "red", 2: "blue"}


def _networks() -> dict[str, Any]:
    t = transformers
    small: dict[str, Any] = {"image_size": 32, "id2label": NAMES}
    return {
        "vit": t.ViTConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
            patch_size=4, **small,
        ),
        "dinov2": t.Dinov2WithRegistersConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=1, patch_size=4,
            num_register_tokens=2, **small,
        ),
        "swin": t.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[1, 1], patch_size=2, window_size=4, **small
        ),
        "convnext": t.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, id2label=NAMES
        ),
        "resnet": t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
            id2label=NAMES,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each network, with a processor beside the weights."""
    folder = tmp_path_factory.mktemp("hub")
    for name, config in _networks().items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = transformers.AutoModelForImageClassification.from_config(config)
        network.save_pretrained(folder / name)
        told = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("name", ["vit", "dinov2", "swin", "convnext", "resnet"])
def test_regions_of_usual_kinds_are_taken(name: str, hub: Path) -> None:
    net = load_model(f"hf:{hub / name}")
    assert net.preprocess == "inception"
    assert [names[0] for names in net.outputs] == list(NAMES.values())
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = suggest_layers(net.module, images)
    assert len(layers) >= 2
    samples = [(image, number % 3) for number, image in enumerate(images)]
    features = extract(net.module, samples, layers, preprocess=preprocess(net.preprocess))
    assert features.grid[0] == features.grid[1] > 1
    with torch.no_grad():
        expected = net.module(2 * images - 1).logits
    torch.testing.assert_close(features.z, expected, rtol=1e-4, atol=1e-4)


def test_weights_are_the_folders_own_and_a_head_begins_anew_for_other_outputs(hub: Path) -> None:
    spec = f"hf:{hub / 'resnet'}"
    one, other = load_model(spec, random_state=1), load_model(spec, random_state=2)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(classify(one.module, images), classify(other.module, images))
    assert classify(load_model(spec, num_classes=5).module, images).shape == (2, 5)
    assert weights_file(spec, "DEFAULT") is None


def test_folders_find_their_outputs_by_the_names_that_the_network_gives_them(
    hub: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(hub)
    spec = SubjectSpec(str(image_folder), "hf:./resnet", size=32)
    with caplog.at_level(logging.INFO):
        subject = spec.load()
    assert subject.outputs == [2, 0, 1]  # of blue, green and red
    assert "by the network's own names: blue is output 2" in caplog.text
    assert subject.spec is not None
    assert subject.spec.settings()["model"] == f"hf:{hub / 'resnet'}"


def test_a_processor_that_scales_otherwise_is_told_for_images_in_0_to_1(
    hub: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(hub / "resnet", tmp_path / "net")
    told: dict[str, Any] = {
        "image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert load_model(f"hf:{folder}").preprocess == "inception"
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert load_model(f"hf:{folder}").preprocess == "none"
    (folder / "preprocessor_config.json").unlink()
    assert load_model(f"hf:{folder}").preprocess is None


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"size": {"height": 384, "width": 384}}, 384),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224),
        ({"size": 288, "crop_size": 256, "do_center_crop": False}, 288),
        ({"do_normalize": False}, None),
        (None, None),
    ],
)
def test_images_are_of_the_size_that_the_processor_makes(
    told: dict[str, Any] | None, size: int | None, hub: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(hub / "resnet", tmp_path / "net")
    (folder / "preprocessor_config.json").unlink()
    if told is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert hub_size(str(folder)) == size


def test_what_is_no_classifier_is_one_line(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^model: no folder \./nowhere"):
        load_model("hf:./nowhere")
    with pytest.raises(ValueError, match="no network can be read from the folder"):
        load_model(f"hf:{tmp_path}")
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a bert, which transformers has no image classifier"):
        load_model(f"hf:{tmp_path / 'bert'}")
    pickled = shutil.copytree(hub / "resnet", tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no network can be read from the folder"):
        load_model(f"hf:{pickled}")


def test_numbered_labels_are_no_names() -> None:
    module = torch.nn.Linear(1, 2)
    module.config = transformers.ResNetConfig(num_labels=2)  # type: ignore[assignment]
    assert output_names(module) == []
    assert output_names(torch.nn.Linear(1, 2)) == []
