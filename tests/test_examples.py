"""The examples and the README's lines of Python run as they stand."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from emergence_ext.report.html.write import write_page
from tests.planted import feature_set

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


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


def test_the_lines_of_the_readme_run(
    image_folder: Path, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    )
    for theirs, ours in {
        "torchvision:resnet34": "tests.tiny_networks:three",
        "resnet34.safetensors": str(training / "epoch_0012.safetensors"),
        "photos": str(image_folder),
        "size=224": "size=16",
        "conv_5": "conv2_1",
    }.items():
        assert theirs in code, theirs
        code = code.replace(theirs, ours)
    monkeypatch.chdir(tmp_path)
    # Tables and figures of a whole run take their time, and have tests of their own.
    monkeypatch.setattr("emergence_ext.report.framed.write", lambda run: write_page(run.folder))
    exec(compile(code, "README.md", "exec"), {})
    _assert_picture(tmp_path / "samples.png")
