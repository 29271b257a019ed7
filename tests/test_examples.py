"""The examples, and the lines of Python in README and docs, run as they stand."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import emergence_ext as ee
from emergence_ext.cli import app
from emergence_ext.network import load_model
from emergence_ext.report.html.write import write_page
from tests.planted import feature_set

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
COMMANDS = typer.main.get_command(app).commands


def _run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def _statements(text: str) -> list[str]:
    """Lines of code, without what is imported."""
    code = re.sub(r'^""".*?"""', "", text, flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(("import ", "from ", "#"))]


def _assert_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert min(picture.size) > 300
        dark, bright = picture.convert("L").getextrema()
        assert bright - dark > 100


def test_stored_features_become_points_and_a_figure_in_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feature_set(1.0).save(tmp_path / "features")
    name = "knowledge_points.py"
    _run(name, monkeypatch, tmp_path / "features", tmp_path / "samples.png")
    assert "PointCount(images=60" in capsys.readouterr().out
    _assert_picture(tmp_path / "samples.png")
    assert len(_statements((EXAMPLES / name).read_text())) <= 10


def test_the_concentration_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run("concentration.py", monkeypatch, tmp_path / "concentration.png")
    _assert_picture(tmp_path / "concentration.png")


@pytest.mark.filterwarnings("ignore:.*reference.*")  # where the library is not built
def test_regions_are_matched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("best_matches.py", monkeypatch)
    assert "scores [4, 5]" in capsys.readouterr().out


def test_every_example_is_run_here_and_says_how_to_call_it() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tests, path.name
        assert f"python examples/{path.name}" in path.read_text()


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
OURS = {
    "torchvision:resnet34": "tests.tiny_networks:three",
    "preprocess=net.preprocess": 'preprocess="none"',
    "size=224": "size=16",
    "conv_5": "conv2_1",
    '"layer4"': '"conv2_1"',  # in what follows, of a network at hand
    "random_directions(8, 512)": "random_directions(8, 8)",
    "features.29": "conv2_1",
    "features.27": "conv1_1",
    "(7, 7)": "(4, 4)",
    "sliding_window_shapes=14, strides=7": "sliding_window_shapes=6, strides=2",
    "steps=200": "steps=2",
    "torchvision:mobilenet_v2": "tests.tiny_networks:three",
    "epochs=16": "epochs=2, batch_size=12, lr=0.02",
}
"""What the pages say -> the same of something that takes no time."""
ELSEWHERE = {"docs/parallel.md"}
"""Pages whose code is for other machines: it is compiled.

What needs other packages stands under "py": tests/late_interaction/test_packages.py holds it.
"""


def _code(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page == "docs/tutorial.md"))
        for page in PAGES
        if _code(page)
    ],
)
def test_the_lines_of_a_page_run(
    page: str,
    image_folder: Path,
    training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = _code(page)
    places = {
        "resnet34.safetensors": str(training / "epoch_0012.safetensors"),
        '"photos"': repr(str(image_folder)),
    }
    for theirs, ours in {**OURS, **places}.items():
        code = code.replace(theirs, ours)
    lines = compile(code, page, "exec")
    if page in ELSEWHERE:
        return
    monkeypatch.chdir(tmp_path)
    # Tables and figures of a whole run take their time, and have tests of their own.
    monkeypatch.setattr("emergence_ext.report.framed.write", lambda run: write_page(run.folder))
    exec(lines, _at_hand(page, tmp_path))
    if "savefig" in code:
        _assert_picture(tmp_path / "samples.png")


def _commands(page: str) -> list[list[str]]:
    """Calls of the command line in a page: those of shell blocks whole, and those in a sentence."""
    text = (ROOT / page).read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.strip().startswith("emergence ")]
    calls = [shlex.split(line, comments=True) for line in lines]
    return calls + [said.split() for said in re.findall(r"`(emergence [a-z]+[^`|]*)`", text)]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_have_the_options_that_it_names(page: str) -> None:
    for call in _commands(page):
        command, *rest = [part for part in call[1:] if part not in ("-q", "-v")]
        if command.startswith("-") or not re.fullmatch(r"[a-z]+", command):
            continue
        assert command in COMMANDS, call
        known = {name for option in COMMANDS[command].params for name in option.opts}
        named = {part.partition("=")[0].rstrip(",.;)") for part in rest if part.startswith("--")}
        assert named <= known | {"--help"}, call


def test_the_gallery_shows_every_picture() -> None:
    shown = (ROOT / "docs/gallery.md").read_text()
    pictures = [path.name for path in (ROOT / "docs/images").glob("*.png")]
    assert [name for name in pictures if f"images/{name}" not in shown] == []


def test_what_stands_for_the_words_of_the_pages_stands_for_some() -> None:
    said = "\n".join(map(_code, PAGES))
    assert [theirs for theirs in OURS if theirs not in said] == []


def _at_hand(page: str, folder: Path) -> dict[str, Any]:
    """What a page takes as given, in variables and in files."""
    if page == "docs/retrieval.md":
        tokens = np.random.default_rng(0).integers(-9, 9, (50, 128)).astype(np.int8)
        np.save(folder / "tokens.npy", tokens.astype(np.float32))
        np.save(folder / "offsets.npy", np.arange(0, 51, 5))
        return {"tokens_int8": tokens, "scales": np.ones(50, np.float32)}
    if page == "docs/reproduction.md":
        _birds(folder / "cub")
    if page not in ("docs/lookinside.md", "docs/mindseye.md"):
        return {}
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net = load_model("tests.tiny_networks:three").module
    images = [(image, number) for number, image in enumerate(x)]
    target = torch.tensor([0, 1])
    return {
        "module": net, "net": net, "images": images, "x": x, "target": target, "fill": 0.5,
        "preprocess": torch.nn.Identity(),
    }  # fmt: skip


def _birds(root: Path) -> None:
    """CUB-200-2011 of three birds, each of its own colour."""
    birds = ["017.Cardinal", "014.Indigo_Bunting", "182.Yellow_Warbler"]
    rng, rows = np.random.default_rng(0), []
    for k, bird in enumerate(birds):
        (root / "images" / bird).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
            pixels[..., k] += 100
            Image.fromarray(pixels).save(root / "images" / bird / f"{i}.png")
            rows.append((f"{bird}/{i}.png", k + 1, "2 1 18 18", i % 2))
    said = {
        "classes": [f"{k + 1} {bird}" for k, bird in enumerate(birds)],
        "images": [f"{n + 1} {row[0]}" for n, row in enumerate(rows)],
        "image_class_labels": [f"{n + 1} {row[1]}" for n, row in enumerate(rows)],
        "bounding_boxes": [f"{n + 1} {row[2]}" for n, row in enumerate(rows)],
        "train_test_split": [f"{n + 1} {row[3]}" for n, row in enumerate(rows)],
    }
    for name, lines in said.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_the_api_has_a_page_for_each_room_and_all_pages_are_in_the_list() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for room in ee._ROOMS:
        page = (ROOT / "docs" / "api" / f"{room}.md").read_text()
        assert f"::: emergence_ext.{room}\n" in page
        if room in ("lookinside", "studies"):  # whose doors offer modules
            for module in getattr(ee, room).__all__:
                assert f"::: emergence_ext.{room}.{module}\n" in page, module
    for path in (ROOT / "docs").rglob("*.md"):
        assert path.relative_to(ROOT / "docs").as_posix() in listed, path
