"""A finished run that is opened again gives back what it found, learned and looked at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emergence_ext.data.samples import Samples
from emergence_ext.data.shipped import SHIPPED
from emergence_ext.run.finished import FinishedRun, require_same_network
from emergence_ext.run.subject import Subject, SubjectSpec
from emergence_ext.store import StoreError
from tests.old_runs import set_config


@pytest.fixture
def run(finished_run: Path) -> FinishedRun:
    return FinishedRun.open(finished_run)


@pytest.mark.parametrize("checkpoint", [0, 1, 2, -1, -2])
def test_what_was_learned_gives_what_was_found(run: FinishedRun, checkpoint: int) -> None:
    found, learned, features = run.emergence, run.learned(checkpoint), run.features(checkpoint)
    assert torch.equal(learned.samples.transform(features.f), found.g[checkpoint])
    for number, layer in enumerate(found.layers):
        h = learned.regional[layer].transform(features.layers[layer])
        torch.testing.assert_close(h, found.h[checkpoint, number])
        assert torch.equal(learned.importance[layer].w_, found.w[checkpoint, number])


def test_the_network_and_the_images_are_those_of_the_run(run: FinishedRun) -> None:
    subject = run.subject()
    assert list(subject.layers) == run.emergence.layers
    images = torch.stack([subject.dataset[n][0] for n in range(6)])
    with torch.no_grad():
        z = subject.module.eval()(subject.preprocess(images))
    torch.testing.assert_close(z, run.emergence.z[-1, :6])


def test_fields_of_the_subject_can_be_changed(
    run: FinishedRun, image_folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(image_folder, tmp_path / "elsewhere")
    assert run.subject(data=str(moved), precision=None).spec.data == str(moved)
    (moved / "red" / "00.png").unlink()
    with pytest.raises(ValueError, match=r"^data: .* holds other images than the run"):
        run.subject(data=str(moved))


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path, finished_run: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no finished run; `emergence run --out"):
        FinishedRun.open(tmp_path)
    half = shutil.copytree(finished_run, tmp_path / "half")
    (half / "fits" / "emergence.json").unlink()
    with pytest.raises(RuntimeError, match="is not finished: it was stopped"):
        FinishedRun.open(half)
    damaged = shutil.copytree(finished_run, tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    with pytest.raises(StoreError, match="is no JSON that can be read"):
        FinishedRun.open(damaged)


def test_a_run_from_python_does_not_say_how_to_load_its_network(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    set_config(folder, subject=None)
    with pytest.raises(ValueError, match="made from Python"):
        FinishedRun.open(folder).subject()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_spec_is_the_same_after_a_round_through_json(name: str, finished_run: Path) -> None:
    spec = SubjectSpec(name, "small_vgg28", weights="w.safetensors", layers="a,b", size=28)
    settings = json.loads(json.dumps(spec.settings()))
    assert settings["data"] == name
    assert Path(settings["weights"]).is_absolute()
    assert SubjectSpec.from_settings(settings) == replace(spec, weights=settings["weights"])
    with pytest.raises(ValueError, match="expected data, model and some of"):
        SubjectSpec.from_settings({"data": "x"})
    with pytest.raises(ValueError, match="expected data, model and some of"):
        SubjectSpec.from_settings({**settings, "colour": 1})


def test_a_subject_from_python_needs_no_description(run: FinishedRun) -> None:
    subject = run.subject()
    dataset: Samples = subject.dataset
    assert Subject(subject.module, subject.layers, dataset).spec is None


def test_logits_are_the_runs_if_they_are_near_by_the_size_of_all_of_them() -> None:
    before = torch.tensor([0.5, -0.2])  # of a few images; others have logits of up to 10
    require_same_network(before + 0.1, before, 10.0)
    with pytest.raises(ValueError, match="gives other logits"):
        require_same_network(before + 0.6, before, 10.0)
