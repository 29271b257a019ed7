"""Weights say how they were trained, a flipped bit is noticed, and what they say is taken."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from emergence_ext.network import (
    Origin,
    load_model,
    load_pretrained,
    load_weights,
    preprocess,
    read_origin,
)
from emergence_ext.network.origin import sealed
from emergence_ext.network.weights import read_weights
from emergence_ext.store import StoreError
from tests import tiny_networks

ORIGIN = Origin(64, "imagenet", "tests.tiny_networks:three", ("a", "b", "c"))


def _write(path: Path, module: nn.Module, origin: Origin = ORIGIN) -> Path:
    path.write_bytes(sealed(module.state_dict(), origin))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return _write(tmp_path / "w.safetensors", tiny_networks.three())


def test_what_is_written_is_read(weights: Path) -> None:
    assert read_origin(weights) == ORIGIN
    assert read_origin(None) == Origin() == read_origin(weights.with_name("none.safetensors"))
    module = tiny_networks.three()
    assert load_weights(module, weights) == []
    assert sealed(module.state_dict(), ORIGIN) == weights.read_bytes()


def test_files_of_other_tools_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    state = {"a": torch.ones(2)}
    for metadata in (None, {"format": "pt"}, {"sha256": "0"}):
        save_file(state, path, metadata)
        assert read_origin(path) == Origin()
        assert torch.equal(read_weights(path)["a"], state["a"])


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    whole = _write(tmp_path / "w.safetensors", module).read_bytes()
    path = tmp_path / "flipped.safetensors"
    state = module.state_dict()
    generator = torch.Generator().manual_seed(0)
    noticed = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(content)
        try:
            origin, read = read_origin(path), read_weights(path)
        except ValueError:
            noticed += 1
            continue
        assert origin == ORIGIN and read.keys() == state.keys()
        assert all(torch.equal(read[name], value) for name, value in state.items())
    assert noticed > 0.95 * len(whole)


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "{",
        "3",
        "{}",
        '{"size": "x", "emergence_ext.sha256": ""}',
        '{"size": 1e9}',
        "[" * 9999,
    ],
)
def test_what_no_training_says_is_refused(tmp_path: Path, said: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"a": torch.ones(1)}, {"emergence_ext": said}))
    for read in (read_origin, read_weights):
        with pytest.raises(StoreError, match="damaged"):
            read(path)


def test_a_size_that_no_image_has_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "w.safetensors", tiny_networks.three(), replace(ORIGIN, size=10**9))
    with pytest.raises(StoreError, match="damaged"):
        read_origin(path)


def test_size_and_preprocessing_are_those_of_the_training(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "emergence_ext")
    assert (ORIGIN.size_for(None), ORIGIN.preprocess_for("auto", "none")) == (64, "imagenet")
    assert "64 pixels" in caplog.text and "'imagenet'" in caplog.text
    assert (Origin().size_for(None), Origin().preprocess_for("auto", "clip")) == (224, "clip")
    assert Origin().preprocess_for("caffe", None) == "caffe"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (ORIGIN.size_for(32), ORIGIN.preprocess_for("caffe", "none")) == (32, "caffe")
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 2 and "trained at 64" in warned[0] and "'imagenet'" in warned[1]
    assert Origin().preprocess_for("auto", None) == "none"
    assert "no preprocessing is known" in caplog.records[-1].message


def test_code_that_a_file_names_is_not_run() -> None:
    origin = Origin(preprocess="antigravity:fly")
    with pytest.raises(ValueError, match="trained with code, 'antigravity:fly'; ask for it by"):
        origin.preprocess_for("auto", "none")
    assert origin.preprocess_for("auto", "antigravity:fly") == "antigravity:fly"
    assert preprocess("clip").name == "clip"


def test_categories_find_their_outputs_by_name() -> None:
    assert ORIGIN.class_map(["a", "b", "c"]) is None and Origin().class_map(["x"]) is None
    assert ORIGIN.class_map(["c", "a", "b"]) == {"a": 0, "b": 1, "c": 2} == ORIGIN.class_map(["b"])
    with pytest.raises(ValueError, match=r"class_map: .* other categories than 'x'.*--class-map"):
        ORIGIN.class_map(["a", "b", "x"])


class Positions(nn.Module):
    def __init__(self, num_classes: int = 3, tokens: int = 17) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, 4))
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pos_embed.mean(1).expand(len(images), -1))


def larger(num_classes: int = 3) -> nn.Module:
    return Positions(num_classes, 10)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("outputs", [3, 5])
def test_positions_of_another_size_are_named(tmp_path: Path, told: bool, outputs: int) -> None:
    path = tmp_path / "w.safetensors"
    module = Positions(outputs)
    if told:
        _write(path, module, replace(ORIGIN, size=64))
    else:
        save_file(module.state_dict(), path)
    with pytest.raises(ValueError, match=r"was trained at 64 pixels: --size 64 .*for images of 48"):
        load_model(f"{__name__}:larger", weights=path, image_size=48)


def test_weights_of_another_model_are_told(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model("tests.tiny_networks:three", weights=weights)
    assert "were trained as" not in caplog.text
    load_model("tests.tiny_networks:left_in_training_mode", weights=weights)
    assert "these weights were trained as 'tests.tiny_networks:three'" in caplog.text


class Versioned(nn.Module):
    """As torchvision's MNASNet, which takes no weights that do not say their version."""

    _version = 2

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4, bias=False)
        self.heads = nn.ModuleList([nn.Conv2d(4, num_classes, 1), nn.Conv2d(4, num_classes, 1)])
        self.register_buffer("steps", torch.tensor(0))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):  # type: ignore[no-untyped-def]
        if local_metadata.get("version") != 2:
            raise ValueError("version should be set")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_heads_of_other_outputs_start_anew_and_that_is_said(tmp_path: Path) -> None:
    theirs, mine = Versioned(1000), Versioned(3)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    wrapped = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.pt")
    anew = load_pretrained(mine, tmp_path / "w.pt")
    assert anew == [f"heads.{k}: 1000 outputs there, 3 here, trained anew" for k in (0, 1)]
    for name, value in mine.state_dict().items():
        assert torch.equal(value, (before if "heads" in name else theirs.state_dict())[name])
    assert load_pretrained(Versioned(1000), tmp_path / "w.pt") == []


def test_other_differences_than_a_head_are_refused(tmp_path: Path) -> None:
    torch.save(tiny_networks.three().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="another network"):
        load_pretrained(tiny_networks.wider(), tmp_path / "w.pt")


def test_what_a_file_lacks_starts_anew(tmp_path: Path) -> None:
    state = tiny_networks.three().state_dict()
    body = {name: value for name, value in state.items() if not name.startswith("fc2")}
    save_file(body, tmp_path / "w.safetensors")
    assert load_pretrained(tiny_networks.three(), tmp_path / "w.safetensors") == [
        "fc2: not there, trained anew"
    ]
    assert load_file(tmp_path / "w.safetensors").keys() == body.keys()
