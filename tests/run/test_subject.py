"""What the weights say of their training is taken where the user leaves it out."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emergence_ext.network import Origin
from emergence_ext.network.origin import sealed
from emergence_ext.run import SubjectSpec
from tests import tiny_networks

TRAINED = Origin(20, "inception", "tests.tiny_networks:three", ("red", "green", "blue"))


def _spec(image_folder: Path, weights: Path, origin: Origin = TRAINED) -> SubjectSpec:
    weights.write_bytes(sealed(tiny_networks.three().state_dict(), origin))
    return SubjectSpec(str(image_folder), "tests.tiny_networks:three", weights=str(weights))


def test_size_preprocessing_and_order_of_categories_are_the_trainings(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _spec(image_folder, tmp_path / "w.safetensors")
    subject = spec.load()
    assert subject.dataset[0][0].shape == (3, 20, 20)
    assert subject.dataset.categories == ["blue", "green", "red"]
    assert list(subject.outputs or ()) == [2, 1, 0]
    assert subject.spec == replace(spec, size=20, preprocess="inception")
    Path(str(spec.weights)).rename(tmp_path / "epoch_1.safetensors")
    as_checkpoints = replace(spec, weights=None, checkpoints=str(tmp_path / "epoch_1.safetensors"))
    assert as_checkpoints.load().dataset[0][0].shape == (3, 20, 20)


def test_what_the_user_says_is_done_and_a_difference_told(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _spec(image_folder, tmp_path / "w.safetensors")
    subject = replace(spec, size=16, preprocess="none").load()
    assert subject.dataset[0][0].shape == (3, 16, 16)
    assert subject.spec is not None and subject.spec.preprocess == "none"
    assert "size 16: these weights were trained at 20 pixels" in caplog.text
    assert "preprocess none: these weights were trained with 'inception'" in caplog.text


def test_categories_that_were_not_trained_want_a_map(image_folder: Path, tmp_path: Path) -> None:
    other = replace(TRAINED, categories=("red", "green", "yellow"))
    with pytest.raises(ValueError, match=r"class_map: .* than 'blue'.* --class-map"):
        _spec(image_folder, tmp_path / "w.safetensors", other).load()


def test_weights_of_no_training_are_analysed_at_224(image_folder: Path, tmp_path: Path) -> None:
    subject = _spec(image_folder, tmp_path / "w.safetensors", Origin()).load()
    assert subject.spec is not None and subject.spec.size == 224


def test_images_may_lie_in_tar_files(image_folder: Path, tmp_path: Path) -> None:
    folders = sorted(image_folder.iterdir())
    for label, folder in enumerate(folders):
        with tarfile.open(tmp_path / f"{label}.tar", "w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
                info = tarfile.TarInfo(f"{path.stem}.cls")
                info.size = 1
                tar.addfile(info, io.BytesIO(b"%d" % label))
    spec = _spec(image_folder, tmp_path / "w.safetensors", Origin())
    expected = replace(spec, size=16).load()
    tars = replace(spec, size=16, data=str(tmp_path / "{0..2}.tar"))
    subject = tars.load()
    assert subject.dataset.categories == ["0", "1", "2"]
    assert torch.equal(subject.extract().z, expected.extract().z)
    again = SubjectSpec.from_settings(tars.settings()).load()
    assert again.dataset.digest() == subject.dataset.digest()
    with pytest.raises(ValueError, match="split: tar files have none"):
        replace(tars, split="val").load()
