"""The film: true at every step, still around what moves, small, and there without a coder too."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.figures.motion import Moment, Stage
from emergence_ext.method.frame import Frame
from emergence_ext.method.vmf import ExactKappa
from emergence_ext.report import film as animation
from emergence_ext.run.emerging import Checkpoint, Emergence, Settings, emergence
from tests.planted import feature_set

SHORT: dict[str, Any] = {"fps": 5, "seconds": 1.0, "max_points": 30}


@pytest.fixture(scope="module")
def found() -> Emergence:
    settings = Settings(region_images=12, importance_evals=2, regional_evals=2)
    sets = [feature_set(share, 32) for share in (0.3, 1.0)]
    return emergence(
        [Checkpoint(f"epoch {t}", t, lambda kept=kept: kept) for t, kept in enumerate(sets)],  # type: ignore[misc]
        settings,
    )


def one_checkpoint(found: Emergence) -> Emergence:
    last = {x: getattr(found, x)[-1:] for x in ("g", "z", "h", "w", "raw_strength", "scale")}
    return replace(found, labels=found.labels[-1:], epochs=found.epochs[-1:], **last)


def one_layer(found: Emergence) -> Emergence:
    last = {x: getattr(found, x)[:, -1:] for x in ("h", "w", "raw_strength", "scale")}
    return replace(found, layers=found.layers[-1:], **last)


def frames(found: Emergence, count: int = 3) -> list[np.ndarray]:
    return list(animation._frames(found, None, count, 30, 0))


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_the_way_leads_through_every_step_and_rests_at_both_ends(steps: int) -> None:
    points = np.random.default_rng(0).normal(size=(steps, 4, 3))
    path = animation._smooth(points)
    for index, step in enumerate(points):
        assert path(index) == pytest.approx(step, abs=1e-9)
    for end, inside in ((0, 1e-4), (steps - 1, steps - 1 - 1e-4)):
        assert path(inside) == pytest.approx(points[end], abs=1e-6)
    # Smooth: the slopes on both sides of a step agree.
    for at in range(1, steps - 1):
        before, after = path(at) - path(at - 1e-5), path(at + 1e-5) - path(at)
        assert after == pytest.approx(before, abs=1e-8)


def test_the_film_begins_and_ends_with_a_step_and_never_goes_back() -> None:
    pace = list(animation._pace(50))
    assert pace[:3] == [0, 0, 0] and pace[-5:] == [1] * 5 and len(pace) == 50
    assert pace == sorted(pace)


def test_samples_are_held_out_and_of_different_categories(found: Emergence) -> None:
    chosen = animation.shown_samples(found)
    assert len(chosen) == 4 and found.held_out[chosen].all()
    assert found.y[chosen].tolist() == [0, 1, 2, 3]
    many = animation.shown_samples(found, 6)
    assert len(set(many.tolist())) == 6


def test_what_is_drawn_are_the_held_out_regions_at_their_step(
    found: Emergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Moment | None, Moment | None]] = []
    stages: list[dict[str, Any]] = []

    class Recorder:
        def __init__(self, *_: Any, **given: Any) -> None:
            stages.append(given)

        def draw(self, above: Moment | None, below: Moment | None) -> None:
            drawn.append((above, below))

    monkeypatch.setattr(animation, "Stage", Recorder)
    frames(found, 2)
    assert torch.equal(stages[0]["training_labels"], found.y[found.held_out])
    chosen = animation.shown_samples(found)
    assert torch.equal(stages[0]["sample_labels"], found.y[chosen])
    for at, (above, below) in zip((0, -1), drawn, strict=True):
        assert above is not None and below is not None
        # The last layer through training; the layers of the finished network.
        assert np.allclose(above.h, found.h[at, -1, found.held_out], atol=1e-5)
        h = found.h[-1, at, chosen]
        assert np.allclose(below.h, h, atol=1e-5)
        p = found.frame.posterior(h)[torch.arange(len(chosen)), :, found.y[chosen]]
        assert np.allclose(below.p, p, atol=1e-5)


def test_only_what_moves_changes(found: Emergence) -> None:
    first, second, last = frames(found)
    assert first.shape[0] % 16 == first.shape[1] % 16 == 0 and first.dtype == np.uint8
    assert (first != second).any() and (second != last).any()
    # The notes, names and titles at the left edge of the page stay.
    assert (first[:, :12] == last[:, :12]).all()
    again = frames(found)
    assert all((a == b).all() for a, b in zip([first, second, last], again, strict=True))


def test_what_stays_is_on_the_page(found: Emergence) -> None:
    stage = Stage(
        found.frame.directions, found.categories, 12.5, epochs=found.labels, layers=found.layers,
        training_labels=found.y, sample_labels=[0, 1, 2, 3],
    )  # fmt: skip
    renderer, page = stage._canvas.get_renderer(), stage._figure.bbox
    for text in stage._figure.findobj(Text):
        if text.get_text() and text.get_visible() and text.axes is None:
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0, text.get_text()


def test_a_run_shows_the_half_that_it_has(found: Emergence) -> None:
    whole = frames(found)[0].shape[0]
    upper, lower = frames(one_layer(found))[0], frames(one_checkpoint(found))[0]
    assert whole > upper.shape[0] > lower.shape[0] > 300
    with pytest.raises(ValueError, match="one checkpoint and one layer, so nothing moves"):
        animation.animate(one_layer(one_checkpoint(found)), Path("unused"))
    with pytest.raises(ValueError, match="nothing that moves"):
        Stage(torch.eye(3), ["a", "b", "c"], 1.0, epochs=["0"])


def test_the_bars_name_where_the_film_is() -> None:
    stage = Stage(torch.eye(3), ["a", "b", "c"], 1.0, epochs=["0", "5"], training_labels=[0, 1, 2])
    h = np.random.default_rng(0).normal(size=(3, 4, 3))

    def told(position: float) -> str:
        stage.draw(Moment(position, h))
        return stage._bars["training"][1].texts[0].get_text()

    assert told(0) == "epoch 0" and told(0.4) == "epoch 0 → epoch 5" and told(1) == "epoch 5"


def test_a_film_of_the_plane_and_of_many_categories_is_drawn(found: Emergence) -> None:
    flat = Frame(found.frame.priors, torch.eye(2).repeat(2, 1), ExactKappa(2))
    plane = replace(found, frame=flat, g=found.g[..., :2], h=found.h[..., :2])
    assert frames(plane)[0].shape[1] == 1280
    C = 30
    mu = torch.randn(C, 3, generator=torch.Generator().manual_seed(0))
    stage = Stage(
        mu, [f"category {c}" for c in range(C)], 1.0, layers=["a", "b"], sample_labels=[3, 29],
        images=torch.rand(2, 1, 5, 5),
    )  # fmt: skip
    assert stage.draw(layers=Moment(0.5, torch.randn(2, 4, 3), torch.rand(2, 4))).std() > 10


def test_an_mp4_is_written_that_can_be_read_again(found: Emergence, tmp_path: Path) -> None:
    film = pytest.importorskip("imageio_ffmpeg")
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    path = animation.animate(found, tmp_path / "a.b", images, **SHORT)
    assert path == tmp_path / "a.b.mp4" and 1000 < path.stat().st_size < animation.MAX_BYTES
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.mp4"]
    reader = film.read_frames(str(path))
    meta = next(reader)
    assert meta["codec"] == "h264" and meta["fps"] == 5
    assert meta["size"][0] == 1280 and len(list(reader)) == 5


def test_without_the_coder_a_gif_is_written_and_said(
    found: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = animation.animate(found, tmp_path / "film", **SHORT)
    assert path.suffix == ".gif" and "pip install imageio-ffmpeg" in caplog.text
    with Image.open(path) as picture:
        assert picture.size[0] == 640
        whole = sum(_durations(picture))
    monkeypatch.setattr(animation, "MAX_BYTES", path.stat().st_size * 3 // 4)
    animation.animate(found, tmp_path / "film", **SHORT)
    assert path.stat().st_size < animation.MAX_BYTES
    with Image.open(path) as picture:
        # Frames go, the pace stays.
        assert picture.n_frames < 5  # type: ignore[attr-defined]
        assert sum(_durations(picture)) == pytest.approx(whole, abs=401)


def _durations(picture: Image.Image) -> list[int]:
    found = []
    for index in range(picture.n_frames):  # type: ignore[attr-defined]
        picture.seek(index)
        found.append(picture.info["duration"])
    return found


def test_wrong_use_is_named(found: Emergence) -> None:
    for name, value in (("fps", 0), ("fps", 61), ("seconds", 0.5), ("seconds", 121)):
        with pytest.raises(ValueError, match=f"{name} must be from 1"):
            animation.animate(found, Path("unused"), **{name: value})
    wide = Frame(found.frame.priors, torch.eye(4), ExactKappa(4))
    with pytest.raises(ValueError, match=r"dim = 4, only 2 or 3 .*--dim 3"):
        animation.animate(replace(found, frame=wide), Path("unused"))
    with pytest.raises(ValueError, match="at most 4 samples, got 5"):
        Stage(torch.eye(3), ["a", "b", "c"], 1.0, layers=["x", "y"], sample_labels=[0] * 5)


def test_the_command_names_the_film_last(
    found: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    found.save(tmp_path / "fits" / "emergence")
    (tmp_path / "config.json").write_text(json.dumps({"subject": None}))
    result = CliRunner().invoke(app, ["animate", str(tmp_path), "--fps", "2", "--seconds", "1"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "animate" / "emergence.gif"
    assert result.stdout.splitlines()[-1] == str(path) and path.is_file()
    result = CliRunner().invoke(app, ["animate", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "holds no finished run" in result.stderr
