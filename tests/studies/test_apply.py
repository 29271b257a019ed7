"""New images in the frame of a run: nothing is fitted, and what is unlike the run is found."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.data import ArraySamples, take
from emergence_ext.method import ExactKappa
from emergence_ext.report import apply as report
from emergence_ext.report import verify_run
from emergence_ext.run import FinishedRun, RunFolder, Settings, SubjectSpec
from emergence_ext.run import run as make_run
from emergence_ext.studies import likeness
from emergence_ext.studies.apply import Applied, apply, open_folder
from emergence_ext.studies.likeness import Limit, best_matches, scores
from tests.old_runs import set_config
from tests.studies.saved import assert_equal, assert_updated_from_what_is_saved


@pytest.fixture(scope="module")
def run(finished_run: Path) -> FinishedRun:
    return FinishedRun.open(finished_run)


@pytest.fixture(scope="module")
def run_dir(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, to write into."""
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("apply") / "run")


@pytest.fixture(scope="module")
def photos(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two categories of the run, and noise that it knows nothing of."""
    folder = tmp_path_factory.mktemp("new") / "photos"
    generator = torch.Generator().manual_seed(1)
    for category in ("red", "blue"):
        (folder / category).mkdir(parents=True)
        for number in range(4):
            name = f"{number:02d}.png"
            shutil.copy(image_folder / category / name, folder / category / name)
    (folder / "$noise").mkdir()
    for number in range(3):
        pixels = 255 * torch.rand(16, 16, 3, generator=generator)
        Image.fromarray(pixels.byte().numpy()).save(folder / "$noise" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def applied(run_dir: Path, photos: Path) -> Applied:
    run = FinishedRun.open(run_dir)
    return apply(run, *open_folder(run, photos))


# The matching


@pytest.mark.parametrize("pairs", [1, 40, 1 << 22])
def test_matches_are_those_of_all_pairs_for_any_block(
    pairs: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(likeness, "PAIRS", pairs)
    F, run = torch.randn(5, 3, 4, generator=generator), torch.randn(7, 6, 4, generator=generator)
    run[2] = run[6]  # a tie goes to the first
    F[0, 0] = 0
    found = best_matches(F, run)
    unit = torch.nn.functional.normalize
    cosine = unit(F, dim=-1).flatten(0, 1) @ unit(run, dim=-1).flatten(0, 1).t()
    torch.testing.assert_close(found.likeness, cosine.amax(1).view(5, 3))
    chosen = cosine.gather(1, found.region.flatten()[:, None])
    torch.testing.assert_close(chosen[:, 0], cosine.amax(1))
    assert not (found.region // 6 == 6).any()
    assert found.likeness[0, 0] == 0
    run[5, 3] = 0  # what says nothing is like what says nothing
    found = best_matches(F, run)
    assert found.likeness[0, 0] == 1 and found.region[0, 0] == 5 * 6 + 3


def test_an_image_of_the_run_does_not_match_itself(generator: torch.Generator) -> None:
    run = torch.randn(6, 4, 5, generator=generator)
    own = torch.tensor([4, 1])
    itself, others = best_matches(run[own], run), best_matches(run[own], run, own=own)
    torch.testing.assert_close(itself.likeness, torch.ones(2, 4))
    assert (itself.region // 4 == own[:, None]).all()
    assert (others.likeness < 0.999).all() and not (others.region // 4 == own[:, None]).any()


def test_regions_of_another_width_and_a_run_without_others_are_errors() -> None:
    with pytest.raises(ValueError, match="run: its regions have 3 channels, the new ones 2"):
        best_matches(torch.ones(1, 1, 2), torch.ones(1, 1, 3))
    with pytest.raises(ValueError, match="run: it holds no other image"):
        best_matches(torch.ones(1, 1, 3), torch.ones(1, 1, 3), own=torch.tensor([0]))


# What is unlike the run


def test_images_like_the_runs_lie_below_the_limit_as_often_as_is_expected(
    generator: torch.Generator,
) -> None:
    values = torch.randn(300, generator=generator)
    limit = Limit.of(values)
    assert limit.expected == 3 / 301
    assert int((values < limit.value).sum()) == 2
    rates = [
        float((torch.randn(500, generator=generator) < Limit.of(x).value).double().mean())
        for x in torch.randn(200, 300, generator=generator)
    ]
    assert sum(rates) / len(rates) == pytest.approx(3 / 301, rel=0.15)


def test_few_held_out_images_say_how_often_they_are_wrong() -> None:
    limit = Limit.of(torch.arange(9.0))
    assert (limit.value, limit.expected) == (0.0, 0.1)
    assert limit.expected_below == pytest.approx((1 / 5 + 1 / 6) / 2)
    assert limit.below[:, 1].tolist() == [1] * 9 and int(limit.below[:, 0].sum()) in (0, 1, 2)
    assert Limit.of(torch.ones(1)).below.tolist() == [[0, 0]]  # no half to judge the other by


def test_an_image_that_stands_out_in_one_layer_alone_is_found(generator: torch.Generator) -> None:
    held_out = 0.9 + 0.02 * torch.rand(3, 200, 8, generator=generator)
    held_out[2] = 0.99 + 0.1 * (held_out[2] - 0.9)  # of another spread
    new = 0.9 + 0.02 * torch.rand(3, 5, 8, generator=generator)
    new[2] = 0.99 + 0.1 * (new[2] - 0.9)
    new[2, 3] -= 0.004
    score, layer = scores(new, held_out)
    limit = Limit.of(scores(held_out, held_out)[0])
    assert (score < limit.value).tolist() == [False, False, False, True, False]
    assert int(layer[3]) == 2


# Through a run


def test_images_of_the_run_get_what_the_run_has_of_them(
    run: FinishedRun, run_dir: Path, image_folder: Path
) -> None:
    own = FinishedRun.open(run_dir)
    for checkpoint in (1, 2):
        a = apply(own, *open_folder(own, image_folder, checkpoint), checkpoint)
        e = run.emergence
        order = torch.tensor([e.names.index(name) for name in a.names])
        assert a.checkpoint == e.labels[checkpoint]
        assert torch.equal(a.y, e.y[order])
        for ours, theirs in ((a.z, e.z), (a.g, e.g)):
            torch.testing.assert_close(ours, theirs[checkpoint, order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.h, e.h[checkpoint][:, order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.likeness, torch.ones_like(a.likeness), rtol=0, atol=1e-5)
        assert not a.unlike.any()
        assert a.accuracy().value == pytest.approx(e.accuracy(checkpoint))
        points = e.points(checkpoint, -1)
        assert int((a.points().reliable != points.reliable[order]).sum()) == 0


@pytest.mark.slow
def test_weights_of_the_conditioning_image_are_learned_of_each_new_image_by_itself(
    image_folder: Path, training: Path, photos: Path, tmp_path: Path
) -> None:
    spec = SubjectSpec(
        str(image_folder),
        "tests.tiny_networks:three",
        weights=str(sorted(training.glob("epoch_*.safetensors"))[-1]),
        size=16,
    )
    settings = Settings(
        region_images=15, importance_evals=10, regional_evals=3, weights_of="conditioning"
    )
    own = make_run(spec.load(), tmp_path / "run", settings)
    subject, said = open_folder(own, photos)
    a = apply(own, subject, said)
    assert a.w is not None and a.w.shape == a.h.shape[:3]
    torch.testing.assert_close(a.w.sum(-1), torch.ones(a.w.shape[:2]))
    one = replace(subject, dataset=take(subject.dataset, [4]))
    alone = apply(own, one, said[4:5])
    # An image in a batch of its own has other last bits of its features.
    torch.testing.assert_close(alone.w[:, 0], a.w[:, 4], rtol=0, atol=1e-3)
    a.save(tmp_path / "applied")
    assert torch.equal(Applied.load(tmp_path / "applied").w, a.w)
    assert all("w" in row for row in report.tables(a, own)["similar"])


def test_folders_that_the_run_does_not_know_are_unknown(applied: Applied, run: FinishedRun) -> None:
    a = applied
    assert a.names[0] == "$noise/0.png" and a.said[:3] == ["$noise"] * 3
    assert a.y[:3].tolist() == [-1] * 3
    assert [a.categories[c] for c in a.y[3:].tolist()] == a.said[3:]
    assert a.unlike.tolist()[:3] == [True] * 3 and not a.unlike[3:].any()
    for k in range(len(a.layers)):
        assert not a.points(k).reliable[:3].any()
    rows = {row["category"]: row for row in report.tables(a, run)["categories"]}
    assert set(rows) == {"all", "$noise", "red", "blue"}
    assert rows["$noise"]["accuracy"] == "unknown" and rows["all"]["of a category of the run"] == 8


def test_images_of_nothing_known_have_no_accuracy_and_no_reliable_points(
    run: FinishedRun, run_dir: Path, photos: Path, tmp_path: Path
) -> None:
    for path in photos.glob("red/*.png"):
        shutil.copy(path, tmp_path)
    own = FinishedRun.open(run_dir)
    a = apply(own, *open_folder(own, tmp_path))
    assert a.said == [""] * 4 and not a.known.any() and a.accuracy() is None
    tables = report.tables(a, run)
    assert {row["reliable"] for row in tables["points"]} == {"unknown"}
    assert {row["category"] for row in tables["images"]} == {"not said"}
    assert {row["category"]: row["images"] for row in tables["categories"]} == {
        "all": 4, "not said": 4,
    }  # fmt: skip


def test_of_a_folder_with_splits_the_validation_images_are_taken(
    run: FinishedRun, photos: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        shutil.copytree(photos / "red", tmp_path / split / "red")
    (tmp_path / "val" / "red" / "00.png").unlink()
    subject, said = open_folder(run, tmp_path)
    assert said == ["red"] * 3 and subject.dataset.names == [
        "red/01.png",
        "red/02.png",
        "red/03.png",
    ]


def test_splits_inside_of_categories_are_taken_together_and_said(
    run: FinishedRun, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for category in ("red", "blue"):
        for split in ("train", "val"):
            shutil.copytree(photos / "red", tmp_path / category / split)
    _, said = open_folder(run, tmp_path)
    assert said == ["blue"] * 8 + ["red"] * 8
    assert "holds splits inside of its categories: all of them are taken" in caplog.text


def test_the_tables_say_of_every_image_and_layer(applied: Applied, run: FinishedRun) -> None:
    a, e = applied, run.emergence
    tables = report.tables(a, run)
    images = tables["images"]
    assert [row["unlike the run"] for row in images[:4]] == ["yes", "yes", "yes", "no"]
    assert sorted(row["image"] for row in images) == sorted(a.names)
    for row in images:
        i = a.names.index(row["image"])
        assert row["|g|"] == pytest.approx(float(a.g[i].norm()))
        assert row["p"] == pytest.approx(float(a.z[i].softmax(0).max()))
        cosine = torch.cosine_similarity(a.g[i], a.frame.directions)
        assert row["1 - cos"] == pytest.approx(1 - float(cosine.max()), abs=1e-5)
        for k, layer in enumerate(a.layers):
            assert row[f"points, {layer}"] == int(a.points(k).point[i].sum())
            assert (row[f"reliable, {layer}"] is None) == (row["category"] == "$noise")
    assert len(tables["similar"]) == 11 * len(a.layers) * report.STRONGEST
    for row in tables["similar"]:
        k, i = a.layers.index(row["layer"]), a.names.index(row["image"])
        r = row["row"] * a.grid[1] + row["column"]
        image, place = divmod(int(a.similar[k, i, r]), a.grid[0] * a.grid[1])
        assert row["most similar in"] == e.names[image]
        assert (row["its row"], row["its column"]) == divmod(place, a.grid[1])
    unlike = {row["what"]: row for row in tables["unlike"]}
    assert list(unlike) == ["images", *(f"regions, {layer}" for layer in a.layers)]
    held_out = int(e.held_out.sum())
    assert unlike["images"]["held out"] == held_out
    assert unlike["images"]["unlike"] == 3 and unlike["images"]["expected"] == 1 / (held_out + 1)


def test_what_is_saved_comes_back(applied: Applied, tmp_path: Path) -> None:
    applied.save(tmp_path / "apply")
    assert_equal(Applied.load(tmp_path / "apply"), applied)


def test_a_frame_that_cannot_be_drawn_has_tables(applied: Applied, run: FinishedRun) -> None:
    def wider(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)

    frame = replace(applied.frame, directions=wider(applied.frame.directions), kappa=ExactKappa(4))
    a = replace(applied, frame=frame, g=wider(applied.g), h=wider(applied.h))
    drawings = report.figures(a, run)
    assert drawings["samples"] == "dim = 4, and space has 2 or 3 to draw in"
    assert callable(drawings["unlike"]) and callable(drawings["similar"])
    assert len(report.tables(a, run)["images"]) == 11


# The command


@pytest.mark.slow
def test_two_sets_are_two_sections_of_a_report_that_verifies(
    run_dir: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = CliRunner().invoke(app, ["apply", str(run_dir), "--data", str(photos)])
    assert done.exit_code == 0, done.output
    assert "11 new images, 8 of a category of the run" in done.output
    assert "3 images are in folders that are no category of the run: $noise (3)" in caplog.text
    assert "3 of 11 images are unlike anything in the run" in done.output
    assert done.output.splitlines()[-2:] == [
        f"tables and figures: {run_dir / 'apply/photos'}",
        f"Report: {(run_dir / 'report.html').as_uri()}",
    ]
    given = [f"{run_dir}@epoch 2", "--data", str(photos / "red"), "--name", "../<b>"]
    done = CliRunner().invoke(app, ["apply", *given])
    assert done.exit_code == 0, done.output
    names = {path.name for path in (run_dir / "apply").glob("*/")}
    assert len(names) == 2 and "photos" in names
    page = (run_dir / "report.html").read_text()
    for name in names:
        assert f'id="apply/{name}"' in page
        assert_updated_from_what_is_saved(
            run_dir, f"apply/{name}", {"samples", "unlike", "similar"}
        )
    with (run_dir / "apply/photos/tables/images.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 11
    assert not verify_run(run_dir).wrong
    origins = json.loads((run_dir / "apply/photos/apply.json").read_text())["made_from"]
    assert {"emergence", "new images"} == set(origins)
    path = RunFolder(run_dir).result("apply/photos")
    saved = Applied.load(path)
    saved.save(path, {"emergence": "of another run"})
    assert any(
        "apply/photos/apply was made from other results" in x for x in verify_run(run_dir).wrong
    )
    saved.save(path, origins)


def test_what_cannot_be_applied_is_said(
    run_dir: Path, photos: Path, tmp_path: Path, image_folder: Path
) -> None:
    def said(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["apply", *map(str, arguments)])
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    (tmp_path / "empty").mkdir()
    assert "holds no image" in said(run_dir, "--data", tmp_path / "empty")
    assert "no folder" in said(run_dir, "--data", tmp_path / "absent")
    assert "no checkpoints 'epoch 9'" in said(f"{run_dir}@epoch 9", "--data", photos)
    assert "holds no finished run" in said(tmp_path / "empty", "--data", photos)
    # The run's own images may be gone; its weights may not.
    moved = shutil.copytree(run_dir, tmp_path / "moved")
    subject = json.loads((moved / "config.json").read_text())["subject"]
    set_config(moved, subject=subject | {"data": str(tmp_path / "gone")})
    subject_of, _ = open_folder(FinishedRun.open(moved), photos)
    assert len(subject_of.dataset) == 11
    weights = tmp_path / "weights"
    shutil.copytree(Path(subject["checkpoints"]).parent, weights)
    pattern = str(weights / "epoch_*.safetensors")
    set_config(moved, subject=subject | {"checkpoints": pattern})
    (weights / "epoch_0012.safetensors").unlink()
    assert "the weights of epoch 12 are not among the files" in said(moved, "--data", photos)
    set_config(moved, subject=subject | {"checkpoints": str(tmp_path / "no" / "*.safetensors")})
    assert f"nothing matches '{tmp_path}/no" in said(moved, "--data", photos)
    set_config(moved, subject=subject | {"model": "tests.tiny_networks:gone"})
    assert "gone" in said(moved, "--data", photos)
    set_config(moved, subject=None)
    assert "was made from Python" in said(moved, "--data", photos)


def test_images_of_another_number_of_channels_are_an_error(
    run_dir: Path, photos: Path, generator: torch.Generator
) -> None:
    run = FinishedRun.open(run_dir)
    subject, _ = open_folder(run, photos)
    images = torch.rand(2, 2, 16, 16, generator=generator)
    strange = replace(subject, dataset=ArraySamples(images, [0, 1], run.emergence.categories))
    with pytest.raises(ValueError, match=r"takes 3 channels, and the images have 2"):
        apply(run, strange)
    with pytest.raises(ValueError, match=r"said: expected 11 names, one an image, got 1"):
        apply(run, subject, ["red"])
