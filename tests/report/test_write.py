"""A report is drawn again from what a run has saved: without its network, without its images."""

from __future__ import annotations

import html
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from emergence_ext import report
from emergence_ext.report import files as report_files
from emergence_ext.report.emergence import OF_IMAGES
from emergence_ext.report.emergence_text import SECTIONS
from emergence_ext.report.headline import headline, warnings
from emergence_ext.run import FinishedRun, Subject
from emergence_ext.store import StoreError, write_file
from emergence_ext.studies.compare import compare_runs
from emergence_ext.studies.shapley import shapley
from tests.old_runs import set_config
from tests.sketched import sketches

FIGURES = {figure.name for section in SECTIONS for figure in section.figures}
TABLES = {table.name for section in SECTIONS for table in section.tables} | {"images"}


def no_network(*_: Any, **__: Any) -> Subject:
    raise AssertionError("the network was asked for")


def without_images(folder: Path) -> Path:
    """Take a run's images away, as if their folder had been removed, and what is kept of them."""
    subject = json.loads((folder / "config.json").read_text())["subject"]
    set_config(folder, subject=subject | {"data": str(folder / "gone")})
    for path in folder.glob("thumbnails.*"):
        path.unlink()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """All that a report consists of."""
    kinds = (".csv", ".png", ".svg", ".html")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds
    }


def names(folder: Path, ending: str) -> set[str]:
    return {path.stem for path in folder.glob(f"*.{ending}")}


@pytest.fixture(scope="module", autouse=True)
def sketched() -> Iterator[None]:
    yield from sketches()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What all figures are saved as, though they are drawn: saving takes longest."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG")

    def save(figure: Figure, path: Path) -> None:
        assert figure.axes
        for kind in ("png", "svg"):
            write_file(path.with_name(f"{path.name}.{kind}"), content.getvalue())

    monkeypatch.setattr(report_files, "save_figure", save)
    return content.getvalue()


@pytest.fixture(scope="module")
def reported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with experiments and its report, whose images are away; its thumbnails are kept."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("reported") / "run")
    run = FinishedRun.open(folder)
    subject = run.subject()
    shapley(subject, run.emergence, images=3, samples=32).save(run.inside.result("shapley"))
    comparison, _, place = compare_runs(f"{folder}@0", str(folder))
    comparison.save(place / "compare")
    data = folder.parent / "data"
    shutil.copytree(subject.spec.data, data)  # type: ignore[union-attr]
    set_config(folder, subject=run.config.subject | {"data": str(data)})  # type: ignore[operator]
    page = report.write(folder)
    assert page == folder / "report.html"
    shutil.rmtree(data)
    return folder


@pytest.mark.slow  # all of it, twice
def test_everything_is_drawn_again_without_network_and_images(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(reported, tmp_path / "run")
    before = files(folder)
    for path in before:
        (folder / path).unlink()
    monkeypatch.setattr(FinishedRun, "subject", no_network)
    report.write(folder)
    after = files(folder)
    assert after.keys() == before.keys()
    assert [path for path in before if before[path] != after[path]] == []
    assert names(folder / "figures", "svg") == names(folder / "figures", "png") >= set(OF_IMAGES)
    assert names(folder / "tables", "csv") == TABLES and names(folder / "figures", "png") <= FIGURES
    for place in (folder / "shapley", *(folder / "compare").iterdir()):
        assert names(place / "figures", "png") and names(place / "tables", "csv")


def test_the_page_has_the_headline_and_the_warnings(reported: Path) -> None:
    run = FinishedRun.open(reported)
    page = html.unescape((reported / "report.html").read_text(encoding="utf-8")).replace(
        "\u00a0", " "
    )
    numbers, texts = headline(run), warnings(run)
    assert {"accuracy", "strength and uncertainty", "knowledge points per image"} <= numbers.keys()
    assert len(texts) >= 1
    assert not any("limit of evaluations" in text for text in texts)  # which is the method
    for text in (*numbers, *(entry["explain"] for entry in numbers.values()), *texts):
        assert text in page
    e = run.emergence
    assert numbers["accuracy"]["value"] == pytest.approx(100 * e.accuracy())
    count = e.points().subset(e.held_out).count()
    per_image = numbers["knowledge points per image"]
    assert per_image["low"] <= per_image["value"] <= per_image["high"]
    assert per_image["value"] == pytest.approx(count.total.value / int(e.held_out.sum()))
    assert count.ratio is not None
    assert numbers["reliable ratio"]["value"] == pytest.approx(100 * count.ratio.value)


def test_without_thumbnails_and_images_all_else_is_written_and_older_pictures_stay(
    reported: Path, tmp_path: Path, stub: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = without_images(shutil.copytree(reported, tmp_path / "run"))
    before = files(folder)
    starts = (*(f"figures/{name}." for name in OF_IMAGES), "shapley/figures/maps_")
    of_images = [path for path in before if path.startswith(starts) or "/figures/moved_" in path]
    assert len(of_images) == 2 * (len(OF_IMAGES) + 1 + 2)
    for path in before.keys() - set(of_images):
        (folder / path).unlink()
    report.write(folder)
    after = files(folder)
    assert after.keys() == before.keys()
    for path in before.keys() - {"report.html"}:
        same = path in of_images or path.endswith(".csv")
        assert after[path] == (before[path] if same else stub), path
    messages = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("images are left out: ") for text in messages)
    for name in (*OF_IMAGES, "maps_conv2_1", "moved_regions", "moved_images"):
        assert f"no figure {name}: the images of the run are not there" in messages
    assert not list(folder.glob("thumbnails.*"))
    for path in of_images:
        (folder / path).unlink()
    page = html.unescape(report.update(FinishedRun.open(folder), "shapley").read_text())
    assert "Not in this run: " in page


def test_a_run_of_an_earlier_version_gets_its_report(
    finished_run: Path, tmp_path: Path, stub: bytes
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    twice = warnings(FinishedRun.open(folder))
    set_config(
        folder,
        headline={"accuracy": {"value": 1.0, "explain": "of an older day"}},
        warnings=[*twice, "No correlation at temperature 4: it collapsed"],
        subject=None,
        command=None,
    )
    for path in folder.glob("thumbnails.*"):
        path.unlink()
    page = html.unescape(report.write(folder).read_text(encoding="utf-8"))
    assert "of an older day" not in page
    for text in (*twice, "No correlation at temperature 4: it collapsed"):
        assert page.count(text) == 1
    assert names(folder / "tables", "csv") == TABLES
    # Nobody wrote down how to load it, so there are no images.
    assert names(folder / "figures", "png") == FIGURES - set(OF_IMAGES)


@pytest.mark.slow
def test_tables_and_figures_that_an_experiment_no_longer_has_go(
    reported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(reported, tmp_path / "run")
    run = FinishedRun.open(folder)
    for path in ("shapley/tables/old.csv", "shapley/figures/old.png", "shapley/figures/old.svg"):
        (folder / path).write_bytes(b"")
    (folder / "shapley" / "notes.txt").write_text("mine")
    report.update(run, "shapley")
    assert files(folder) == files(reported)
    assert (folder / "shapley" / "notes.txt").read_text() == "mine"


def test_what_is_not_there_is_named(finished_run: Path, tmp_path: Path) -> None:
    run = FinishedRun.open(shutil.copytree(finished_run, tmp_path / "run"))
    with pytest.raises(ValueError, match="name: no experiment 'atack'; there are paper_tables, "):
        report.update(run, "atack")
    with pytest.raises(StoreError):
        report.update(run, "attack")
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        report.write(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"config\.json notes no setting"):
        report.write(replace(run, config=replace(run.config, settings={})))
