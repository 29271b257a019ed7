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
from emergence_ext.figures import Moment, Stage
from emergence_ext.method import ExactKappa, Frame
from emergence_ext.report import animate, film
from emergence_ext.run import (
    Checkpoint,
    Config,
    Emergence,
    FinishedRun,
    Settings,
    Thumbnails,
    emergence,
)
from tests.planted import feature_set

SHORT: dict[str, Any] = {"fps": 5, "seconds": 1.0, "max_points": 30}


@pytest.fixture(scope="module")
def results() -> Emergence:
    settings = Settings(region_images=12, importance_evals=2, regional_evals=2)
    sets = [feature_set(share, 32) for share in (0.3, 1.0)]
    return emergence(
        [Checkpoint(f"epoch {t}", t, lambda kept=kept: kept) for t, kept in enumerate(sets)],  # type: ignore[misc]
        settings,
    )


def one_checkpoint(results: Emergence) -> Emergence:
    last = {x: getattr(results, x)[-1:] for x in ("g", "z", "h", "w", "raw_strength", "scale")}
    return replace(results, labels=results.labels[-1:], epochs=results.epochs[-1:], **last)


def one_layer(results: Emergence) -> Emergence:
    last = {x: getattr(results, x)[:, -1:] for x in ("h", "w", "raw_strength", "scale")}
    return replace(results, layers=results.layers[-1:], **last)


def frames(results: Emergence, count: int = 3) -> list[np.ndarray]:
    return list(film._frames(results, None, count, 30, 0))


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_the_way_leads_through_every_step_and_rests_at_both_ends(steps: int) -> None:
    points = np.random.default_rng(0).normal(size=(steps, 4, 3))
    path = film._smooth(points)
    for index, step in enumerate(points):
        assert path(index) == pytest.approx(step, abs=1e-9)
    for end, inside in ((0, 1e-4), (steps - 1, steps - 1 - 1e-4)):
        assert path(inside) == pytest.approx(points[end], abs=1e-6)
    # Smooth: the slopes on both sides of a step agree.
    for at in range(1, steps - 1):
        before, after = path(at) - path(at - 1e-5), path(at + 1e-5) - path(at)
        assert after == pytest.approx(before, abs=1e-8)


def test_the_film_begins_and_ends_with_a_step_and_never_goes_back() -> None:
    pace = list(film._pace(50))
    assert pace[:3] == [0, 0, 0] and pace[-5:] == [1] * 5 and len(pace) == 50
    assert pace == sorted(pace)


def test_samples_are_held_out_and_of_different_categories(results: Emergence) -> None:
    chosen = film.shown_samples(results)
    assert len(chosen) == 4 and results.held_out[chosen].all()
    assert results.y[chosen].tolist() == [0, 1, 2, 3]
    many = film.shown_samples(results, 6)
    assert len(set(many.tolist())) == 6


def test_what_is_drawn_are_the_held_out_regions_at_their_step(
    results: Emergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[tuple[Moment | None, Moment | None]] = []
    stages: list[dict[str, Any]] = []

    class Recorder:
        def __init__(self, *_: Any, **settings: Any) -> None:
            stages.append(settings)

        def draw(self, above: Moment | None, below: Moment | None) -> None:
            moments.append((above, below))

    monkeypatch.setattr(film, "Stage", Recorder)
    frames(results, 2)
    assert torch.equal(stages[0]["training_labels"], results.y[results.held_out])
    chosen = film.shown_samples(results)
    assert torch.equal(stages[0]["sample_labels"], results.y[chosen])
    for at, (above, below) in zip((0, -1), moments, strict=True):
        assert above is not None and below is not None
        # The last layer through training; the layers of the finished network.
        assert np.allclose(above.h, results.h[at, -1, results.held_out], atol=1e-5)
        h = results.h[-1, at, chosen]
        assert np.allclose(below.h, h, atol=1e-5)
        p = results.frame.posterior(h)[torch.arange(len(chosen)), :, results.y[chosen]]
        assert np.allclose(below.p, p, atol=1e-5)


@pytest.mark.slow
def test_only_what_moves_changes(results: Emergence) -> None:
    first, second, last = frames(results)
    assert first.shape[0] % 16 == first.shape[1] % 16 == 0 and first.dtype == np.uint8
    assert (first != second).any() and (second != last).any()
    # The notes, names and titles at the left edge of the page stay.
    assert (first[:, :12] == last[:, :12]).all()
    again = frames(results)
    assert all((a == b).all() for a, b in zip([first, second, last], again, strict=True))


def test_what_stays_is_on_the_page(results: Emergence) -> None:
    stage = Stage(
        results.frame.directions, results.categories, 12.5, epochs=results.labels,
        layers=results.layers, training_labels=results.y, sample_labels=[0, 1, 2, 3],
    )  # fmt: skip
    renderer, page = stage._canvas.get_renderer(), stage._figure.bbox
    for text in stage._figure.findobj(Text):
        if text.get_text() and text.get_visible() and text.axes is None:
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0, text.get_text()


def test_a_run_shows_the_half_that_it_has(results: Emergence) -> None:
    whole = frames(results)[0].shape[0]
    upper, lower = frames(one_layer(results))[0], frames(one_checkpoint(results))[0]
    assert whole > upper.shape[0] > lower.shape[0] > 300
    with pytest.raises(ValueError, match="one checkpoint and one layer, so nothing moves"):
        film.film_of(one_layer(one_checkpoint(results)), Path("unused"))
    with pytest.raises(ValueError, match="nothing that moves"):
        Stage(torch.eye(3), ["a", "b", "c"], 1.0, epochs=["0"])


def test_the_bars_name_where_the_film_is() -> None:
    stage = Stage(torch.eye(3), ["a", "b", "c"], 1.0, epochs=["0", "5"], training_labels=[0, 1, 2])
    h = np.random.default_rng(0).normal(size=(3, 4, 3))

    def label_at(position: float) -> str:
        stage.draw(Moment(position, h))
        return stage._bars["training"][1].texts[0].get_text()

    labels = [label_at(position) for position in (0, 0.4, 1)]
    assert labels == ["epoch 0", "epoch 0 → epoch 5", "epoch 5"]


@pytest.mark.slow
def test_a_film_of_the_plane_and_of_many_categories_is_drawn(results: Emergence) -> None:
    flat = Frame(results.frame.priors, torch.eye(2).repeat(2, 1), ExactKappa(2))
    plane = replace(results, frame=flat, g=results.g[..., :2], h=results.h[..., :2])
    assert frames(plane)[0].shape[1] == 1280
    C = 30
    mu = torch.randn(C, 3, generator=torch.Generator().manual_seed(0))
    stage = Stage(
        mu, [f"category {c}" for c in range(C)], 1.0, layers=["a", "b"], sample_labels=[3, 29],
        images=torch.rand(2, 1, 5, 5),
    )  # fmt: skip
    assert stage.draw(layers=Moment(0.5, torch.randn(2, 4, 3), torch.rand(2, 4))).std() > 10


def test_an_mp4_is_written_that_can_be_read_again(results: Emergence, tmp_path: Path) -> None:
    coder = pytest.importorskip("imageio_ffmpeg")
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    path = film.film_of(results, tmp_path / "a.b", images, **SHORT)
    assert path == tmp_path / "a.b.mp4" and 1000 < path.stat().st_size < film.MAX_BYTES
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.mp4"]
    reader = coder.read_frames(str(path))
    meta = next(reader)
    assert meta["codec"] == "h264" and meta["fps"] == 5
    assert meta["size"][0] == 1280 and len(list(reader)) == 5


@pytest.mark.slow
def test_without_the_coder_a_gif_is_written_and_said(
    results: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = film.film_of(results, tmp_path / "film", **SHORT)
    assert path.suffix == ".gif" and "pip install imageio-ffmpeg" in caplog.text
    with Image.open(path) as picture:
        assert picture.size[0] == 640
        whole = sum(_durations(picture))
    monkeypatch.setattr(film, "MAX_BYTES", path.stat().st_size * 3 // 4)
    film.film_of(results, tmp_path / "film", **SHORT)
    assert path.stat().st_size < film.MAX_BYTES
    with Image.open(path) as picture:
        # Frames go, the pace stays.
        assert picture.n_frames < 5  # type: ignore[attr-defined]
        assert sum(_durations(picture)) == pytest.approx(whole, abs=401)


def _durations(picture: Image.Image) -> list[int]:
    durations = []
    for index in range(picture.n_frames):  # type: ignore[attr-defined]
        picture.seek(index)
        durations.append(picture.info["duration"])
    return durations


def test_wrong_use_is_named(results: Emergence) -> None:
    for name, value in (("fps", 0), ("fps", 61), ("seconds", 0.5), ("seconds", 121)):
        with pytest.raises(ValueError, match=f"{name} must be from 1"):
            film.film_of(results, Path("unused"), **{name: value})
    wide = Frame(results.frame.priors, torch.eye(4), ExactKappa(4))
    with pytest.raises(ValueError, match=r"dim = 4, only 2 or 3 .*--dim 3"):
        film.film_of(replace(results, frame=wide), Path("unused"))
    with pytest.raises(ValueError, match="at most 4 samples, got 5"):
        Stage(torch.eye(3), ["a", "b", "c"], 1.0, layers=["x", "y"], sample_labels=[0] * 5)


def test_the_film_of_a_run_shows_its_small_images(
    results: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, pixels = FinishedRun(tmp_path, Config()), torch.arange(32).byte().expand(3, 2, 2, 32)
    thumbnails = Thumbnails(pixels.movedim(-1, 0), torch.zeros(0, 4, dtype=torch.int64))
    results.save(run.inside.emergence)
    thumbnails.save(run.inside.thumbnails)
    calls: list[tuple[Path, torch.Tensor]] = []

    def note(_: Emergence, path: Path, images: torch.Tensor, **__: float) -> Path:
        calls.append((path, images))
        return path

    monkeypatch.setattr(film, "film_of", note)
    assert animate(run, tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert animate(run) == tmp_path / "animate" / "emergence"
    samples = film.shown_samples(results)
    assert torch.equal(calls[0][1], thumbnails.images(samples)) and calls[0][1].max() > 0
    assert calls[0][1].shape == (4, 3, 2, 2)


def test_the_command_names_the_film_last(
    results: Emergence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    results.save(tmp_path / "fits" / "emergence")
    (tmp_path / "config.json").write_text(json.dumps({"format_version": 1, "subject": None}))
    result = CliRunner().invoke(app, ["animate", str(tmp_path), "--fps", "2", "--seconds", "1"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "animate" / "emergence.gif"
    assert result.stdout.splitlines()[-1] == f"Written to: {path}" and path.is_file()
    result = CliRunner().invoke(app, ["animate", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "holds no finished run" in result.stderr
