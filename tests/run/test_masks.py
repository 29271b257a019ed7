"""Runs in which only the regions on objects count: what lies outside of these changes nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from emergence_ext import report
from emergence_ext.cli import app
from emergence_ext.data import ArraySamples, Masks
from emergence_ext.report.emergence import importance_rows
from emergence_ext.report.exporting import regions as exported
from emergence_ext.run import (
    Checkpoint,
    FinishedRun,
    Settings,
    Subject,
    emergence,
    recompute,
    run,
    subject_of,
    verify,
)
from emergence_ext.store import content_digest
from emergence_ext.studies.apply import apply
from emergence_ext.studies.attack import attack
from emergence_ext.studies.compare import compare
from emergence_ext.studies.controls import random_features, shuffled
from emergence_ext.studies.distill import distill
from emergence_ext.studies.foreground import Objects, share_of_points
from emergence_ext.studies.paper_tables import paper_tables
from emergence_ext.studies.shapley import shapley
from tests.planted import feature_set

pytestmark = pytest.mark.usefixtures("no_strength_fits")

C, N, GRID = 3, 36, (4, 4)
FEW = Settings(region_images=12, importance_evals=3, regional_evals=3)
BOXES = {
    str(n): [(0.25 * (n % 3), 0.0, 0.25 * (n % 3) + 0.5, 0.5 + 0.25 * (n % 2))] for n in range(N)
}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 2, stride=2), nn.ReLU())
        self.head = nn.Linear(6, C)
        for layer in (self.first[0], self.second[0]):
            layer.weight.data /= 20
            layer.weight.data[torch.arange(C), torch.arange(C)] += 0.5
        self.head.weight.data[torch.arange(C), torch.arange(C)] += 10

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


def _subject(masks: Masks | None) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _Net().eval()
    y = torch.arange(N) % C
    images = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    images[torch.arange(N), y] += 0.4
    samples = ArraySamples(images, y.tolist(), [f"category {c}" for c in range(C)])
    layers = {"first": "first", "second": "second"}
    return Subject(module, layers, samples, batch_size=8, masks=masks)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return run(_subject(Masks(BOXES)), tmp_path_factory.mktemp("masked"), FEW, alphas=[1.0])


def test_nothing_is_found_outside_of_the_objects(masked: FinishedRun) -> None:
    e = FinishedRun.open(masked.folder).emergence
    mask = Masks(BOXES).on_grid(e.names, GRID)
    assert e.mask is not None and torch.equal(e.mask, mask) and set(mask.sum(1).tolist()) == {4, 6}
    outside = ~mask
    assert e.h is not None and not e.h[..., outside, :].any()
    assert (e.h[..., mask, :].norm(dim=-1) > 0).float().mean() > 0.9
    assert not e.w[..., outside[e.region_images]].any()
    torch.testing.assert_close(e.w.sum(-1), torch.ones(1, 2, 12))
    for k in range(2):
        points = e.points(-1, k)
        assert points.point[mask].any() and not points.point[outside].any()
    # Layers are of one mean strength over the regions that count.
    strengths = e.h[0, :, e.region_images].norm(dim=-1)[:, mask[e.region_images]].mean(1)
    torch.testing.assert_close(strengths[0], strengths[1], rtol=1e-4, atol=0)
    recompute(masked)


def test_what_lies_outside_of_the_objects_changes_nothing() -> None:
    features = feature_set(1.0, 32)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(32, 6, generator=generator) < 0.6
    mask[:, 2] = True

    def found(fill: float) -> Any:
        layers = {x: F.masked_fill(~mask[..., None], fill) for x, F in features.layers.items()}
        part = replace(features, layers=layers, mask=mask)
        return emergence([Checkpoint("last", 1, lambda: part)], FEW)

    one, other = found(0.0), found(torch.nan)
    assert torch.equal(one.h, other.h) and torch.equal(one.w, other.w)
    whole = emergence([Checkpoint("last", 1, lambda: features)], FEW)
    assert torch.equal(one.g, whole.g) and not torch.equal(one.h, whole.h)


def test_many_images_are_masked_as_they_are_streamed(masked: FinishedRun, tmp_path: Path) -> None:
    many = run(_subject(Masks(BOXES)), tmp_path, replace(FEW, keep_features=0))
    e = FinishedRun.open(tmp_path).emergence
    assert e.stores and torch.equal(e.mask, masked.emergence.mask)  # type: ignore[arg-type]
    assert torch.equal(e.w, masked.emergence.w)
    h = e.regions()
    assert not h[~e.mask].any()  # type: ignore[operator]
    # Half precision rounds by 2^-11 at most.
    torch.testing.assert_close(h, masked.emergence.regions(), rtol=5e-4, atol=1e-6)
    assert torch.equal(e.sample.mask, e.mask[e.sampled])  # type: ignore[index,arg-type]
    recompute(many)


def test_a_run_goes_on_with_its_masks_and_no_others(
    masked: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_digest(masked.inside.emergence)
    monkeypatch.setattr(Subject, "extract", lambda *_, **__: pytest.fail("extracted again"))
    run(_subject(Masks(BOXES)), masked.folder, FEW, alphas=[1.0])
    assert content_digest(masked.inside.emergence) == before
    others = {**BOXES, "0": [(0.0, 0.0, 1.0, 1.0)]}
    for subject, what in ((_subject(Masks(others)), "masks"), (_subject(None), "regions")):
        with pytest.raises(ValueError, match=f"holds another run, which differs in .*{what}"):
            run(subject, masked.folder, FEW, alphas=[1.0])


def test_tables_and_exports_are_of_the_regions_that_count(masked: FinishedRun) -> None:
    e, mask = masked.emergence, masked.emergence.mask
    assert mask is not None
    assert sum(len(part["row"]) for part in exported(e)) == 2 * int(mask.sum())

    def correlations(x: Tensor) -> list[float]:
        rows = zip(x, e.w[-1, -1], mask[e.region_images], strict=True)
        return [np.corrcoef(a[there].double(), w[there].double())[0, 1] for a, w, there in rows]

    h = e.regions(-1, -1, e.region_images).norm(dim=-1)
    row = importance_rows(e, FEW.alpha)[-1]
    expected = np.nanmean(correlations(h))
    assert row["Pearson of |h| with w, mean"] == pytest.approx(expected, abs=1e-4)
    (other,) = masked.other_alphas()
    raw = correlations(e.raw_strength[-1, -1])
    assert other.raw_r.tolist() == pytest.approx(raw, abs=1e-4, nan_ok=True)
    everywhere = Objects(e.names, torch.ones_like(mask))
    assert (
        share_of_points(e, everywhere).area == share_of_points(e, Objects(e.names, mask)).area == 1
    )


@pytest.mark.slow
def test_page_and_film_are_of_the_regions_that_count(masked: FinishedRun) -> None:
    report.write(masked)
    page = masked.inside.report.read_text(encoding="utf-8")
    share = float(masked.emergence.mask.double().mean())  # type: ignore[union-attr]
    assert f"Only regions on the objects count, {share:.0%} of all" in page
    assert '"counted":"' in page
    assert report.animate(masked, fps=2, seconds=1).stat().st_size > 0


def test_controls_are_of_the_same_regions_and_others_say_that_they_cannot(
    masked: FinishedRun,
) -> None:
    subject, e = _subject(Masks(BOXES)), masked.emergence
    assert torch.equal(random_features(subject, e.grid, 0).mask, e.mask)  # type: ignore[arg-type]
    found, features = shuffled(masked.features(), 0), masked.features()
    assert torch.equal(found.mask, e.mask) and torch.equal(
        found.layers["first"], features.layers["first"]
    )  # type: ignore[arg-type]
    for what in (
        lambda: compare(e, e),
        lambda: attack(subject, e, masked.learned()),
        lambda: shapley(subject, e),
        lambda: apply(masked, subject),
        lambda: distill(masked, subject),
        lambda: paper_tables({"a": masked}, [1.0], with_ablation=True),
    ):
        with pytest.raises(ValueError, match="looks at all regions"):
            what()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs, and masks of their objects, half of the image; that of the last is tiny."""
    generator = np.random.default_rng(0)
    for c in range(C):
        for n in range(8):
            pixels = generator.integers(0, 120, (8, 8, 3)).astype(np.uint8)
            pixels[..., c] += 100
            mask = np.zeros((8, 8), np.uint8)
            mask[:, 4:] = 255
            if (c, n) == (C - 1, 7):
                mask[:] = 0
                mask[0, 2] = 1
            for folder, what in (("photos", pixels), ("masks", mask)):
                path = tmp_path / folder / f"c{c}" / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(what).save(path)
    return tmp_path


def test_the_command_takes_masks_or_boxes(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write", lambda finished: finished.folder)  # takes long
    call = ["run", "--data", str(photographs / "photos"), "--model", "tests.run.test_masks:_Net"]
    call += ["--layers", "first,second", "--size", "8", "--region-images", "12"]
    call += ["--set", "importance_evals=2", "--set", "regional_evals=2"]
    given = ["--masks", str(photographs / "masks"), "--out", str(photographs / "run")]
    done = CliRunner().invoke(app, [*call, *given])
    assert done.exit_code == 0, done.output
    finished = FinishedRun.open(photographs / "run")
    mask = finished.emergence.mask
    assert mask is not None and mask.sum(1).tolist() == [8] * 23 + [1]
    assert mask[-1].nonzero().tolist() == [[1]]
    assert torch.equal(finished.subject().masks.on_grid(finished.emergence.names, GRID), mask)  # type: ignore[union-attr]
    assert verify(finished.folder).read["sets of masks"] == 1
    path = photographs / "masks" / "c0" / "1.png"
    before = path.read_bytes()
    Image.fromarray(np.ones((8, 8), np.uint8)).save(path)
    assert verify(finished.folder).wrong[0].startswith(f"the masks in {photographs / 'masks'} are")
    path.write_bytes(before)
    boxes = photographs / "boxes.csv"
    with boxes.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("name", "left", "top", "right", "bottom"), ("c0/0.png", 0, 0, 1, 1)]
        )
    for more, says in (
        (["--boxes", str(boxes), *given], "give either --boxes FILE or --masks DIR"),
        (["--boxes", str(boxes), "--out", "x"], "23 of 24 images have none, 'c0/1.png' first"),
        (["--masks", str(photographs / "photos" / "c0"), "--out", "x"], "24 of 24 images have"),
    ):
        done = CliRunner().invoke(app, [*call, *more])
        assert done.exit_code == 2 and says in done.output, done.output


def test_an_image_without_a_region_is_named(photographs: Path) -> None:
    path = photographs / "masks" / "c1" / "0.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    subject = subject_of(
        _Net().eval(), photographs / "photos", ["second"], size=8, masks=photographs / "masks"
    )
    with pytest.raises(ValueError, match=r"nothing of image 'c1/0.png' is on its object"):
        subject.extract()
    features = feature_set(1.0, 8)
    mask = torch.ones(8, 6, dtype=torch.bool)
    mask[3] = False
    for wrong, says in (
        (mask, f"mask has no region of image '{features.names[3]}'"),
        (torch.ones(8, 6), "mask is torch.float32, expected torch.bool"),
        (mask[:, :2], r"mask has shape \[8, 2\], expected \[8, 6\]"),
    ):
        with pytest.raises(ValueError, match=says):
            replace(features, mask=wrong)
