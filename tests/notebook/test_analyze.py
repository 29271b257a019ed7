"""One call from a network and images to tables and a page."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.datasets import ImageFolder as TorchvisionFolder

import emergence_ext as ee
from emergence_ext.report import Framed
from emergence_ext.report.html.write import write_page
from emergence_ext.run import SubjectSpec, subject_of
from tests import tiny_networks

QUICK = ee.run.Settings(importance_evals=2, regional_evals=2, held_out=0.3)
NAME = "tests.tiny_networks:three"


@pytest.fixture(scope="module")
def analysis(
    tmp_path_factory: pytest.TempPathFactory, image_folder: Path, training: Path
) -> ee.Analysis:
    out = tmp_path_factory.mktemp("analysis") / "run"
    network = ee.load_model(NAME, weights=training / "epoch_0012.safetensors").module
    return ee.analyze(network, image_folder, out=out, size=16, preprocess="none", settings=QUICK)


def test_a_network_and_a_folder_are_enough(analysis: ee.Analysis) -> None:
    e = analysis.emergence
    assert (len(e.names), e.categories, e.layers) == (
        48,
        ["blue", "green", "red"],
        ["conv1_1", "conv2_1"],
    )
    assert len(analysis.points) == 2 * 2  # layers, held out or fitted
    assert len(analysis.samples) == 48
    assert len(analysis.regions) == 2 * 48 * 64
    assert set(analysis.tables) >= {"knowledge", "images", "similarity", "fits"}
    assert "48 images in 3 categories" in repr(analysis)
    run = repr(ee.FinishedRun.open(analysis.folder))
    assert run.endswith("layers conv1_1, conv2_1, 1 checkpoint, 3 categories"), run


def test_tables_are_data_frames_where_pandas_is_and_rows_where_it_is_not(
    analysis: ee.Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = analysis.samples
    assert isinstance(frame, pandas.DataFrame) and isinstance(analysis.points, pandas.DataFrame)
    found = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    rows = ee.Analysis.of(analysis).samples
    assert [row["image"] for row in rows] == list(frame["image"])
    assert list(rows[0]) == list(frame.columns)
    assert torch.equal(
        torch.tensor([row["g 1"] for row in rows]), torch.tensor(frame["g 1"].tolist())
    )


def test_the_page_is_written_once_and_shown_in_a_frame_of_its_own(
    analysis: ee.Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without tables and figures, which take their time.
    monkeypatch.setattr("emergence_ext.report.framed.write", lambda run: write_page(run.folder))
    page = analysis.show(height=300)
    written = page.path.stat().st_mtime_ns
    assert analysis.show().path.stat().st_mtime_ns == written
    shown = page._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "height: 300px" in shown
    assert "<script" not in shown  # it is an attribute's text
    assert repr(page) == analysis.inside.report.resolve().as_uri()


def test_a_page_with_quotes_stays_inside_of_its_attribute(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<b title="x">&amp;</b>', encoding="utf-8")
    assert (
        'srcdoc="&lt;b title=&quot;x&quot;&gt;&amp;amp;&lt;/b&gt;"' in Framed(path, 1)._repr_html_()
    )


def test_it_is_the_same_however_network_and_images_are_given(image_folder: Path) -> None:
    weights = tiny_networks.three().state_dict()
    named = SubjectSpec(str(image_folder), NAME, size=16, preprocess="none").load()
    network = named.module
    expected = named.extract()
    for model, images in (
        (network, image_folder),
        (nn.DataParallel(network), str(image_folder)),
        (network, named.dataset),
        (NAME, named.dataset),
        (network, TorchvisionFolder(str(image_folder))),
    ):
        subject = subject_of(model, images, size=16, preprocess="none")
        features = subject.extract()
        assert torch.equal(features.z, expected.z)
        assert list(features.layers) == list(expected.layers)
        assert features.categories == expected.categories
    assert weights.keys() == network.state_dict().keys()


def test_what_is_named_in_words_can_be_taken_up_by_commands(image_folder: Path) -> None:
    given: dict[str, Any] = {"size": 16, "preprocess": "none"}
    subject = subject_of(NAME, image_folder, ["conv2_1"], **given)
    assert subject.spec == SubjectSpec(str(image_folder), NAME, layers="conv2_1", **given)
    assert subject_of(NAME, image_folder, {"last": "stages.1"}, **given).spec is None


def test_functions_preprocess_and_maps_say_which_output(image_folder: Path) -> None:
    subject = subject_of(
        tiny_networks.five_outputs(),
        image_folder,
        "conv1_1, conv2_1",
        size=16,
        preprocess=lambda images: images - 0.5,
        class_map={"red": 4, "green": 0, "blue": 2},
    )
    assert list(subject.outputs or ()) == [2, 0, 4]
    assert float(subject.preprocess(torch.ones(1)).item()) == 0.5
    assert list(subject.layers) == ["conv1_1", "conv2_1"]


def test_checkpoints_are_files_or_a_pattern(image_folder: Path, tmp_path: Path) -> None:
    module = tiny_networks.three()
    for epoch in (0, 3):
        torch.save(module.state_dict(), tmp_path / f"epoch_{epoch}.pt")
    for checkpoints in (str(tmp_path / "epoch_*.pt"), sorted(tmp_path.glob("*.pt"))):
        subject = subject_of(module, image_folder, None, checkpoints, size=16, preprocess="none")
        assert [state.epoch for state in subject.checkpoints] == [0, 3]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": 3}, r"model: expected a torch.nn.Module, got int"),
        ({"weights": "w.pt"}, r"weights: load them into the network"),
        ({"images": "nowhere"}, r"nowhere"),
        ({"layers": ["conv9"]}, r"conv9"),
        ({"layers": 3}, r"layers: expected dotted names, got int"),
        ({"layers": nn.ReLU()}, "layers: expected dotted names, got ReLU"),
        ({"model": tiny_networks.three}, "model: expected a torch.nn.Module, got function"),
        ({"model": nn.Linear}, "model: Linear is a class"),
        ({"size": "16"}, "size: expected a number of pixels, got '16'"),
        ({"device": "gpu"}, "device: expected cpu, cuda or cuda:1, got 'gpu'"),
        ({"device": "meta"}, "device: nothing can be computed on 'meta'"),
        ({"checkpoints": 3}, "checkpoints: expected a path, got int"),
    ],
)
def test_what_does_not_fit_is_said(
    image_folder: Path, arguments: dict[str, Any], error: str
) -> None:
    given = {"model": tiny_networks.three(), "images": image_folder, "size": 16} | arguments
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=error):
        subject_of(given.pop("model"), given.pop("images"), preprocess="none", **given).extract()


def test_networks_of_torchvision_are_known_by_their_class() -> None:
    models = pytest.importorskip("torchvision.models")
    loaded = ee.network.taken(models.resnet18())
    assert (loaded.preprocess, list(loaded.layers)) == (
        "imagenet",
        list(ee.load_model("torchvision:resnet18").layers),
    )
    # With its published weights it turns ImageNet's normalisation into its own, else not.
    googlenet = models.googlenet(init_weights=False, transform_input=True)
    assert ee.network.taken(googlenet).preprocess == "imagenet"
    googlenet.transform_input = False
    assert ee.network.taken(googlenet).preprocess == "inception"


def test_a_run_can_be_opened_again(analysis: ee.Analysis) -> None:
    again = ee.Analysis.open(analysis.folder)
    assert isinstance(again, ee.Analysis)
    assert again.folder == analysis.folder and replace(again) == again


def test_the_folder_of_the_images_is_no_place_for_results(image_folder: Path) -> None:
    before = sorted(image_folder.iterdir())
    with pytest.raises(ValueError, match=r"out: .* is the folder of the images"):
        ee.analyze(tiny_networks.three(), image_folder, size=16, out=image_folder)
    assert sorted(image_folder.iterdir()) == before
