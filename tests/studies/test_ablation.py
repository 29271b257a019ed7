"""The ablation of Table 2: one choice at a time, and only that one."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

from emergence_ext import figures
from emergence_ext.cli import app
from emergence_ext.data.samples import balanced_order
from emergence_ext.figures import Band
from emergence_ext.method.correlation import pearson
from emergence_ext.method.importance import RegionImportance
from emergence_ext.method.regional import RegionalProjection
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import image_similarity, solve_kappa_p
from emergence_ext.report import paper_tables as report
from emergence_ext.studies import ablation as ablations
from emergence_ext.studies import methods, published
from emergence_ext.studies.ablation import (
    FACTORS,
    AblationFit,
    Choices,
    ablation,
    level_in_words,
    variants,
)
from emergence_ext.studies.methods import METHODS
from emergence_ext.studies.paper_tables import PaperTables
from tests.planted import planted
from tests.studies.saved import NOWHERE, assert_updated_from_what_is_saved

DATA = planted(40, 3)
SAMPLES = SampleProjection().fit(DATA.f, DATA.z)
DEFAULT = Choices(images=16)


def _ablation(folder: Path | None = None, **given: Any) -> list[tuple[str, AblationFit]]:
    given = {"F": DATA.F, "z": DATA.z, "default": DEFAULT, **given}
    g = SAMPLES.transform(DATA.f)
    return ablation(y=DATA.y, g=g, frame=SAMPLES.frame_, regional_evals=4, folder=folder, **given)


@pytest.fixture(scope="module")
def fits() -> list[tuple[str, AblationFit]]:
    return _ablation()


def _rows(fits: list[tuple[str, AblationFit]]) -> list[Any]:
    """The rows of the table, of nothing but the fits."""
    factors, made = [name for name, _ in fits], [fit for _, fit in fits]
    result = PaperTables({}, {}, factors, made, DEFAULT)
    return list(report.tables(result, NOWHERE)["ablation"])


def test_every_variant_differs_from_the_default_in_its_factor_alone() -> None:
    planned = variants(Choices(), 250)
    assert list(dict.fromkeys(name for name, _ in planned)) == list(FACTORS)
    assert set(FACTORS) == set(asdict(Choices()))
    for factor in FACTORS:
        levels = [choices for name, choices in planned if name == factor]
        assert Choices() in levels and len(set(levels)) == len(levels) > 1
        for choices in levels:
            there = asdict(Choices())
            changed = [k for k, v in asdict(choices).items() if v != there[k]]
            assert changed in ([], [factor])
    assert [c.images for name, c in planned if name == "images"] == [25, 50, 100, 200]
    assert [c.images for n, c in variants(Choices(), 100) if n == "images"] == [25, 50, 100]
    odd = Choices(alpha=0.3)
    assert [c.alpha for n, c in variants(odd, 100) if n == "alpha"] == [0, 0.1, 0.3, 1, 10]


def test_the_default_is_the_method_itself(fits: list[tuple[str, AblationFit]]) -> None:
    order = balanced_order(DATA.y)[:16]
    F, P = DATA.F[order], image_similarity(DATA.z[order], solve_kappa_p(DATA.z))
    w = RegionImportance().fit(F, P).w_
    g = SAMPLES.transform(DATA.f[order])
    projection = RegionalProjection(SAMPLES.frame_, 0.1, max_evals=4).fit(F, w, P, g)
    default = [fit for _, fit in fits if fit.choices == DEFAULT]
    assert len(default) == len(FACTORS) and all(fit is default[0] for fit in default)
    h = projection.transform(F)
    torch.testing.assert_close(default[0].r, pearson(h.norm(dim=-1), w), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(default[0].raw_r, pearson(F.norm(dim=-1), w), rtol=1e-4, atol=1e-4)


def test_every_choice_is_heard(fits: list[tuple[str, AblationFit]]) -> None:
    default = next(fit for _, fit in fits if fit.choices == DEFAULT)
    for name, fit in fits:
        assert fit.failure is None and len(fit.r) == len(fit.raw_r) == fit.choices.images
        # The solver looks at its limit only every ten evaluations.
        if fit.choices != DEFAULT and name not in ("images", "importance_evals"):
            assert not torch.allclose(fit.r, default.r, atol=1e-6), (name, fit.choices)
        # What belongs to Lambda alone leaves w, and so |F| with w, as it is.
        if name in ("alpha", "normaliser", "weights_of"):
            assert torch.equal(fit.raw_r, default.raw_r)
    evals = {fit.choices.importance_evals: fit for name, fit in fits if name == "importance_evals"}
    assert evals[5] is default and default.importance_loss < evals[1].importance_loss


def test_every_beginning_has_the_categories_in_equal_shares() -> None:
    y = torch.tensor([0] * 9 + [1] * 9 + [2] * 2)
    order = balanced_order(y, 1)
    assert sorted(order.tolist()) == list(range(20))
    assert y[order[:6]].bincount().tolist() == [2, 2, 2]
    assert y[order[:12]].bincount().tolist() == [5, 5, 2]
    assert not torch.equal(order, balanced_order(y, 2))


@pytest.mark.slow
def test_a_fit_that_is_there_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: list[tuple[str, AblationFit]]
) -> None:
    first = _ablation(tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == len({fit.choices for _, fit in first})

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a fit that was kept is made again")

    monkeypatch.setattr(RegionImportance, "fit", refuse)
    for (name, here), (other, there), (_, free) in zip(
        first, _ablation(tmp_path), fits, strict=True
    ):
        assert name == other and here.choices == there.choices == free.choices
        assert torch.equal(here.r, there.r) and torch.equal(here.r, free.r)


def test_what_cannot_be_fitted_is_told_and_the_rest_goes_on() -> None:
    # Logits that all images share say the same of all; less their mean nothing is left.
    same = torch.ones(40, 1) * torch.arange(40)[:, None] * torch.ones(3)
    fits = _ablation(z=same)
    # Only a kappa_p that is given need not be solved for.
    solved = [x for x in fits if x[1].choices.given_kappa_p is None]
    solved = [x for x in solved if x[1].choices.recipe != "authors"]
    assert all(fit.failure for _, fit in solved)
    for row in _rows(solved):
        assert row["Pearson of |h| with w"] == "no fit" and row["images"] == 0
        assert row["why not"].startswith("z: ")


def test_more_images_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="images: 50 asked for, but only 40 images are there"):
        _ablation(default=Choices(images=50))


def test_the_rows_name_choice_and_level(fits: list[tuple[str, AblationFit]]) -> None:
    rows = _rows(fits)
    assert len(rows) == len(fits)
    assert [row["choice"] for row in rows if row["default"] == "yes"] == list(FACTORS.values())
    words = {(row["choice"], row["level"]) for row in rows}
    assert {("log C in T", "left out"), ("pair i = j", "in"), ("alpha", "10")} <= words
    assert level_in_words("kappa_p", Choices(kappa_p=0.5)) == "× 0.5"
    for row, (_, fit) in zip(rows, fits, strict=True):
        assert row["Pearson of |h| with w"] == pytest.approx(float(fit.r.nanmean()), abs=1e-6)
        assert row["standard deviation"] > 0


def _draw(**changed: Any) -> Figure:
    r = torch.tensor([0.4, 0.5, float("nan"), 0.4, 0.6])
    given: dict[str, Any] = {
        "r": Band(r, r - 0.1, r + 0.1),
        "raw_r": [0.3, 0.3, float("nan"), 0.3, 0.2],
        "factors": ["alpha", "alpha", "alpha", "log C", "log C"],
        "levels": ["0.1", "1", "10", "in", "left out"],
        "default": [True, False, False, True, False],
        **changed,
    }
    return figures.ablation(**given)


def test_the_figure_has_a_panel_a_factor_and_marks_the_default() -> None:
    figure = _draw(published=published.STRENGTH_IMPORTANCE)
    assert [a.get_title("left") for a in figure.axes] == ["alpha", "log C"]
    labels = figure.axes[0].get_yticklabels()
    assert [x.get_text() for x in labels] == ["0.1", "1", "10"]
    assert [x.get_fontweight() for x in labels] == ["bold", "normal", "normal"]
    assert [x.get_text() for x in figure.axes[0].texts] == ["no fit"]
    dots = [x for x in figure.axes[1].lines if x.get_marker() == "o"]
    assert [float(x.get_xdata()[0]) for x in dots] == pytest.approx([0.4, 0.6])
    assert len(_draw(factors=["alpha"] * 5).axes) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raw_r": [0.1]}, r"ablation: raw_r must be \[V=5\]"),
        ({"levels": ["1"]}, "ablation: levels must name V=5"),
        ({"factors": []}, "ablation: factors is empty"),
    ],
)
def test_a_figure_of_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _draw(**changed)


@pytest.mark.slow
def test_the_command_makes_both_tables(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [replace(m, configurations=dict([*m.configurations.items()][:1])) for m in METHODS[:3]]
    monkeypatch.setattr(methods, "METHODS", few)
    monkeypatch.setattr(ablations, "variants", lambda *given: variants(*given)[:3])
    folder = shutil.copytree(finished_run, tmp_path / "run")
    asked = ["tables", str(folder), "--seeds", "1", "--temperatures", "2"]
    result = CliRunner().invoke(app, [*asked, "--ablation", "--images", "9"])
    assert result.exit_code == 0, result.output
    out = folder / "paper_tables"
    for name in ("methods", "configurations", "importance", "paper", "ablation"):
        with (out / "tables" / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file)), name
    for name in ("methods", "ablation"):
        assert (out / "figures" / f"{name}.svg").is_file()
    assert result.stdout.splitlines()[-2:] == [
        f"tables and figures: {out}",
        f"Report: {(folder / 'report.html').as_uri()}",
    ]
    assert "run, temperature 2, " in result.stdout and ", ours: -" in result.stdout
    assert_updated_from_what_is_saved(folder, "paper_tables", {"methods", "ablation"})

    again = CliRunner().invoke(app, [*asked])
    assert again.exit_code == 0, again.output
    # Nothing of the ablation stays beside what it is no part of.
    assert not list(out.glob("*/ablation.*")) and list(out.glob("figures/methods.*"))


def test_the_command_names_what_is_wrong(finished_run: Path, tmp_path: Path) -> None:
    for asked, words in (
        ([finished_run, finished_run], "RUN_DIR: a run was given twice"),
        ([tmp_path], "holds no finished run"),
        ([finished_run, "--temperatures", "hot"], "temperatures: expected numbers"),
        ([finished_run, "--seeds", "0"], "seeds: expected at least 1, got 0"),
    ):
        result = CliRunner().invoke(app, ["tables", *map(str, asked)])
        assert result.exit_code == 2 and words in result.stderr, result.output
