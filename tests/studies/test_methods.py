"""Table 1: every method has its chance, nothing is hidden, and what is told is of unseen images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from emergence_ext import figures
from emergence_ext.figures import Band
from emergence_ext.method.baselines import PCA, Manifold
from emergence_ext.method.correlation import entropy, pearson, stratified_folds
from emergence_ext.method.intervals import student_interval
from emergence_ext.method.sample import SampleProjection
from emergence_ext.report import paper_tables as report
from emergence_ext.report.files import Tables
from emergence_ext.studies import methods as study
from emergence_ext.studies import published
from emergence_ext.studies.ablation import AblationFit, Choices
from emergence_ext.studies.drpr import DRPR
from emergence_ext.studies.methods import METHODS, Method, Projected, compare_methods
from emergence_ext.studies.paper_tables import PaperTables, RegionStrength
from tests.planted import planted
from tests.studies.saved import NOWHERE, assert_equal

DATA = planted(40, 3)
TRUTH = entropy(DATA.z, 2.0)


def _oracle(
    f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, *, noise: float = 0.0
) -> Projected:
    """Strengths that are the negative entropy of each image, up to noise that the seed makes."""

    def strength(x: Tensor) -> Tensor:
        place = (x[:, None] == DATA.f).all(-1).float().argmax(1)
        jitter = torch.randn(len(DATA.f), generator=torch.Generator().manual_seed(seed))
        return (5 - entropy(DATA.z, 2.0) + noise * jitter)[place]

    return Projected(strength(f), strength)


def _method(fit: Callable[..., Projected] = _oracle, name: str = "ours", **given: Any) -> Method:
    configurations = given.pop("configurations", {"noisy": {"noise": 0.5}, "clean": {"noise": 0.1}})
    return Method(name, fit, configurations, **given)


def _compare(*methods: Method, **given: Any) -> list[study.Outcome]:
    given = {"temperatures": [2.0], "seeds": 3, "folds": 4, **given}
    return compare_methods(DATA.f, DATA.z, DATA.y, methods=methods, **given)


def _tables(networks: dict[str, list[study.Outcome]]) -> Tables:
    return report.tables(PaperTables(networks, {}, [], [], Choices()), NOWHERE)


def test_the_best_configuration_is_reported_over_all_seeds_and_all_are_told() -> None:
    (outcome,) = _compare(_method())
    assert outcome.configuration == "clean" and outcome.r == outcome.searched["clean"]
    assert list(outcome.searched) == ["noisy", "clean"]
    assert len(set(outcome.r)) == 3 and max(outcome.r) < min(outcome.searched["noisy"])
    for seed, r in enumerate(outcome.r):
        expected = _oracle(DATA.f, DATA.z, 3, 2.0, seed, noise=0.1).fitted
        assert r == pytest.approx(float(pearson(expected, TRUTH)), abs=1e-6)
        rho = stats.spearmanr(expected, TRUTH)[0]
        assert outcome.rho[seed] == pytest.approx(rho, abs=1e-6)
    assert outcome.mean_entropy == pytest.approx(float(TRUTH.mean()))
    assert (outcome.fits, outcome.failed, outcome.crowded, outcome.pieces) == (12, 0, 0, 0)


def test_every_strength_is_of_an_image_that_was_not_fitted() -> None:
    prior = {"prior": {"strength_prior": 1e-2}}
    ours = replace(METHODS[0], configurations=prior)
    pca = next(m for m in METHODS if m.name == "PCA")
    outcomes = _compare(ours, pca, seeds=1, folds=3)
    fold = stratified_folds(DATA.y, 3, 0)
    for outcome, method in zip(outcomes, (ours, pca), strict=True):
        given = method.configurations[outcome.configuration]
        strength = torch.empty(40)
        for k in range(3):
            out, kept = fold == k, fold != k
            if method is ours:
                fit = SampleProjection(temperature=2.0, **given).fit(DATA.f[kept], DATA.z[kept])
            else:
                fit = PCA(3, **given).fit(DATA.f[kept])  # type: ignore[assignment]
            strength[out] = fit.transform(DATA.f[out]).norm(dim=1)
        assert outcome.r[0] == pytest.approx(float(pearson(strength, TRUTH)), abs=1e-5)
        assert outcome.left_out and outcome.fitted_r[0] == outcome.fitted_r[0]


@pytest.mark.parametrize("name", ["DRPR", "PCA", "Isomap", "LLE"])
def test_a_baselines_strength_is_the_distance_from_the_mean_of_its_fitted_points(name: str) -> None:
    pytest.importorskip("sklearn")
    method = next(m for m in METHODS if m.name == name)
    given = next(iter(method.configurations.values()))
    f, new = DATA.f[:30], 1 + 2 * DATA.f[30:]  # far from the mean
    made = method.fit(f, DATA.z[:30], 2, 4.0, 3, **given)
    maker: Any = {"DRPR": DRPR, "PCA": PCA}.get(name, Manifold)
    seed = {} if name == "PCA" else {"random_state": 3}
    fit = maker(dim=2, **seed, **given).fit(*((f, DATA.z[:30]) if name == "DRPR" else (f,)))
    points = fit.points_ if name in ("Isomap", "LLE") else fit.transform(f)
    torch.testing.assert_close(made.fitted, (points - points.mean(0)).norm(dim=1))
    torch.testing.assert_close(
        made.strength(new), (fit.transform(new) - points.mean(0)).norm(dim=1)
    )


def test_a_method_that_maps_no_new_images_is_fitted_to_all_and_says_so() -> None:
    seen = []

    def fit(f: Tensor, *rest: Any, **given: Any) -> Projected:
        seen.append(len(f))
        return _oracle(f, *rest, **given)

    (outcome,) = _compare(_method(fit, maps_new=False), seeds=2)
    assert seen == [40] * 4 and outcome.fits == 2 and not outcome.left_out
    (row,) = _tables({"net": [outcome]})["methods"]
    assert row["images"] == "fitted: maps no others"


def test_a_fit_is_made_once_and_kept(tmp_path: Path) -> None:
    calls = []

    def fit(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Any:
        calls.append(temperature)
        return _oracle(f, z, dim, temperature, seed, **given)

    given: dict[str, Any] = {"temperatures": [1.0, 2.0], "folder": tmp_path, "seeds": 1, "folds": 2}
    free, tempered = _method(fit, "free"), _method(fit, "ours", tempered=True)
    first = _compare(free, tempered, **given)
    # Two configurations, two folds: once for both temperatures, and once for each.
    assert len(calls) == 4 + 8 and calls.count(2.0) == 4
    assert _compare(free, tempered, **given) == first and len(calls) == 12
    _compare(free, **{**given, "random_state": 1})
    assert len(calls) == 16


def test_fits_that_fail_are_counted_and_named_and_never_chosen() -> None:
    def fit(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Any:
        if given["noise"] == 0.1 and seed == 1:
            raise ValueError("did not converge")
        return _oracle(f, z, dim, temperature, seed, **given)

    (outcome,) = _compare(_method(fit))
    assert outcome.configuration == "noisy" and outcome.failed == 0
    assert math.isnan(outcome.searched["clean"][1])
    noisy, clean = _tables({"net": [outcome]})["configurations"]
    assert (noisy["best"], noisy["seeds that failed"], noisy["why"]) == ("yes", 0, "")
    assert (clean["best"], clean["seeds that failed"]) == ("no", 1)
    assert clean["why"] == "clean: did not converge"


def test_a_method_whose_fits_all_fail_has_no_correlation() -> None:
    def fit(*given: Any, **more: Any) -> Any:
        raise torch.linalg.LinAlgError("singular")

    failing, ours = _compare(_method(fit, "LLE"), _method())
    assert failing.failed == failing.fits == 12
    assert all(math.isnan(r) for r in (*failing.r, *failing.rho, *failing.fitted_r))
    row = _tables({"net": [ours, failing]})["methods"][1]
    assert row["Pearson"] == row["Spearman"] == "no fit" and row["Pearson, low"] is None


def test_strengths_that_are_no_numbers_are_a_fit_that_failed() -> None:
    def fit(f: Tensor, *rest: Any, **given: Any) -> Projected:
        own = _oracle(f, *rest)
        return Projected(own.fitted, lambda x: own.strength(x) / torch.zeros(len(x)))

    (outcome,) = _compare(_method(fit, configurations={"one": {}}))
    assert outcome.failed == 12 and outcome.failures == ["one: strengths that are not finite"]


@pytest.mark.parametrize(("crowd", "crowded", "finite"), [(1e-4, 8, True), (0.0, 8, False)])
def test_points_in_one_place_are_told(crowd: float, crowded: int, finite: bool) -> None:
    def fit(f: Tensor, *rest: Any, **given: Any) -> Projected:
        own = _oracle(f, *rest)
        alone = torch.arange(len(f)) == 0
        return Projected(torch.where(alone, own.fitted if crowd else 0, crowd), own.strength, 2)

    (outcome,) = _compare(_method(fit, configurations={"one": {}}), seeds=2)
    assert outcome.crowded == crowded and outcome.pieces == 8
    assert math.isfinite(outcome.fitted_r[0]) == finite


def test_every_method_searches_as_many_configurations() -> None:
    assert [m.name for m in METHODS] == list(published.STRENGTH_ENTROPY)
    for m in METHODS:
        different = {json.dumps(x, sort_keys=True) for x in m.configurations.values()}
        assert len(different) == len(m.configurations) == 4, m.name
    assert [m.name for m in METHODS if not m.maps_new] == ["t-SNE"]


def test_longer_features_are_surer_and_ours_is_ahead_of_what_sees_no_output() -> None:
    pytest.importorskip("sklearn")
    beside = 2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    f = torch.cat([DATA.f, beside.repeat(1, 12)], dim=1)
    few = [
        replace(m, configurations=dict(list(m.configurations.items())[1::2]))
        for m in METHODS
        if m.maps_new
    ]
    outcomes = compare_methods(f, DATA.z, DATA.y, [2.0], seeds=1, folds=2, methods=few)
    by_name = {o.method: o for o in outcomes}
    assert by_name["ours"].r[0] < -0.5 and by_name["DRPR"].r[0] < -0.3
    for name in ("PCA", "LLE", "Isomap"):
        assert by_name["ours"].r[0] < by_name[name].r[0] - 0.1, name
    # 40 neighbours are more than the half of the images that is fitted.
    assert math.isnan(by_name["LLE"].searched["40 neighbours"][0])
    assert any("neighbours = 40 need more images" in text for text in by_name["LLE"].failures)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"temperatures": []}, "temperatures must be positive"),
        (
            {"temperatures": [1.0, 0.0]},
            r"temperatures must be positive .* got \[1.0, 0.0\]",
        ),
        ({"temperatures": 2.0}, "temperatures must be positive numbers in a list, got 2.0"),
        ({"temperatures": ["1"]}, "temperatures must be positive numbers"),
        ({"folds": 50}, "folds must be between 2 and the number of samples 40"),
    ],
)
def test_what_cannot_be_asked_for_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _compare(_method(), **given)


@pytest.mark.parametrize("methods", ["PCA", ["PCA"], [], METHODS[0]])
def test_names_of_methods_are_told_from_methods(methods: Any) -> None:
    with pytest.raises(TypeError, match=r"methods: expected a list of Method, .* \(ours, .* got"):
        compare_methods(DATA.f, DATA.z, DATA.y, methods=methods)


def test_features_of_other_images_are_refused() -> None:
    for f, z, y in ((DATA.f[:9], DATA.z, DATA.y), (DATA.f, DATA.z, DATA.y[:9])):
        with pytest.raises(ValueError, match=r"f, z and y must be \[N, E\], \[N, C\] and \[N\]"):
            compare_methods(f, z, y, methods=[_method()])


def test_arrays_of_numpy_are_compared_like_tensors() -> None:
    asked: dict[str, Any] = {"seeds": 1, "folds": 2, "methods": [METHODS[2]]}
    arrays = [x.double().numpy() for x in (DATA.f, DATA.z)]
    of_arrays = compare_methods(*arrays, DATA.y.numpy(), [1.0], **asked)  # type: ignore[arg-type]
    of_tensors = compare_methods(DATA.f, DATA.z, DATA.y, [1.0], **asked)
    assert of_arrays[0].r == pytest.approx(of_tensors[0].r, abs=1e-5)


def test_the_interval_is_students() -> None:
    values = [-0.9, -0.8, -0.7, float("nan")]
    interval = student_interval(values)
    low, high = stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.value, interval.low, interval.high) == pytest.approx((-0.8, low, high))
    one = student_interval([0.5])
    assert one is not None and one.value == 0.5 and math.isnan(one.low)
    assert student_interval([float("nan")]) is None


def test_the_rows_say_how_far_ours_is_ahead_and_what_the_paper_has() -> None:
    ours, other = _compare(
        _method(configurations={"clean": {"noise": 0.1}}),
        _method(name="PCA", configurations={"noisy": {"noise": 0.5}}),
    )
    first, second = _tables({"net": [ours, other]})["methods"]
    gap = [a - b for a, b in zip(ours.r, other.r, strict=True)]
    assert first["ours less this"] == 0
    assert second["ours less this"] == pytest.approx(sum(gap) / 3)
    assert second["ours less this, low"] < second["ours less this"] < 0
    assert (second["paper, lowest"], second["paper, highest"]) == (-0.81, -0.56)


def test_the_papers_numbers_are_those_of_the_paper(truth_dir: Path) -> None:
    truth = json.loads((truth_dir / "paper_tables.json").read_text())
    printed = truth["table1_pearson_strength_vs_entropy"]
    for name, values in published.STRENGTH_ENTROPY.items():
        assert list(values) == printed["ISOMAP" if name == "Isomap" else name]
    second = truth["table2_pearson_h_strength_vs_w"]
    assert list(published.STRENGTH_IMPORTANCE) == second["mean"]
    assert list(published.STRENGTH_IMPORTANCE_DEVIATION) == second["std"]
    rows = _tables({})["paper"]
    assert [row["network"] for row in rows] == list(published.NETWORKS)
    assert rows[3]["Table 1, LLE"] == -0.09 and rows[1]["Table 2, mean"] == 0.8248


def test_both_tables_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    def fit(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Any:
        if given["noise"] == 0.1 and seed == 1:
            raise ValueError("did not converge")
        return _oracle(f, z, dim, temperature, seed, **given)

    r = torch.rand(2, 5)
    r[0, 0] = torch.nan
    nan = float("nan")
    result = PaperTables(
        # Networks of one name are called by their whole paths, one of which may begin another.
        methods={"/a/net": _compare(_method(fit)), "/a/net/net": _compare(_method(fit), seeds=2)},
        importance={
            "/a/net": RegionStrength(["conv", "conv.1"], 0.1, r, r / 2),
            "/a/net/net": RegionStrength(["conv"], 1.0, r[1:, :3], r[:1, :3]),
        },
        factors=["alpha", "images"],
        ablation=[
            AblationFit(Choices(alpha=0), r[0], r[1], 0.5, 0.25, 2.0),
            AblationFit(Choices(images=9), torch.empty(0), r[0, :0], nan, nan, nan, "z: all alike"),
        ],
        default=Choices(kappa_p=2.0, centring="for w and v"),
    )
    bare = replace(result, methods={}, importance={}, factors=[], ablation=[])
    for name, made in (("full", result), ("bare", bare)):
        made.save(tmp_path / name)
        again = PaperTables.load(tmp_path / name)
        assert_equal(again, made)
        for table, rows in report.tables(made, NOWHERE).items():
            assert_equal(report.tables(again, NOWHERE)[table], rows)
        assert report.figures(again, NOWHERE).keys() == report.figures(made, NOWHERE).keys()


def _draw(**changed: Any) -> Figure:
    r = torch.tensor([[[-0.9, -0.5, float("nan")]], [[-0.8, 0.3, -0.2]]])
    given: dict[str, Any] = {
        "r": Band(r, r - 0.1, r + 0.1),
        "mean_entropy": [[0.5], [0.7]],
        "names": ["ours", "PCA", "t-SNE"],
        "temperatures": [2.0],
        "networks": ["one", "two"],
        "left_out": [True, True, False],
        **changed,
    }
    return figures.methods(**given)


def test_the_figure_shows_every_method_and_says_where_there_is_no_fit() -> None:
    figure = _draw(published=published.STRENGTH_ENTROPY)
    first, second = figure.axes
    assert first.get_title("left") == "temperature 2\nmean entropy 0.50 nats"
    marks = [[x for x in a.lines if x.get_marker() == "o"] for a in (first, second)]
    assert [[float(x.get_xdata()[0]) for x in row] for row in marks] == [
        pytest.approx([-0.9, -0.5]),
        pytest.approx([-0.8, 0.3, -0.2]),
    ]
    assert [x.get_markerfacecolor() == "white" for x in marks[1]] == [False, False, True]
    assert [x.get_text() for x in first.texts] == ["no fit"]
    assert [x.get_text() for x in first.get_yticklabels()] == ["ours", "PCA", "t-SNE"]
    assert len(first.patches) == 3 and not _draw().axes[0].patches


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": ["ours"]}, r"methods: r, value must be \[S=2, T, M=1\]"),
        ({"mean_entropy": [0.5]}, "methods: mean_entropy must be"),
        ({"temperatures": [1.0, 2.0]}, "methods: temperatures must be"),
        ({"left_out": [True]}, "methods: left_out must be"),
        ({"networks": []}, "methods: networks is empty"),
    ],
)
def test_a_figure_of_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _draw(**changed)
