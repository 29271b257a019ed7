"""Which figures a run has: those that its checkpoints, layers and dimensions can fill."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from emergence_ext.figures.style import new_figure
from emergence_ext.method import entropy
from emergence_ext.report import files
from emergence_ext.report.emergence import IN_SPACE, OF_IMAGES, figures
from emergence_ext.report.files import NO_IMAGES, Drawings, save_figure, write_results
from emergence_ext.report.html.pictures import read_pictures
from emergence_ext.run import (
    Checkpoint,
    Config,
    Emergence,
    FinishedRun,
    Settings,
    StrengthEntropy,
    Thumbnails,
    emergence,
)
from tests.planted import feature_set

N = 32
EPOCHS = {
    "samples_through_epochs",
    "regions_through_epochs",
    "knowledge_through_epochs",
    "learning_epochs",
}
LAYERS = {"regions_through_layers", "knowledge_through_layers"}
ALWAYS = {
    "samples",
    "confidence_map",
    "tau_curve",
    "strength_entropy",
    "importance_strength",
    "category_similarity",
    "losses",
    "point_regions",
    "importance_maps",
    "shared_regions",
}


def study(times: int, dim: int = 3, layers: int = 2) -> Emergence:
    settings = Settings(dim=dim, region_images=12, importance_evals=2, regional_evals=2)
    sets = [feature_set(share, N) for share in (0.3, 1.0)[-times:]]
    for features in sets:
        for name in list(features.layers)[: 2 - layers]:
            del features.layers[name]
    return emergence(
        [Checkpoint(f"epoch {t}", t, lambda kept=kept: kept) for t, kept in enumerate(sets)],  # type: ignore[misc]
        settings,
    )


def drawings(results: Emergence, monkeypatch: pytest.MonkeyPatch, images: bool = True) -> Drawings:
    strength = results.g[-1].norm(dim=1)
    own = StrengthEntropy(
        1.0, entropy(results.z[-1]), strength, strength, -0.5, -0.2, -0.5, -0.2, 0
    )
    pixels = torch.randint(0, 256, (N, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    thumbnails = Thumbnails(pixels.byte(), torch.zeros(0, 4, dtype=torch.int64))
    monkeypatch.setattr(FinishedRun, "emergence", results)
    monkeypatch.setattr(FinishedRun, "settings", Settings())
    monkeypatch.setattr(FinishedRun, "strengths", lambda _: [own])
    monkeypatch.setattr(FinishedRun, "thumbnails", thumbnails if images else None)
    return figures(FinishedRun(Path("unused"), Config()))


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ({"times": 2}, ALWAYS | EPOCHS | LAYERS),
        pytest.param({"times": 1}, ALWAYS | LAYERS, marks=pytest.mark.slow),
        pytest.param({"times": 2, "layers": 1}, ALWAYS | EPOCHS, marks=pytest.mark.slow),
        (
            {"times": 1, "dim": 4},
            (ALWAYS | {"knowledge_through_layers"}) - {"samples", "confidence_map"},
        ),
    ],
    ids=["all", "one checkpoint", "one layer", "four dimensions"],
)
def test_a_run_has_the_figures_that_it_can_fill(
    size: dict[str, int], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them = drawings(study(**size), monkeypatch)
    figures = {name: draw() for name, draw in all_of_them.items() if not isinstance(draw, str)}
    assert set(figures) == names
    assert all(isinstance(figure, Figure) for figure in figures.values())
    reasons = {name: why for name, why in all_of_them.items() if isinstance(why, str)}
    if size.get("dim") == 4:
        assert reasons.keys() <= set(IN_SPACE) and {"samples", "confidence_map"} <= reasons.keys()
        assert set(reasons.values()) == {"dim = 4, and space has 2 or 3 to draw in"}
    else:
        assert not reasons


def test_without_images_the_others_are_drawn_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = drawings(study(1), monkeypatch, images=False)
    assert {name for name, draw in without.items() if draw == NO_IMAGES} == set(OF_IMAGES)
    assert {name for name, draw in without.items() if callable(draw)} == (ALWAYS | LAYERS) - set(
        OF_IMAGES
    )
    write_results(tmp_path, {}, {name: without[name] for name in OF_IMAGES})
    assert not list(tmp_path.rglob("*"))
    assert [record.getMessage() for record in caplog.records] == [
        f"no figure {name}: {NO_IMAGES}" for name in OF_IMAGES
    ]


def test_a_figure_is_written_as_picture_and_drawing(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    save_figure(figure, tmp_path / "a.b")
    with Image.open(tmp_path / "a.b.png") as image:
        assert image.size == (400, 200)
    assert (tmp_path / "a.b.svg").read_text().startswith("<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.png", "a.b.svg"]


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        figure = Figure(figsize=(2, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], marker="o")  # markers and clipping have ids
        save_figure(figure, tmp_path / folder / "a")
    for kind in ("png", "svg"):
        one, other = ((tmp_path / f / f"a.{kind}").read_bytes() for f in ("first", "second"))
        assert one == other, kind


def test_a_large_svg_holds_its_marks_as_pixels_and_a_notebook_shows_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = new_figure(2, 2)
    axes = figure.add_subplot()
    axes.scatter(*torch.rand(2, 400).numpy())
    axes.set_title("marks")
    save_figure(figure, tmp_path / "few")
    few = (tmp_path / "few.svg").read_text()
    assert "<image" not in few
    monkeypatch.setattr(files, "LARGEST_SVG", len(few) - 1)
    save_figure(figure, tmp_path / "many")
    many = (tmp_path / "many.svg").read_text()
    assert "<image" in many and len(many) < 0.7 * len(few)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_figure_with_pictures_in_it_says_so_and_a_drawing_does_not(tmp_path: Path) -> None:
    for name, values in {"scale": torch.rand(4, 4), "picture": torch.rand(4, 4, 3)}.items():
        figure = new_figure(1, 1)
        figure.add_subplot().imshow(values.numpy())
        save_figure(figure, tmp_path / name)
    found = read_pictures({path.stem: path for path in tmp_path.glob("*.png")})
    assert {name: picture.photos for name, picture in found.items()} == {
        "scale": False, "picture": True,
    }  # fmt: skip
    places = re.findall(r'\sd="([^"]*)"', (tmp_path / "scale.svg").read_text())
    assert places and not any(re.search(r"\.\d{3}", place) for place in places)
