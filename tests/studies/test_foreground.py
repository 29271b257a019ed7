"""Points on the object: planted boxes are found again, points anywhere have the boxes' area."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.data.annotations import (
    COLUMNS,
    boxes_on_grid,
    find_masks,
    mask_on_grid,
    read_boxes,
)
from emergence_ext.method.intervals import bootstrap_ratio
from emergence_ext.method.knowledge import KnowledgePoints
from emergence_ext.report import foreground as report
from emergence_ext.run.finished import FinishedRun
from emergence_ext.studies.foreground import Objects, find_objects, foreground
from tests.studies.saved import assert_equal, assert_updated_from_what_is_saved

GRID = (4, 5)
BOXES = [
    [(0.0, 0.0, 0.4, 0.5)],
    [(0.6, 0.25, 1.0, 1.0)],
    [],
    [(0, 0, 0.2, 0.25), (0.8, 0.75, 1, 1)],
]


def points(confident: torch.Tensor, right: torch.Tensor | None = None) -> KnowledgePoints:
    y = torch.zeros(len(confident), dtype=torch.int64)
    category = torch.zeros_like(confident, dtype=torch.int64)
    if right is not None:
        category = (~right).long()
    return KnowledgePoints(confident.double(), category, torch.zeros(confident.shape), y)


def test_regions_are_those_whose_centre_lies_in_a_box() -> None:
    inside = boxes_on_grid(BOXES, GRID).view(-1, *GRID)
    assert inside[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert inside[1].sum() == 6 and inside[1, 1:, 3:].all()
    assert not inside[2].any()
    assert inside[3].nonzero().tolist() == [[0, 0], [3, 4]]


def test_points_in_the_boxes_alone_have_a_share_of_one() -> None:
    inside = boxes_on_grid(BOXES, GRID)
    share = foreground(points(inside), inside)
    assert share.images == 4 and share.area == pytest.approx(12 / 80)
    assert share.points == share.reliable
    assert (share.points.value, share.points.low, share.points.high) == (1, 1, 1)
    assert foreground(points(~inside), inside).points.value == 0


def test_points_anywhere_have_the_share_of_the_area(generator: torch.Generator) -> None:
    inside = boxes_on_grid(BOXES * 50, GRID)
    anywhere = torch.rand(inside.shape, generator=generator) < 0.5
    share = foreground(points(anywhere, right=inside), inside)
    assert share.points.low < share.area < share.points.high
    assert share.points.high - share.points.low < 0.1
    assert share.reliable.value == 1  # right nowhere else


def test_without_points_there_is_no_share() -> None:
    inside = boxes_on_grid(BOXES, GRID)
    assert foreground(points(torch.zeros_like(inside)), inside).points is None
    assert bootstrap_ratio(torch.zeros(3), torch.zeros(3)) is None


def test_another_number_of_regions_is_an_error() -> None:
    inside = boxes_on_grid(BOXES, GRID)
    with pytest.raises(ValueError, match=r"inside must be \[N, R\] = \[4, 20\], got \[4, 19\]"):
        foreground(points(inside), inside[:, 1:])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("a.png,0,0,1", "line 2 .* holds no numbers"),
        ("a.png,0,0,x,1", "line 2 .* holds no numbers"),
        ("a.png,0,0,2,1", "is no box in shares"),
        ("a.png,0.5,0,0.5,1", "is no box in shares"),
        ("a.png,0,0,nan,1", "is no box in shares"),
    ],
)
def test_a_line_that_is_no_box_is_named(line: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(",".join(COLUMNS) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"^boxes: .*{error}"):
        read_boxes(path)
    path.write_text("file,x\n")
    with pytest.raises(ValueError, match=r"must have the columns name, left.* has file, x"):
        read_boxes(path)


def test_the_command_counts_the_points_of_held_out_images(
    finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    e = FinishedRun.open(run_dir).emergence
    path = tmp_path / "boxes.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([name, 0, 0, 0.5, 1] for name in e.names)
    done = CliRunner().invoke(app, ["foreground", str(run_dir), "--boxes", str(path)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "of which it takes 50% of the area (chance)" in lines[-len(e.layers) - 3]
    told = [line.strip().partition(":")[0] for line in lines[-len(e.layers) - 2 : -2]]
    assert told == e.layers
    assert lines[-2:] == [
        f"tables and figures: {run_dir / 'foreground'}",
        f"Report: {(run_dir / 'report.html').as_uri()}",
    ]
    rows = table_in(run_dir)
    assert [row["layer"] for row in rows] == e.layers
    assert {row["images"] for row in rows} == {str(int(e.held_out.sum()))}
    assert {float(row["area"]) for row in rows} == {0.5}
    assert_updated_from_what_is_saved(run_dir, "foreground", set())
    path.write_text(",".join(COLUMNS) + "\nnobody.png,0,0,1,1\n")
    done = CliRunner().invoke(app, ["foreground", str(run_dir), "--boxes", str(path)])
    assert done.exit_code == 2 and "for none of the" in done.output


def test_the_table_is_of_held_out_images_in_the_last_checkpoint(finished_run: Path) -> None:
    run = FinishedRun.open(finished_run)
    e = run.emergence
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(e.h.shape[2:4], generator=generator) < 0.3
    given = [n for n in range(len(e.names)) if n % 5]  # not of all images
    known = [n for n in e.held_out.nonzero().flatten().tolist() if n % 5]
    objects = Objects([e.names[n] for n in given], inside[given])
    rows = report.tables(objects, run)["foreground"]
    assert [row["layer"] for row in rows] == e.layers
    for k, row in enumerate(rows):
        points = e.points(-1, k)
        assert row["images"] == len(known)
        assert row["area"] == pytest.approx(float(inside[known].double().mean()))
        for name, mask in (("points", points.point), ("reliable", points.reliable)):
            share = (mask & inside)[known].sum() / mask[known].sum()
            assert row[name] == pytest.approx(float(share))
            assert row[f"{name}, low"] <= row[name] <= row[f"{name}, high"]


def test_objects_come_back_from_disk_as_they_were(finished_run: Path, tmp_path: Path) -> None:
    e = FinishedRun.open(finished_run).emergence
    path = tmp_path / "boxes.csv"
    # The second image has two boxes; that of an image of no run is dropped.
    lines = [(e.names[0], 0, 0, 0.5, 1), (e.names[1], 0, 0, 1, 0.5), (e.names[1], 0, 0, 0.5, 1)]
    path.write_text("\n".join(",".join(map(str, x)) for x in [COLUMNS, *lines, ("x", 0, 0, 1, 1)]))
    objects = find_objects(replace(e, held_out=torch.ones_like(e.held_out)), boxes=path)
    assert objects.names == e.names[:2]
    assert torch.equal(objects.inside.sum(1), torch.tensor([2, 3]) * e.h.shape[3] // 4)
    given = find_objects(replace(e, held_out=torch.ones_like(e.held_out)), boxes=read_boxes(path))
    assert_equal(given, objects)
    objects.save(tmp_path / "foreground")
    again = Objects.load(tmp_path / "foreground")
    assert_equal(again, objects)
    assert torch.equal(again.by_name()[e.names[1]], objects.inside[1])


def table_in(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "foreground" / "tables" / "foreground.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def test_a_mask_says_what_boxes_of_the_same_place_say(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[:20, :20] = 1  # of the centred square of 40 pixels the left 15
    path = write_mask(tmp_path / "mask.png", mask)
    box = boxes_on_grid([[(0.0, 0.0, 0.375, 0.5)]], (4, 4))[0]
    assert torch.equal(mask_on_grid(path, (4, 4)), box)
    coloured = np.stack([0 * mask, 0 * mask, 255 * mask, 0 * mask + 255], axis=-1)
    assert torch.equal(mask_on_grid(write_mask(path, coloured), (4, 4)), box)
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^masks: .*mask.png cannot be read"):
        mask_on_grid(path, (4, 4))


def test_masks_are_found_by_the_name_of_the_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.PNG"):
        write_mask(tmp_path / name, np.ones((2, 2), np.uint8))
    (tmp_path / "b" / "notes.txt").write_text("none")
    write_mask(tmp_path / "a" / "2.jpg", np.ones((2, 2), np.uint8))  # edges of JPEG are not sharp
    files = find_masks(tmp_path, ["a/1.jpg", "a/2.jpg", "b/1.JPEG", "b/notes.jpg", "../a/1.jpg"])
    assert files == {"a/1.jpg": tmp_path / "a/1.png", "b/1.JPEG": tmp_path / "b/1.PNG"}
    with pytest.raises(ValueError, match=r"^masks: .* is no folder"):
        find_masks(tmp_path / "nowhere", [])


def test_the_command_takes_masks_too_but_not_both(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    e = FinishedRun.open(run_dir).emergence
    half = np.repeat(np.array([[255, 0]], np.uint8), 8, axis=1).repeat(16, axis=0)
    for name in e.names:
        write_mask(tmp_path / "masks" / Path(name).with_suffix(".png"), half)
    call = ["foreground", str(run_dir), "--masks", str(tmp_path / "masks")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    rows = table_in(run_dir)
    assert {row["images"] for row in rows} == {str(int(e.held_out.sum()))}
    assert {float(row["area"]) for row in rows} == {0.5}
    for wrong in ([*call, "--boxes", "b.csv"], call[:2]):
        done = CliRunner().invoke(app, wrong)
        assert done.exit_code == 2 and "give either --boxes FILE or --masks DIR" in done.output
    done = CliRunner().invoke(app, [*call[:2], "--boxes", "b.csv"])
    assert done.exit_code == 2 and "boxes: no file b.csv" in done.output
