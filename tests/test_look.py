"""The contact sheets, the page of all of them, and the command that makes them."""

import html
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import tiny_networks
import torch
from torch import nn
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.datasets import ArraySamples
from emergence_ext.sheets import TECHNIQUES, Scene, Sheet
from emergence_ext.sheets import look as looking
from emergence_ext.sheets.look import look, some_images
from emergence_ext.sheets.sheet import pictures
from emergence_ext.store import write_file
from emergence_ext.subject import Subject

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
        "--data", image_folder, "--model", "tiny_networks:three", "--size", 16, "--out", out,
        "--checkpoints", training / "epoch_*.safetensors", "--only", MINE, "--images", "0,1,20",
        "--keypoints", keypoints, "--layers", "conv2_1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out / "look.html")
    for technique in MINE.split(","):
        pngs = sorted((out / technique).glob("*.png"))
        assert pngs and all(path.with_suffix(".svg").is_file() for path in pngs)
        assert list((out / technique).glob("*.csv"))
    rows = (out / "activations" / "sparsity.csv").read_text().splitlines()
    assert len(rows) == 1 + 3  # checkpoints
    assert "keypoints" in (out / "correspondence" / "scores.csv").read_text()
    page = html.unescape((out / "look.html").read_text())
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page
    assert page.count('src="data:image/png;base64,') == len(list(out.glob("*/*.png")))
    assert (out / "look.html").stat().st_size < 25_000_000


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are made and not written, which takes longest."""

    def save(figure, path):
        assert figure.axes
        write_file(path.with_name(f"{path.name}.png"), b"")

    monkeypatch.setattr(looking, "save", save)


@pytest.mark.parametrize("channels", [1, 5])
def test_sheets_of_grey_and_of_multispectral_images(channels, tmp_path, unsaved):
    seen = scene(channels)
    before = {name: x.clone() for name, x in seen.subject.module.state_dict().items()}
    found = look(seen, tmp_path, MINE.split(","))
    assert set(found.sheets) == set(MINE.split(",")) and not found.refused
    after = seen.subject.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "&lt;b&gt;" in found.page.read_text() and "<b>" not in found.page.read_text()
    assert plt.get_fignums() == []


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
    monkeypatch.setattr(looking, "TECHNIQUES", known)
    found = look(scene(), tmp_path)
    assert found.refused == {"refuses": "no such thing in <this> network"}
    assert found.sheets["works"].figures == ["a"] and (tmp_path / "works" / "a.png").is_file()
    assert "no such thing in &lt;this&gt; network" in found.page.read_text()
    with pytest.raises(ValueError, match=r"none of the techniques can be applied \(refuses: no"):
        look(scene(), tmp_path, ["refuses"])


def test_a_defect_is_no_reason_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "TECHNIQUES", {"broken": lambda scene: scene.nothing})
    with pytest.raises(AttributeError):
        look(scene(), tmp_path)


def test_nothing_but_its_own_files_is_touched(tmp_path):
    own = tmp_path / "filters" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    look(scene(), tmp_path, ["filters"])
    assert own.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--out DIR"),
        (["--out", "x"], "expected the folder of a run, or --data and --model"),
        (["nowhere", "--data", "x"], "not RUN and --data"),
        (["nowhere"], "holds no finished run"),
        (["--out", "x", "--keypoints", "no.csv"], "keypoints: no file no.csv"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert told in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "only", "told"),
    [
        ({}, ["filter"], r"no technique 'filter'\. Nearest: 'filters'"),
        ({"images": [0, 24]}, None, r"indices in 0\.\.23, got 24"),
        ({"layers": ["second"]}, None, "expected some of first, last, got 'second'"),
    ],
)
def test_what_is_not_there_is_named(changed, only, told, tmp_path):
    seen = scene()
    given = {"images": seen.images, "layers": seen.layers} | changed
    with pytest.raises(ValueError, match=told):
        look(Scene(seen.subject, **given), tmp_path, only)


def test_a_network_without_convolutions_has_no_filters_but_the_rest(tmp_path):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Linear(48, 8), nn.Linear(8, 3)

        def forward(self, x):
            tokens = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
            return self.fc(self.embed(tokens.flatten(2)).mean(1))

    subject = Subject(Patches(), {"embed": "embed"}, scene().subject.dataset)
    found = look(Scene(subject, [0, 1], ["embed"]), tmp_path, ["activations", "filters"])
    assert list(found.sheets) == ["activations"] and "no nn.Conv2d" in found.refused["filters"]
    assert any("below zero" in note for note in found.sheets["activations"].notes)


def test_images_of_all_categories_are_shown_and_odd_channels_as_their_mean():
    data = scene().subject.dataset
    assert sorted(data.labels[i] for i in some_images(data, 6)) == [0, 0, 1, 1, 2, 2]
    assert len(some_images(data, 100)) == 24
    wide = torch.rand(2, 5, 4, 4)
    assert torch.allclose(pictures(wide)[:, 0], wide.mean(1)) and pictures(wide[:, :3]) is not None
