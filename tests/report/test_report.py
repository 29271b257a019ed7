"""The report: complete, offline, escaped, and whole in a real browser."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emergence_ext.report import view
from emergence_ext.report.emergence_text import SECTIONS
from emergence_ext.report.experiments import EXPERIMENTS
from emergence_ext.report.html import pictures
from emergence_ext.report.html.numbers import shown
from emergence_ext.report.html.tables import read_table
from emergence_ext.report.html.write import write_page
from emergence_ext.store import StoreError

EVIL = "<script>alert('x')</script>"
CONFIG: dict[str, Any] = {
    "format_version": 1,
    "command": f"emergence run --data '{EVIL}'",
    "settings": {"dim": 3, "sample": {"tolerance": 1e-6}, EVIL: EVIL},
    "versions": {"torch": "2.11"},
    "hashes": {"model": "ab" * 32},
    "git": f"main {EVIL}",
    "categories": ["tabby_cat", EVIL, '"><img src=x onerror=alert(1)>'],
    "layers": ["conv1_2", f"{EVIL}.0"],
    "checkpoints": [{"label": EVIL, "epoch": 3, "accuracy": 0.853}],
    "bad_images": [[f"../{EVIL}.png", "truncated"], ["\udcff.png", "0 bytes"]],
}
HEADLINE: dict[str, Any] = {
    "reliable_ratio": {"value": 62.3, "low": 58.0, "high": 66.04, "unit": "%", "explain": EVIL},
    "no points": {"value": "no points", "low": None, "high": None, "unit": None},
    EVIL: {"value": None},
}
WARNINGS = [f"careful {EVIL}", "javascript:alert(1)"]
KNOWN_FIGURES = [f.name for s in SECTIONS for f in s.figures]
KNOWN_TABLES = [t.name for s in SECTIONS for t in s.tables] + ["images"]


def png(width: int = 40, height: int = 30, noise: bool = False) -> bytes:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (height, width, 3)) if noise else np.zeros((height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_run(folder: Path, config: Any = CONFIG) -> Path:
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in KNOWN_FIGURES:
        (folder / "figures" / f"{name}.png").write_bytes(png())
        (folder / "figures" / f"{name}.svg").write_text(
            "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
        )
    for name in KNOWN_TABLES:
        write_table(folder, name, ["layer", "ratio"], [[EVIL, "0.5"], ["1_2", "nan"], ["b", "12"]])
    return folder


def write_table(folder: Path, name: str, header: list[str], rows: list[list[str]]) -> None:
    with (folder / "tables" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


class Page(HTMLParser):
    """The page's elements, and a check that every one that is opened is closed in its turn."""

    VOID = frozenset({"meta", "img", "link", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.content: dict[str, str] = {}
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.content[self.open[-1]] = data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(folder: Path, **beside: Any) -> Page:
    return Page(write_page(folder, **beside).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return page_of(run_dir, headline=HEADLINE, warnings=WARNINGS)


def test_all_figures_and_tables_of_a_run_are_in_its_report(page: Page) -> None:
    assert len(page.all("img")) == len(KNOWN_FIGURES)
    assert len([t for t in page.all("table") if t]) == len(KNOWN_TABLES) + 1  # skipped images
    assert page.text.count("How to read it.") == len(KNOWN_FIGURES)
    assert "Not in this run" not in page.text
    for text in ("62.3", "95 % interval 58 to 66", "no points", "85.3 %", "1e-06", "truncated"):
        assert text in page.text.replace("\u00a0", " ")


def test_nothing_is_requested_from_anywhere(page: Page) -> None:
    for tag, attrs in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "audio", "video"}
        for name in ("src", "href", "srcset", "action", "poster", "background"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value[:80])
        assert not any(name.startswith("on") or name == "style" for name in attrs)
    assert "url(" not in page.content["style"]
    assert "@import" not in page.content["style"]


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(page: Page) -> None:
    [policy] = [m["content"] or "" for m in page.all("meta") if "http-equiv" in m]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    assert rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    for tag in ("style", "script"):
        digest = b64encode(sha256(page.content[tag].encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert not rules


def test_names_of_the_run_are_text_and_never_markup(page: Page, run_dir: Path) -> None:
    source = (run_dir / "report.html").read_text(encoding="utf-8")
    assert len(page.all("script")) == 1
    assert "alert" not in page.content["script"]
    assert EVIL not in source
    assert html.escape(EVIL, quote=False) in source.replace("&#39;", "'")
    assert page.text.count(EVIL) >= 8
    assert "\\udcff.png" in page.text


def test_headings_descend_step_by_step_and_pictures_are_described(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(len(image["alt"] or "") > 20 for image in page.all("img"))
    anchors = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = {a["href"] for a in page.all("a") if (a.get("href") or "").startswith("#")}
    assert {str(link)[1:] for link in links} <= anchors


def test_pictures_can_be_saved_as_they_look_and_the_files_for_print_are_named(page: Page) -> None:
    with Image.open(io.BytesIO(png())) as expected:
        for image in page.all("img"):
            with Image.open(io.BytesIO(b64decode((image["src"] or "").partition(",")[2]))) as shown:
                assert np.array_equal(shown.convert("RGB"), expected.convert("RGB"))
    for name in KNOWN_FIGURES:
        assert f"for print: figures/{name}.svg" in page.text


def test_what_a_run_lacks_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"format_version": 1})
    for path in [*(folder / "figures").iterdir(), *(folder / "tables").iterdir()]:
        if path.stem not in ("samples", "fits"):
            path.unlink()
    page = page_of(folder)
    assert len(page.all("img")) == 1
    assert "Not in this run: What a sample feature says, wherever it lies; Which" in page.text
    assert "; Which categories are alike; Similarity of categories" in page.text
    assert "Not in this run: When: through training; " in page.text
    assert "Not in this run: Losses." in page.text
    assert "No warnings." in page.text
    shutil.rmtree(folder / "figures")
    shutil.rmtree(folder / "tables")
    assert not page_of(folder).all("img")


def test_ends_of_intervals_are_shown_with_their_value(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.csv"
    header = 'layer,points,"points, low","points, high",ratio,"ratio, low","ratio, high","a, low"'
    path.write_text(
        f"{header}\nconv,12345,12000,12999.5,0.81457,0.8,0.83,1\nfc,0,0,0,no points,,,\n"
    )
    table = read_table(path)
    assert table is not None
    assert table.header == ["layer", "points", "ratio", "a, low"]
    assert [[c.text for c in row] for row in table.rows] == [
        ["conv", "12345 (12000 to 13000)", "0.815 (0.8 to 0.83)", "1"],
        ["fc", "0 (0 to 0)", "no points", ""],
    ]
    assert table.rows[0][1].number == 12345
    assert table.numeric == [False, True, True, True]


@pytest.mark.parametrize("word", ["no points", "no fit", "undefined", "nan", ""])
def test_a_word_for_what_is_not_there_leaves_a_column_of_numbers(word: str, tmp_path: Path) -> None:
    path = tmp_path / "controls.csv"
    path.write_text(f"r,name\n0.5,a\n{word},b\n")
    table = read_table(path)
    assert table is not None and table.numeric == [True, False]


def test_results_that_the_report_does_not_know_come_last(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "figures" / "attack_types.png").write_bytes(png())
    write_table(folder, "shapley", ["a"], [["1"]])
    page = page_of(folder)
    assert "Further results" in page.text
    assert "attack types" in page.text
    assert "shapley" in page.text


def test_experiments_have_sections_of_their_own_behind_those_of_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for place in ("figures", "tables"):
        (folder / "attack" / place).mkdir(parents=True)
    for name in ("curves", "maps_conv5"):
        (folder / "attack" / "figures" / f"{name}.png").write_bytes(png())
    write_table(folder / "attack", "success", ["right"], [["1"]])
    write_table(folder / "attack", "images", ["name"], [[f"{i}.png"] for i in range(501)])
    (folder / "elsewhere" / "figures").mkdir(parents=True)
    (folder / "elsewhere" / "figures" / "unasked.png").write_bytes(png())
    page = page_of(folder)
    assert len(page.all("img")) == len(KNOWN_FIGURES) + 2
    order = [
        "The fits",
        "Experiment: attack",
        "What the attack changes",
        "maps conv5",
        "Success of",
    ]
    places = [page.text.rindex(words) for words in order]
    assert places == sorted(places)
    assert "all of them are in attack/tables/images.csv" in page.text
    assert any(a.get("download") == "attack_curves.png" for a in page.all("a"))
    assert "Further results" not in page.text
    assert "unasked" not in page.text
    assert "Not in this run" not in page.text  # no experiment is missing that nobody asked for


def test_what_lies_beside_the_page_is_linked_and_what_was_not_done_names_its_command(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path / "run")
    page = page_of(folder)
    assert not (folder / "index.html").exists()
    asked = ("animate RUN", "look RUN", "compare RUN OTHER", "mindseye --run RUN", "attack RUN")
    assert all(f"emergence {command}" in page.text for command in asked)
    for file in ("animate/emergence.mp4", "look/look.html", f"look/{EVIL.replace('/', '')}/x.png"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    eye = folder / "mindseye" / "a cat"
    (eye / "figures").mkdir(parents=True)
    (eye / "mindseye.json").write_text("{}")
    (eye / "figures" / "facets_conv5.png").write_bytes(png())
    (eye / "figures" / "iterations_conv5.mp4").write_bytes(b"")
    for page in (page_of(folder), Page((folder / "index.html").read_text(encoding="utf-8"))):
        links = {link.get("href") for link in page.all("a")}
        assert links >= {
            "animate/emergence.mp4",
            "look/look.html",
            "mindseye/a%20cat/figures/iterations_conv5.mp4",
        }
    page = page_of(folder)
    assert "Facets, conv5" in page.text and {"#others", "#undone"} <= {
        link.get("href") for link in page.all("a")
    }
    assert not any(f"emergence {command}" in page.text for command in asked[:2] + asked[3:4])


def test_a_figure_of_each_layer_has_its_words_and_every_experiment_says_what_it_shows(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "shapley" / "figures").mkdir(parents=True)
    for name in ("maps_conv4", "correlations", "maps_conv5"):
        (folder / "shapley" / "figures" / f"{name}.png").write_bytes(png())
    page = page_of(folder)
    for layer in ("conv4", "conv5"):
        assert f"Shapley values and importance on images, {layer}" in page.text
    assert page.text.count("Each map is scaled by its own largest value") == 2
    assert "maps conv" not in page.text
    for section in (experiment.section for experiment in EXPERIMENTS):
        assert all(x.caption for x in (*section.figures, *section.tables)), section.anchor


def test_damaged_figures_and_tables_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "figures" / "samples.png").write_bytes(png()[:40])
    (folder / "figures" / "losses.png").write_bytes(b"GIF89a")
    (folder / "tables" / "correlations.csv").write_bytes(b"")
    (folder / "tables" / "images.csv").write_bytes(b"a,b\n1\n\xff,2,3\n\x00\n")
    page = page_of(folder)
    assert len(page.all("img")) == len(KNOWN_FIGURES) - 2
    assert "Not in this run: Samples and category directions." in page.text
    assert "Not in this run: Losses." in page.text
    assert "Not in this run: Correlations." in page.text
    assert "\0" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold an object, got list"),
        ('{"format_version": 3}', "format version 3, this program reads 2"),
        ('{"format_version": 0}', "format version 0, this program reads 2"),
        ('{"format_version": true}', "format version True, this program reads 2"),
        ('{"format_version": 2}', "was changed after it was written"),
        ("{}", "has no format version"),
        ('{"format_version": 1, "layers": "conv"}', "'layers' in .* must be a list, got str"),
    ],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(StoreError, match=f"^run: .*{message}"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"^run: .* holds no finished run; `emergence run --out .*` makes one",
    ):
        write_page(tmp_path)


def test_a_report_replaces_the_last_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    first = write_page(folder).read_bytes()
    assert write_page(folder).read_bytes() == first
    assert {p.name for p in folder.iterdir()} == {"config.json", "figures", "tables", "report.html"}


def test_large_figures_and_tables_are_made_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_PICTURES", 200_000)
    folder = make_run(tmp_path / "run")
    (folder / "figures" / "samples.png").write_bytes(png(300, 300, noise=True))
    write_table(folder, "images", ["name"], [[f"{i}.png"] for i in range(5000)])
    page = page_of(folder)
    assert sum(len(i["src"] or "") for i in page.all("img")) < 200_000
    assert len(page.all("img")) == len(KNOWN_FIGURES)
    assert "The first 500 of 5,000 rows; all of them are in tables/images.csv." in page.text
    assert (folder / "report.html").stat().st_size < 400_000


def test_the_budget_of_the_parts_keeps_the_page_below_15_megabytes() -> None:
    assert pictures._PICTURES + view.ROOM < 12_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (10_600, "10,600"),
        (0.123456, "0.1235"),
        (-0.5, "\u22120.5"),
        (1e-6, "1e-06"),
        (123456.0, "123456"),
        ("no points", "no points"),
    ],
)
def test_values_are_shown_as_a_reader_wants_them(value: Any, text: str) -> None:
    assert shown(value) == text


def test_only_decimals_are_numbers_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("layer,r,short\n1_2,-0.5,\ninfinity,nan\n3,+2e3,7,8\n")
    table = read_table(tmp_path / "t.csv")
    assert table is not None
    assert [[c.number for c in row] for row in table.rows] == [
        [None, -0.5, None],
        [None, None, None],
        [3.0, 2000.0, 7.0],
    ]
    assert table.numeric == [False, True, True]


CHROMIUM = next(
    (c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)), None
)


def browse(file: Path, profile: Path) -> tuple[str, str]:
    """Return the document and the console of a headless browser after loading a file."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, "\n".join(x for x in done.stderr.splitlines() if "CONSOLE" in x)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_browser_runs_the_script_under_the_policy_without_a_complaint(
    run_dir: Path, page: Page, tmp_path: Path
) -> None:
    document, console = browse(run_dir / "report.html", tmp_path)
    assert console == ""
    live = Page(document)
    buttons = [b for b in live.all("button") if b.get("type") == "button"]
    assert len(buttons) == 2 * (len(KNOWN_TABLES) + 1)
    saved = [a for a in live.all("a") if (a.get("download") or "").endswith(".png")]
    assert len(saved) == len(KNOWN_FIGURES)
    assert all((a["href"] or "").startswith("data:image/") for a in saved)
    assert not any("hidden" in a for a in saved)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_narrow_page_does_not_scroll_sideways_and_tables_sort(
    run_dir: Path, page: Page, tmp_path: Path
) -> None:
    # The policy forbids a probe in the page itself, so it is put into a copy without the policy.
    source = (run_dir / "report.html").read_text(encoding="utf-8")
    source = re.sub(r"<meta http-equiv[^>]*>", "", source)
    probe = """<script>
      const table = document.querySelector('table.sortable');
      const column = () => [...table.tBodies[0].rows].map(r => r.cells[1].textContent).join(' ');
      const button = table.tHead.rows[0].cells[1].firstChild;
      button.click(); const up = column(); button.click();
      parent.postMessage([document.documentElement.scrollWidth, innerWidth, up, column()], '*');
    </script></body>"""
    (tmp_path / "copy.html").write_text(source.replace("</body>", probe), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        "<!doctype html><title>t</title><p id=out></p><script>onmessage = e =>"
        "{ document.getElementById('out').textContent = e.data.join('|'); }</script>"
        "<iframe src=copy.html style='width:360px;height:800px;border:0'></iframe>"
    )
    document, _ = browse(tmp_path / "frame.html", tmp_path / "profile")
    match = re.search(r'id="out">([^<]*)<', document)
    assert match is not None
    content, window, up, down = match[1].split("|")
    assert window == "360"
    assert int(content) <= 360
    assert (up, down) == ("0.5 12 –", "– 12 0.5")
