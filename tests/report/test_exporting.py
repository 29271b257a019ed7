"""What other programs read of a run is what the run found."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from emergence_ext import report
from emergence_ext.cli import app
from emergence_ext.names import from_cell
from emergence_ext.report import emergence
from emergence_ext.run import Emergence, FinishedRun
from tests.report.test_load import crowd
from tests.studies.saved import save_run
from tests.trust.jobs import left

CSV = ["knowledge", "correlations", "fits", "images", "importance", "similarity"]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: from_cell(x) for k, x in row.items()} for row in csv.DictReader(file)]


def _parquet(path: Path) -> Any:
    return pytest.importorskip("pyarrow.parquet").ParquetFile(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    e = Emergence(**{**vars(crowd(6, per=5, R=6)), "tau": 0.4})
    return save_run(tmp_path_factory.mktemp("exported") / "run", e)


def _check(run: FinishedRun, samples: list[dict[str, Any]], regions: list[dict[str, Any]]) -> None:
    """Hold rows, of numbers or of texts of numbers, against the run."""
    e = run.emergence
    T, L, N, (H, W) = len(e.labels), len(e.layers), len(e.names), e.grid
    assert len(samples) == T * N and len(regions) == T * L * N * H * W
    g = torch.tensor([[float(row[f"g {axis}"]) for axis in (1, 2, 3)] for row in samples])
    assert torch.equal(g, e.g.flatten(0, 1))
    h = torch.tensor([[float(row[f"h {axis}"]) for axis in (1, 2, 3)] for row in regions])
    assert torch.equal(h, e.h.flatten(0, 3))
    last = [row for row in samples if row["checkpoint"] == e.labels[-1]]
    unsure = torch.tensor([float(row["entropy (nats)"]) for row in last])
    assert torch.equal(unsure, e.entropy())
    said = {row["image"]: row for row in emergence.images(e)}  # in an order of its own
    assert [row["image"] for row in last] == e.names
    for row in last:
        for name in ("category", "network says"):
            assert row[name] == said[row["image"]][name]
    for t, label in enumerate(e.labels):
        for k, layer in enumerate(e.layers):
            here = [r for r in regions if (r["checkpoint"], r["layer"]) == (label, layer)]
            points = e.points(t, k)
            said = [e.categories[y] for y in points.category[points.point].tolist()]
            found = [r["knowledge point for"] for r in here if r["knowledge point for"]]
            assert found == said
            true = [r["reliable"] in (True, "yes") for r in here]
            assert true == points.reliable.flatten().tolist()
            assert [(int(r["row"]), int(r["column"])) for r in here[: H * W]] == [
                (row, column) for row in range(H) for column in range(W)
            ]
            assert [r["image"] for r in here[:: H * W]] == e.names
            p = torch.tensor([float(r["p of the true category"]) for r in here])
            right = points.reliable.flatten()
            assert torch.allclose(p[right], points.confidence.flatten()[right])


def test_csv_holds_what_was_found(run: FinishedRun, tmp_path: Path) -> None:
    before = left(run.folder)
    written = report.export(run, tmp_path, "csv")
    assert left(run.folder) == before
    assert sorted(written) == sorted(x for x in tmp_path.rglob("*") if x.is_file())
    _check(run, _rows(tmp_path / "samples.csv"), _rows(tmp_path / "regions.csv"))
    assert _rows(tmp_path / "samples.csv")[0]["held out"] in ("yes", "no")
    for name in CSV:
        assert (tmp_path / "tables" / f"{name}.csv").is_file()


def test_parquet_holds_what_was_found(run: FinishedRun, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow, of the extra [export], is not installed")
    report.export(run, tmp_path)
    samples, regions = (_parquet(tmp_path / f"{x}.parquet").read() for x in ("samples", "regions"))
    _check(run, samples.to_pylist(), regions.to_pylist())
    assert samples["held out"].to_pylist()[: len(run.emergence.names)] == (
        run.emergence.held_out.tolist()
    )
    for name in CSV:
        table = _parquet(tmp_path / "tables" / f"{name}.parquet").read()
        rows = list(emergence.tables(run)[name])
        assert table.column_names == list(rows[0]) and len(table) == len(rows)
    ratio = _parquet(tmp_path / "tables" / "knowledge.parquet").read()["ratio"]
    assert str(ratio.type) == "double", "words in place of numbers are left out"


def test_blocks_join_to_the_same_file(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.export(run, tmp_path / "whole", "csv")
    monkeypatch.setattr("emergence_ext.report.exporting._ROWS", 100)
    report.export(run, tmp_path / "blocks", "csv")
    assert left(tmp_path / "whole") == left(tmp_path / "blocks")


def test_parquet_has_a_row_group_a_block(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow, of the extra [export], is not installed")
    monkeypatch.setattr("emergence_ext.report.exporting._ROWS", 100)
    report.export(run, tmp_path)
    file = _parquet(tmp_path / "regions.parquet")
    assert file.num_row_groups == 2 * 2 * 2
    assert all(file.metadata.row_group(k).num_rows <= 100 for k in range(file.num_row_groups))


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_names_of_any_kind_come_back(format: str, tmp_path: Path) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, of the extra [export], is not installed")
    odd = ["=1+1", 'a "b", c\nd\re', "\udcff", "undefined"]
    e = Emergence(**{**vars(crowd(len(odd))), "categories": odd, "tau": 0.4})
    run = save_run(tmp_path / "run", e)
    report.export(run, tmp_path / "out", format)
    if format == "csv":
        rows = _rows(tmp_path / "out" / "samples.csv")
        assert '"\'=1+1"' in (tmp_path / "out" / "samples.csv").read_text()
    else:
        rows = _parquet(tmp_path / "out" / "samples.parquet").read().to_pylist()
    assert {row["category"] for row in rows} == {*odd[:2], "\\udcff", "undefined"}


def test_the_command_names_its_files(run: FinishedRun, tmp_path: Path) -> None:
    asked = ["export", str(run.folder), "--out", str(tmp_path), "--format", "csv"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "regions.csv") in done.stdout.splitlines()


def test_wrong_use_is_told(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*options: str) -> str:
        done = CliRunner().invoke(app, ["export", str(run.folder), *options])
        assert done.exit_code == 2, done.output
        return done.stderr

    out = str(tmp_path / "out")
    text = told("--out", out, "--format", "xlsx")
    assert "--format: expected one of parquet, csv, got 'xlsx'" in text
    assert "is the run itself" in told("--out", str(run.folder), "--format", "csv")
    (tmp_path / "file").touch()
    assert "--out: " in told("--out", str(tmp_path / "file")) and not Path(out).exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    text = told("--out", out)
    assert "needs pyarrow: pip install 'emergence_ext[export]'" in text and "--format csv" in text
    assert not Path(out).exists()
