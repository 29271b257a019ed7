"""What the hints of a class say is stored and comes back as it was; anything else is an error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method import (
    ExactKappa,
    FitStats,
    Frame,
    RegionalProjection,
    RegionImportance,
    SampleProjection,
)
from emergence_ext.network import FeatureSet
from emergence_ext.run import Emergence
from emergence_ext.store import Estimator, Saved, StoreError, load_arrays, once, save_arrays
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.compare import Alignment, Comparison
from emergence_ext.studies.distill import Distillation
from emergence_ext.studies.drpr import DRPR


@dataclass
class _Pair(Saved):
    left: Tensor
    name: str


class _Other(_Pair):
    pass


@dataclass
class _Plain:
    x: Tensor
    size: tuple[int, int]


@dataclass
class _All(Saved):
    pair: _Pair
    plain: _Plain
    perhaps: Tensor | None
    perhaps_plain: _Plain | None
    by_name: dict[str, Tensor]
    row: list[Tensor]
    two: tuple[Tensor, Tensor]
    pairs: dict[str, _Pair]
    plains: list[_Plain]
    places: list[tuple[int, float]]
    terms: dict[str, float]
    names: list[str]
    late: str = "late"
    later: list[Tensor] = field(default_factory=list)


@dataclass
class _Loose(Saved):
    anything: list[Any]


class _Fit(Estimator):
    start: Tensor
    weights_: list[Tensor]
    size_: float

    _unsaved = ("make",)

    def __init__(self, start: Tensor, steps: int = 3, make: Callable[[], int] = int) -> None:
        self.start = start
        self.steps = steps
        self.make = make


def _pair(value: float) -> _Pair:
    return _Pair(torch.full((2,), value), f"pair {value}")


def _all(**changed: Any) -> _All:
    values: dict[str, Any] = {
        "pair": _pair(1.0),
        "plain": _Plain(torch.arange(3), (1, 2)),
        "perhaps": torch.eye(2),
        "perhaps_plain": _Plain(torch.zeros(1), (3, 4)),
        "by_name": {"b/1": torch.ones(1), "a": torch.zeros(1)},
        "row": [torch.full((i,), i) for i in range(12)],
        "two": (torch.ones(3), torch.zeros(3)),
        "pairs": {"second": _pair(2.0), "first": _pair(3.0)},
        "plains": [_Plain(torch.ones(i), (i, i)) for i in range(2)],
        "places": [(1, 0.5), (2, float("inf"))],
        "terms": {"kl": 0.5},
        "names": ["b", "a"],
    }
    return _All(**(values | changed))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return _same(vars(a), vars(b)) if hasattr(a, "__dataclass_fields__") else a == b


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"perhaps": None, "perhaps_plain": None},
        {"by_name": {}, "row": [], "pairs": {}, "plains": [], "terms": {}, "names": []},
        {"late": "now", "later": [torch.ones(1)]},
    ],
)
def test_every_kind_of_field_comes_back(tmp_path: Path, changed: dict[str, Any]) -> None:
    before = _all(**changed)
    before.save(tmp_path / "all")
    assert _same(before, _All.load(tmp_path / "all"))


def test_names_of_arrays_and_settings_say_where_they_belong() -> None:
    arrays, settings = _all(row=[torch.ones(1)] * 2)._state()
    assert set(arrays) == {
        "pair/left", "plain/x", "perhaps", "perhaps_plain/x", "by_name/b/1", "by_name/a", "row/0",
        "row/1", "two/0", "two/1", "pairs/second/left", "pairs/first/left", "plains/0/x",
        "plains/1/x",
    }  # fmt: skip
    assert settings == {
        "pair": {"name": "pair 1.0"},
        "plain": {"size": [1, 2]},
        "perhaps_plain": {"size": [3, 4]},
        "by_name": ["b/1", "a"],
        "pairs": {"second": {"name": "pair 2.0"}, "first": {"name": "pair 3.0"}},
        "plains": [{"size": [0, 0]}, {"size": [1, 1]}],
        "places": [[1, 0.5], [2, float("inf")]],
        "terms": {"kl": 0.5},
        "names": ["b", "a"],
        "late": "late",
        "later": [],
    }


def test_a_field_that_was_not_there_yet_takes_its_default(tmp_path: Path) -> None:
    arrays, settings = _all()._state()
    del settings["late"], settings["later"]
    save_arrays(tmp_path / "all", arrays, settings, kind="_All")
    loaded = _All.load(tmp_path / "all")
    assert loaded.late == "late" and loaded.later == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays, settings: settings.pop("names"), "'names'"),
        (lambda arrays, settings: arrays.pop("perhaps"), "'perhaps'"),
        (lambda arrays, settings: arrays.pop("pair/left"), "'left'"),
        (lambda arrays, settings: arrays.pop("by_name/a"), "'by_name/a'"),
        (lambda arrays, settings: settings["by_name"].pop(), "unknown arrays.*'by_name/a'"),
        (lambda arrays, settings: arrays.pop("row/3"), "unknown arrays.*'row/4'"),
        (lambda arrays, settings: arrays.pop("two/1"), "zip"),
        (lambda arrays, settings: arrays.update(more=torch.ones(1)), "unknown arrays.*'more'"),
        (lambda arrays, settings: settings.update(more=1), "'more'"),
        (lambda arrays, settings: settings["plain"].update(more=1), "'more'"),
        (lambda arrays, settings: settings["pair"].clear(), "'name'"),
        (lambda arrays, settings: settings.update(names="ab"), "names: expected a list, got 'ab'"),
        (lambda arrays, settings: settings["plain"].update(size=[1, 2, 3]), "zip"),
    ],
)
def test_a_state_that_does_not_fit_is_a_store_error(
    tmp_path: Path, change: Callable[..., object], words: str
) -> None:
    arrays, settings = _all()._state()
    change(arrays, settings)
    save_arrays(tmp_path / "all", arrays, settings, kind="_All")
    with pytest.raises(StoreError, match=f"intact but does not make a _All.*{words}"):
        _All.load(tmp_path / "all")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["left", "name", "x", "size", "a"]), inner)
    ),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changed=st.dictionaries(st.sampled_from([*_all()._state()[1], "perhaps", "row"]), _JSON))
def test_no_settings_can_do_worse_than_a_store_error(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    arrays, settings_ = _all()._state()
    save_arrays(tmp_path / "all", arrays, settings_ | changed, kind="_All")
    with contextlib.suppress(StoreError):
        _All.load(tmp_path / "all")


def test_a_tensor_where_the_hint_says_none_is_refused_when_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"settings\['anything'\]\[0\]"):
        _Loose([torch.ones(1)]).save(tmp_path / "loose")


def test_an_object_comes_back_and_another_class_is_refused(tmp_path: Path) -> None:
    _pair(1.0).save(tmp_path / "pair")
    assert _Pair.load(tmp_path / "pair").name == "pair 1.0"
    with pytest.raises(StoreError, match="'_Pair', expected a '_Other'"):
        _Other.load(tmp_path / "pair")


def test_a_result_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> _Pair:
        made.append("made")
        return _Pair(torch.ones(2), "x")

    assert once(None, _Pair, make).name == "x" and len(made) == 1
    for _ in range(2):
        assert once(tmp_path / "pair", _Pair, make).name == "x" and len(made) == 2
    (tmp_path / "pair.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        once(tmp_path / "pair", _Pair, make)


def test_an_object_whose_state_is_incomplete_is_a_store_error(tmp_path: Path) -> None:
    save_arrays(tmp_path / "pair", {}, {"name": "x"}, kind="_Pair")
    with pytest.raises(StoreError, match="does not make a _Pair"):
        _Pair.load(tmp_path / "pair")


def test_an_estimator_comes_back_with_what_it_learned(tmp_path: Path) -> None:
    fit = _Fit(torch.ones(2), steps=5, make=lambda: 1)
    with pytest.raises(AttributeError, match="weights_"):
        fit.save(tmp_path / "fit")
    fit.weights_, fit.size_ = [torch.zeros(1), torch.ones(1)], 0.5
    arrays, settings = fit._state()
    assert list(arrays) == ["start", "weights/0", "weights/1"]
    assert settings == {"parameters": {"steps": 5}, "size": 0.5}
    fit.save(tmp_path / "fit")
    loaded = _Fit.load(tmp_path / "fit")
    assert loaded.make is int and _same(vars(loaded) | {"make": fit.make}, vars(fit))
    for absent in ("size", "parameters"):
        rest = {name: value for name, value in settings.items() if name != absent}
        save_arrays(tmp_path / "fit", arrays, rest, kind="_Fit")
        with pytest.raises(StoreError, match=f"does not make a _Fit.*'{absent}'"):
            _Fit.load(tmp_path / "fit")
    save_arrays(tmp_path / "fit", arrays, settings | {"parameters": {"speed": 1}}, kind="_Fit")
    with pytest.raises(StoreError, match=r"does not make a _Fit.*'speed'"):
        _Fit.load(tmp_path / "fit")


# What is on disk must be found there: a name that changes here loses the results of all users.
FRAME = Frame(torch.full((3,), 1 / 3), torch.eye(3), ExactKappa(3, base=9.0), 12.5)
STATS = FitStats((2.0, 1.0), 0.5, "reached it", {"kl": 0.25}, "fused")
NESTED = {
    "frame": {
        "kappa": {"kind": "exact", "dim": 3, "sigma": 1.0, "base": 9.0},
        "kappa_p": 12.5,
    },
    "stats": {
        "losses": [2.0, 1.0],
        "seconds": 0.5,
        "stopped": "reached it",
        "terms": {"kl": 0.25},
        "backend": "fused",
    },
    "layers": ["l.0"],
    "grid": [1, 2],
}
ONE = torch.ones(1)
LISTS: Any = (["l.0"], ["x", "y"], ["1", "2"], (1, 2))  # layers, categories, names, grid
FEATURES = FeatureSet(
    {"l.0": torch.ones(2, 2, 3)}, (1, 2), torch.ones(2, 4), torch.ones(2, 2), torch.tensor([0, 1]),
    ["1", "2"], ["x", "y"],
)  # fmt: skip
EMERGENCE = Emergence(FRAME, ["a"], [1], *LISTS, 0.4, *[ONE] * 9, {"samples/a": STATS})
COMPARISON = Comparison("A", "B", *LISTS, ONE, ONE, Alignment(ONE, ONE, 0.25, True), *[ONE] * 7)
EMERGENCE_ARRAYS = (
    "y held_out region_images g z h w scale raw_strength frame/priors frame/directions"
)


def _fitted(fit: Any, **learned: Any) -> Any:
    for name, value in {"stats_": STATS, **learned}.items():
        setattr(fit, name, value)
    return fit


# Arrays, settings, and parameters among the settings.
STORED: list[tuple[Saved, str, str, str]] = [
    (FRAME, "priors directions", "kappa kappa_p", ""),
    (FEATURES, "layers/l.0 f z y", "layers grid names categories", ""),
    (
        _fitted(SampleProjection(), M_=ONE, frame_=FRAME),
        "M priors directions",
        "parameters frame stats",
        "dim temperature responsibilities strength_prior max_rounds tol random_state solver rate",
    ),
    (
        _fitted(RegionImportance(), w_=ONE, v_=ONE),
        "w v",
        "parameters stats",
        "kappa_tilde include_self max_evals tol precision pairs random_state weights_of "
        "solver rate",
    ),
    (
        _fitted(RegionalProjection(FRAME), Lambda_=ONE, scale_=1.75),
        "Lambda priors directions",
        "parameters frame scale stats",
        "alpha include_self strength_prior pairs normaliser max_evals tol random_state weights_of "
        "matches strength_gradient solver rate",
    ),
    (
        _fitted(DRPR(), mean_=ONE, size_=0.5, weights_=[ONE] * 3, priors_=ONE, centres_=ONE),
        "mean priors centres weights/0 weights/1 weights/2",
        "parameters size stats",
        "dim softening hidden learning_rate max_evals tol random_state",
    ),
    (
        EMERGENCE,
        EMERGENCE_ARRAYS,
        "labels epochs layers categories names grid tau frame fits",
        "",
    ),
    (Distillation(EMERGENCE, [0.5]), EMERGENCE_ARRAYS, "networks missed layer courses", ""),
    (
        COMPARISON,
        "y held_out distance turned strength says truth weighed w alignment/map alignment/cosine",
        "a b layers categories names grid chance same positions category confidence",
        "",
    ),
    (
        Attack(FRAME, 0.1, 0.01, 3, 0.5, 7, *LISTS, *[ONE] * 12),
        "y predicted astray h g p types images path typed typed_path typed_p frame/priors "
        "frame/directions",
        "eps step steps tau random_state layers categories names grid chosen frame",
        "",
    ),
]


@pytest.mark.parametrize(
    ("result", "arrays", "settings", "parameters"),
    [pytest.param(*x, id=type(x[0]).__name__) for x in STORED],
)
def test_results_keep_their_names_on_disk(
    tmp_path: Path, result: Saved, arrays: str, settings: str, parameters: str
) -> None:
    result.save(tmp_path / "result")
    stored_arrays, stored_settings = load_arrays(tmp_path / "result")
    assert set(stored_arrays) == set(arrays.split())
    assert set(stored_settings) == set(settings.split())
    assert set(stored_settings.get("parameters", {})) == set(parameters.split())
    assert all(stored_settings[n] == x for n, x in NESTED.items() if n in stored_settings)
    loaded = type(result).load(tmp_path / "result")
    for name, value in vars(result).items():
        assert (name == "kappa" and callable(value)) or _same(value, getattr(loaded, name)), name


def test_results_in_results_keep_their_names_on_disk() -> None:
    emergence = EMERGENCE._state()[1]
    assert emergence["fits"] == {"samples/a": NESTED["stats"]}
    assert Distillation(EMERGENCE)._state()[1]["networks"] == emergence


@pytest.mark.parametrize("result", [x[0] for x in STORED], ids=lambda x: type(x).__name__)
def test_foreign_settings_of_a_result_are_a_store_error(tmp_path: Path, result: Saved) -> None:
    (arrays, settings), kind = result._state(), type(result)
    for name in settings:
        for value in (None, 7, "seven", [7, 7, 7], {"seven": 7}):
            save_arrays(tmp_path / "x", arrays, settings | {name: value}, kind=kind.__name__)
            with contextlib.suppress(StoreError):
                kind.load(tmp_path / "x")
    save_arrays(tmp_path / "x", {}, settings, kind=kind.__name__)
    with pytest.raises(StoreError, match="is intact but does not make"):
        kind.load(tmp_path / "x")


def test_statistics_from_before_backends_were_noted_are_read() -> None:
    arrays, settings = EMERGENCE._state()
    settings = json.loads(json.dumps(settings))
    del settings["fits"]["samples/a"]["backend"]
    (stats,) = Emergence._from_state(arrays, settings).fits.values()
    assert stats == FitStats((2.0, 1.0), 0.5, "reached it", {"kl": 0.25})


def test_the_concentration_of_a_projection_comes_back(tmp_path: Path) -> None:
    fit = _fitted(SampleProjection(kappa=lambda dim: FRAME.kappa), M_=torch.eye(3), frame_=FRAME)
    fit.save(tmp_path / "samples")
    assert SampleProjection.load(tmp_path / "samples").kappa(3) == FRAME.kappa
