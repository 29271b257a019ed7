"""The contact sheets, the page of all of them, and the command that makes them."""

import html
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.data import ArraySamples
from emergence_ext.lookinside.excite import Excited
from emergence_ext.report.look import (
    TECHNIQUES,
    Scene,
    Sheet,
    codes,
    excite,
    look,
    sheets,
    some_images,
)  # fmt: skip
from emergence_ext.report.look.sheet import pictures
from emergence_ext.run import Subject
from emergence_ext.store import write_file
from tests import tiny_networks

MINE = "activations,filters,excite,codes,correspondence"


def call(*arguments):
    return CliRunner().invoke(app, ["look", *(str(x) for x in arguments)])


def scene(channels=3, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = tiny_networks.small_vgg(
            3, channels, widths=(6, 8), depths=(1, 1), pools=1, hidden=12
        )
    images = torch.rand(24, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    data = ArraySamples(images, [i % 3 for i in range(24)], ["a", "<b>", "c"])
    subject = Subject(module, {"first": "conv1_1", "last": "conv2_1"}, data)
    return Scene(subject, [0, 1, 5], ["last"], **changes)


def test_the_command_writes_sheets_and_one_page_and_names_it_last(
    image_folder: Path, training: Path, tmp_path: Path
):
    out = tmp_path / "look"
    keypoints = tmp_path / "keypoints.csv"
    keypoints.write_text("name,keypoint,x,y\nred/00.png,a,0.2,0.3\nred/01.png,a,0.5,0.6\n")
    result = call(
        "--data", image_folder, "--model", "tests.tiny_networks:three", "--size", 16, "--out", out,
        "--checkpoints", training / "epoch_*.safetensors", "--only", MINE, "--images", "0,1,20",
        "--keypoints", keypoints, "--layers", "conv2_1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    page = (out / "look.html").as_uri()
    assert result.stdout.splitlines()[-1] == f"Report: {page}"
    for technique in MINE.split(","):
        pngs = sorted((out / technique).glob("*.png"))
        assert pngs and all(path.with_suffix(".svg").is_file() for path in pngs)
        assert list((out / technique).glob("*.csv"))
    rows = (out / "activations" / "sparsity.csv").read_text().splitlines()
    assert len(rows) == 1 + 3  # checkpoints
    assert "keypoints" in (out / "correspondence" / "scores.csv").read_text()
    page = html.unescape((out / "look.html").read_text())
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page
    assert page.count('src="data:image/webp;base64,') == len(list(out.glob("*/*.png")))
    assert (out / "look.html").stat().st_size < 25_000_000


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are made and not written, which takes longest."""

    def save(figure, path):
        assert figure.axes
        write_file(path.with_name(f"{path.name}.png"), b"")

    monkeypatch.setattr(sheets, "save_figure", save)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("channels", [1, 5])
def test_sheets_of_grey_and_of_multispectral_images(channels, tmp_path, unsaved):
    seen = scene(channels)
    before = {name: x.clone() for name, x in seen.subject.module.state_dict().items()}
    looked = look(seen, tmp_path, MINE.split(","))
    assert set(looked.sheets) == set(MINE.split(",")) and not looked.refused
    after = seen.subject.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "&lt;b&gt;" in looked.page.read_text() and "<b>" not in looked.page.read_text()
    assert plt.get_fignums() == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_tables(tmp_path, unsaved):
    for name in ("one", "two"):
        look(scene(random_state=3), tmp_path / name, ["excite", "codes"])
    for path in (tmp_path / "one").rglob("*.csv"):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_what_cannot_be_applied_is_said_and_the_others_go_on(tmp_path, monkeypatch):
    def refuses(_scene):
        raise ValueError("no such thing in <this> network")

    figure = TECHNIQUES["filters"](scene()).figures["first"]
    known = {"refuses": refuses, "works": lambda _: Sheet("Works", "It does.", {"a": figure})}
    monkeypatch.setattr(sheets, "TECHNIQUES", known)
    looked = look(scene(), tmp_path)
    assert looked.refused == {"refuses": "no such thing in <this> network"}
    assert looked.sheets["works"].figures == ["a"] and (tmp_path / "works" / "a.png").is_file()
    assert "no such thing in &lt;this&gt; network" in looked.page.read_text()
    with pytest.raises(ValueError, match=r"none of the techniques can be applied \(refuses: no"):
        look(scene(), tmp_path, ["refuses"])


def test_a_defect_is_no_reason_to_go_on_but_what_is_finished_is_on_the_page(
    tmp_path, monkeypatch, unsaved
):
    works, broken = TECHNIQUES["filters"], lambda scene: scene.nothing
    known = {"filters": works, "broken": broken, "later": works}
    monkeypatch.setattr(sheets, "TECHNIQUES", known)
    with pytest.raises(AttributeError, match="nothing"):
        look(scene(), tmp_path)
    page = html.unescape((tmp_path / "look.html").read_text())
    assert "AttributeError: 'Scene' object has no attribute 'nothing'" in page
    assert (tmp_path / "filters" / "first.png").is_file() and not (tmp_path / "later").exists()
    with pytest.raises(AttributeError):
        look(scene(), tmp_path / "none", ["broken"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", [TypeError, RuntimeError])
def test_what_may_be_a_defect_is_a_warning(kind, tmp_path, monkeypatch, caplog, unsaved):
    def fails(_scene):
        raise kind("1 + None")

    known = {"filters": TECHNIQUES["filters"], "fails": fails}
    monkeypatch.setattr(sheets, "TECHNIQUES", known)
    assert look(scene(), tmp_path).refused == {"fails": "1 + None"}
    mine = [r for r in caplog.records if r.name == sheets.__name__]
    (warning,) = [r for r in mine if r.levelname == "WARNING"]
    assert warning.getMessage() == f"fails is left out: {kind.__name__}: 1 + None"
    assert not warning.exc_info  # the traceback is for those who ask for everything


def test_a_compiled_network_is_refused_where_its_layers_are_looked_at(
    image_folder: Path, tmp_path: Path
):
    options = (
        "--data", image_folder, "--model", "tests.tiny_networks:compiled", "--size", 16, "--out"
    )  # fmt: skip
    message = "it is compiled to TorchScript"
    result = call(*options, tmp_path / "all")
    assert result.exit_code == 2 and f"error: --model: {message}" in result.stderr
    only = ("--layers", "conv", "--only", "filters,activations,attributes")
    result = call(*options, tmp_path / "some", *only)
    assert result.exit_code == 0, result.output
    for name in ("filters", "activations"):
        assert f"{name} is left out: module: {message}" in result.stderr
    assert (tmp_path / "some" / "attributes" / "accuracy.png").is_file()


def test_nothing_but_its_own_files_is_touched(tmp_path):
    own = tmp_path / "filters" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    look(scene(), tmp_path, ["filters"])
    assert own.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the folder of a run, or --data and --model"),
        (["--data", "x", "--model", "y"], "--out DIR"),
        (["nowhere", "--only", "filter"], "--only must be one of activations"),
        (["--out", "x"], "expected the folder of a run, or --data and --model"),
        (["nowhere", "--data", "x"], "not RUN and --data"),
        (["nowhere", "--size", 64], "not RUN and --size"),
        (["nowhere", "--size", 224], "not RUN and --size"),
        (["nowhere", "--preprocess", "none"], "not RUN and --preprocess"),
        (["nowhere", "--precision", "bfloat16"], "not RUN and --precision"),
        (["nowhere"], "holds no finished run"),
        (["--out", "x", "--keypoints", "no.csv"], "keypoints: no file no.csv"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert message in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "only", "message"),
    [
        ({}, ["filter"], r"no technique 'filter'\. Nearest: 'filters'"),
        ({"images": [0, 24]}, None, r"indices in 0\.\.23, got 24"),
        ({"layers": ["second"]}, None, "expected some of first, last, got 'second'"),
    ],
)
def test_what_is_not_there_is_named(changed, only, message, tmp_path):
    seen = scene()
    shown = {"images": seen.images, "layers": seen.layers} | changed
    with pytest.raises(ValueError, match=message):
        look(Scene(seen.subject, **shown), tmp_path, only)


@pytest.mark.slow
def test_a_network_without_convolutions_has_no_filters_but_the_rest(tmp_path):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Linear(48, 8), nn.Linear(8, 3)

        def forward(self, x):
            tokens = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
            return self.fc(self.embed(tokens.flatten(2)).mean(1))

    subject = Subject(Patches(), {"embed": "embed"}, scene().subject.dataset)
    looked = look(Scene(subject, [0, 1], ["embed"]), tmp_path, ["activations", "filters"])
    assert list(looked.sheets) == ["activations"] and "no nn.Conv2d" in looked.refused["filters"]
    assert any("below zero" in note for note in looked.sheets["activations"].notes)


def test_codes_of_rare_categories_are_all_there(monkeypatch):
    labels = [0] * 200 + [1] * 8 + [2] * 3
    data = ArraySamples(torch.rand(211, 1, 4, 4), labels, ["a", "b", "c"])
    seen = Scene(Subject(nn.Identity(), {}, data), [0], [])
    monkeypatch.setattr(codes, "MOST", 30)
    chosen = codes._chosen(seen)
    assert len(set(chosen)) == 30
    assert torch.tensor(labels)[chosen].bincount().tolist() == [19, 8, 3]
    monkeypatch.setattr(codes, "MOST", 4000)
    assert sorted(codes._chosen(seen)) == list(range(211))


def test_only_some_of_many_categories_are_drawn(monkeypatch):
    seen, names_by_last = scene(), {}

    def draw(_pixels, _boxes, _values, names, _layer, **_):
        names_by_last[names[-1]] = names

    monkeypatch.setattr(excite.figures, "exciting_images", draw)
    names = ["channel 0", "random 0", "Lambda row 1", *(f"mu {c}" for c in range(300))]
    exciting = Excited(
        torch.rand(303, 2),
        torch.zeros(303, 2, dtype=torch.int64),
        torch.zeros(303, 2, 2, dtype=torch.int64),
        (8, 8),
    )
    monkeypatch.setattr(excite, "_boxes", lambda *_: (torch.zeros(64, 4), True))
    excite._layer_figures(seen, "last", exciting, names)
    assert names_by_last["mu 11"] == ["Lambda row 1", *(f"mu {c}" for c in range(12))]
    shares = [
        {"layer": "last", "directions": kind, "share of the commonest category": 0.5}
        for kind in ("channel", "mu")
    ]
    assert "first 12 of 300 categories" in excite._notes(shares, 300)[1]
    assert len(excite._notes(shares, 12)) == len(excite._notes(shares[:1], 300)) == 1


def test_images_of_all_categories_are_shown_and_odd_channels_as_their_mean():
    data = scene().subject.dataset
    assert sorted(data.labels[i] for i in some_images(data, 6)) == [0, 0, 1, 1, 2, 2]
    assert len(some_images(data, 100)) == 24
    rare = ArraySamples(torch.rand(1000, 1, 4, 4), [0] * 990 + [1] * 10, ["a", "b"])
    assert [rare.labels[i] for i in some_images(rare, 10)] == [0] * 5 + [1] * 5
    wide = torch.rand(2, 5, 4, 4)
    assert torch.allclose(pictures(wide)[:, 0], wide.mean(1)) and pictures(wide[:, :3]) is not None
