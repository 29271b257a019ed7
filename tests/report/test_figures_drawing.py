"""Which figures a run has: those that its checkpoints, layers and dimensions can fill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from emergence_ext.data.samples import ArraySamples
from emergence_ext.method.correlation import entropy
from emergence_ext.report import drawing
from emergence_ext.run.emerging import Checkpoint, Emergence, Settings, emergence
from emergence_ext.run.strength import StrengthEntropy
from tests.planted import feature_set

N = 32
EPOCHS = {"samples_through_epochs", "regions_through_epochs", "knowledge_through_epochs"}
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


def draw(found: Emergence, folder: Path) -> list[str]:
    strength = found.g[-1].norm(dim=1)
    own = StrengthEntropy(1.0, entropy(found.z[-1]), strength, strength, -0.5, -0.2, -0.5, -0.2, 0)
    pictures = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    dataset = ArraySamples(pictures, found.y, categories=found.categories)
    return drawing.draw_all(folder, found, own, dataset)


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"times": 2}, ALWAYS | EPOCHS | LAYERS),
        ({"times": 1}, ALWAYS | LAYERS),
        ({"times": 2, "layers": 1}, ALWAYS | EPOCHS),
        (
            {"times": 1, "dim": 4},
            (ALWAYS | {"knowledge_through_layers"}) - {"samples", "confidence_map"},
        ),
    ],
    ids=["all", "one checkpoint", "one layer", "four dimensions"],
)
def test_a_run_has_the_figures_that_it_can_fill(
    found: dict[str, int], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(drawing, "save", lambda figure, path: drawn.update({path.name: figure}))
    assert draw(study(**found), Path("unused")) == list(drawn)
    assert set(drawn) == names
    assert all(isinstance(figure, Figure) for figure in drawn.values())


def test_a_figure_is_written_as_picture_and_drawing(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    drawing.save(figure, tmp_path / "a.b")
    with Image.open(tmp_path / "a.b.png") as image:
        assert image.size == (400, 200)
    assert (tmp_path / "a.b.svg").read_text().startswith("<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.png", "a.b.svg"]


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        figure = Figure(figsize=(2, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], marker="o")  # markers and clipping have ids
        drawing.save(figure, tmp_path / folder / "a")
    for kind in ("png", "svg"):
        one, other = ((tmp_path / f / f"a.{kind}").read_bytes() for f in ("first", "second"))
        assert one == other, kind
