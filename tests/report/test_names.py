"""Names leave the program as names: no spreadsheet runs them, no terminal, page or figure obeys."""

from __future__ import annotations

import csv
import itertools
import json
import logging
from pathlib import Path

import pytest
import torch

from emergence_ext import report
from emergence_ext.data import read_csv
from emergence_ext.figures.style import display_name
from emergence_ext.names import from_cell, printable, to_cell
from emergence_ext.report import emergence
from emergence_ext.report.files import write_table
from emergence_ext.report.html.tables import read_table
from emergence_ext.run import Emergence, Thumbnails
from tests.report.test_load import crowd
from tests.studies.saved import save_run

FORMULAS = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\ufeff=1",
    "\u202e=1", "＝1", "＋1", "－1", "＠a", "-", "'=1", "''@a",
]  # fmt: skip
HARMLESS = ["dog", "a=b", "'tis", "-0.5", "+1e-3", "3", "|g|", "1 - cos", ""]
ODD = [
    "\x1b[31mred",
    "a\nERROR b",
    "\u202egnp.exe",
    "$\\frac{",
    "=1+1",
    "n" * 255,
    "\udcff",
    "\x07",
]


@pytest.mark.parametrize("name", FORMULAS)
def test_what_a_spreadsheet_would_run_has_an_apostrophe_before_it(name: str) -> None:
    assert to_cell(name) == f"'{name}"


@pytest.mark.parametrize("name", HARMLESS)
def test_numbers_and_other_names_stay_as_they_are(name: str) -> None:
    assert to_cell(name) == name


def test_every_name_comes_back() -> None:
    for letters in itertools.product("'=-1\ta ＝\n.", repeat=4):
        name = "".join(letters)
        assert from_cell(to_cell(name)) == name


def test_a_table_comes_back_from_all_readers_whatever_its_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, [{"=column": name, "value": -0.5} for name in FORMULAS])
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["'=column", "value"]
    assert [row[0] for row in rows] == [f"'{name}" for name in FORMULAS]
    assert {row[1] for row in rows} == {"-0.5"}
    table = read_table(path)
    assert table is not None and table.header == ["=column", "value"]
    assert [row[0].text for row in table.rows] == [name.strip() for name in FORMULAS]
    assert table.numeric == [False, True]
    file = read_csv(path, "labels")
    assert file.columns == ["=column", "value"]
    assert [cells["=column"] for _, cells in file.rows] == FORMULAS


def test_names_of_files_that_are_no_text_are_written(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [{"image": "\udcff.png"}])
    assert (tmp_path / "t.csv").read_text() == "image\n\\udcff.png\n"


@pytest.mark.parametrize("name", ODD)
def test_text_for_a_terminal_is_one_line_that_it_can_only_show(name: str) -> None:
    text = printable(name)
    assert text.isprintable() and text.encode()
    assert printable("Grüße 猫, مرحبا 😀") == "Grüße 猫, مرحبا 😀"


@pytest.mark.parametrize("name", ODD)
def test_figures_show_marks_of_control_by_their_code(name: str) -> None:
    assert display_name(name).isprintable()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose categories, images, layers and checkpoints have odd names, with its report."""
    e = crowd(len(ODD), T=2, L=2)
    layers, labels = ["=layer\x1b[2J", "$\\sum{\u202e\n"], ["@first\x1b]0;x\x07", "-last\r"]
    fits = {
        "/".join((kind, layers[e.layers.index(layer)], labels[e.labels.index(label)])): stats
        for name, stats in e.fits.items()
        for kind, layer, label in [name.split("/")]
    }
    names = [f"{ODD[i % len(ODD)]}/{i}.png".replace("\udcff", "?") for i in range(len(e.y))]
    categories = [name.replace("\udcff", "?") for name in ODD]
    changed = {
        "layers": layers, "labels": labels, "fits": fits, "names": names, "categories": categories
    }  # fmt: skip
    pixels = torch.full((len(e.y), 1, 4, 4), 128, dtype=torch.uint8)
    folder = tmp_path_factory.mktemp("odd")
    e = Emergence(**{**vars(e), **changed, "tau": 0.2})
    report.write(save_run(folder, e, Thumbnails(pixels, torch.zeros(0, 4, dtype=torch.int64))))
    return folder


@pytest.mark.slow
def test_no_cell_of_a_run_is_a_formula(reported: Path) -> None:
    paths = list(reported.glob("tables/*.csv"))
    assert len(paths) == 7
    quoted = 0
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            for cell in itertools.chain.from_iterable(csv.reader(file)):
                assert cell == to_cell(from_cell(cell)), (path.name, cell)
                quoted += cell != from_cell(cell)
    assert quoted > 20


def test_what_is_drawn_written_and_shown_of_a_run_obeys_no_name(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert not set(page) & {"\x1b", "\x07", "\u202e"}
    json.loads((reported / "config.json").read_text())
    for path in reported.glob("figures/*.svg"):
        text = path.read_text()
        assert not set(text) & {"\x1b", "\x07", "\u202e"}, path.name
    for path in reported.rglob("*"):
        assert path.name.isprintable() and len(path.name.encode()) <= 255


def test_log_lines_warnings_and_errors_are_printable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys
    import warnings

    from emergence_ext.cli import terminal

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    terminal.log_to_terminal(logging.INFO)
    logging.getLogger("emergence_ext").warning("no image %s", "\x1b[31m\nERROR x")
    try:
        raise ValueError("\x1b[31m")
    except ValueError as error:
        logging.getLogger("emergence_ext").exception("bad")
        sys.excepthook(type(error), error, error.__traceback__)
    terminal.echo("a\x1b[2J\nb")
    terminal.echo_lines("first\nsecond\x07")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2J\\nb\nfirst\nsecond\\x07\n"
    assert "\x1b" not in err and "WARNING no image \\x1b[31m\\nERROR x\n" in err
    assert err.count("ValueError: \\x1b[31m") == 2
    line = warnings.formatwarning(UserWarning("\x1b[1m\n"), UserWarning, "file.py", 3)
    assert line == "file.py:3: UserWarning: \\x1b[1m\\n\n"


def test_commands_print_through_one_file() -> None:
    folder = Path(emergence.__file__).parents[1] / "cli"
    for path in folder.glob("*.py"):
        text = path.read_text()
        assert path.name == "terminal.py" or ("typer.echo" not in text and "print(" not in text), (
            path
        )
