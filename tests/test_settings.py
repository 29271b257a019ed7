"""The words of a choice are those that exist, and options read the defaults of the settings."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest

from emergence_ext import data, network, ops, settings
from emergence_ext.cli import network as command
from emergence_ext.report.look import TECHNIQUES
from emergence_ext.settings import Settings

OF_A_RECIPE = ("pairs", "temperature")


def test_every_word_of_a_choice_exists_and_nothing_else() -> None:
    assert list(get_args(settings.Technique)) == list(TECHNIQUES)
    assert list(get_args(settings.ShippedImages)) == list(data.SHIPPED)
    for word in get_args(settings.Preprocessing):
        assert network.preprocess(word) is not None
    pytest.importorskip("torchvision")  # some of the networks are made of its own
    for word in get_args(settings.BuiltinModel):
        assert network.load_model(word, num_classes=2).module is not None
    for word in get_args(settings.Backend):
        assert ops.choose(word).name in ("fused", "reference")


@pytest.mark.parametrize("name", ["preprocess", "model"])
def test_an_unknown_word_is_refused_with_those_that_exist(name: str) -> None:
    kind = settings.Preprocessing if name == "preprocess" else settings.BuiltinModel
    call = network.preprocess if name == "preprocess" else network.load_model
    with pytest.raises(ValueError, match=f"{name}: .*{settings.words(kind)}"):
        call("nonsense")


def test_options_of_run_have_the_defaults_of_the_settings() -> None:
    options = inspect.signature(command.run).parameters
    shared = [field for field in fields(settings.Settings) if field.name in options]
    assert len(shared) >= 5
    for field in shared:
        ours = options[field.name].default
        assert ours == field.default or (ours is None and field.name in OF_A_RECIPE), field.name


def test_a_recipe_is_its_settings_and_what_is_given_stands() -> None:
    assert Settings() == Settings(recipe="default") and Settings().changed == {}
    authors = Settings(recipe="authors")
    assert (authors.temperature, authors.kappa_p, authors.weights_of) == (4.0, 5.0, "conditioning")
    assert authors.changed == {} and authors.in_words == "recipe 'authors'"
    beside = Settings(recipe="authors", temperature=2.0, kappa_p=None)
    assert (beside.temperature, beside.kappa_p) == (2.0, None)
    assert beside.in_words == "recipe 'authors' with temperature = 2.0, kappa_p = None"
    assert replace(beside, alpha=1.0).temperature == 2.0
    assert Settings(**asdict(beside)) == beside
    paper = Settings(recipe="paper")
    assert (paper.kappa_tilde, paper.region_prior, paper.temperature) == (1000.0, 0.0, 1.0)


def test_every_field_of_a_recipe_is_one_that_earlier_runs_had_otherwise() -> None:
    differing = {name for recipe in settings.RECIPES.values() for name in recipe}
    known = {"temperature", "include_self", "importance_evals", "regional_evals"}
    known |= {"importance_solver", "importance_weights_of"}  # were those of all fits
    assert differing <= settings.BEFORE.keys() | known
    assert set(settings.RECIPES) == set(get_args(settings.Recipe))
    otherwise = {"importance_rate"}  # a default that was another
    for name, value in settings.BEFORE.items():
        assert (getattr(Settings(), name) == value) == (name not in otherwise), name
    noted = {"solver": "sgd", "weights_of": "conditioning"}
    theirs, oldest = settings.with_later(noted), settings.with_later({})
    for name, value in noted.items():
        assert theirs[f"importance_{name}"] == value
        assert oldest[f"importance_{name}"] == settings.BEFORE[name]
    later = settings.with_later({"importance_weights_of": "conditioning"})
    assert (later["weights_of"], later["importance_weights_of"]) == ("scored", "conditioning")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "theirs"}, "recipe must be one of default, paper, authors, got 'theirs'"),
        ({"recipe": "authors", "solver": "lbfgs"}, "strength_gradient = False .* solver = "),
        ({"matches": "none"}, "matches must be one of projected, raw"),
        ({"kappa_p": 0.0}, "kappa_p must be positive, got 0"),
        ({"region_prior": -1.0}, "region_prior must be at least 0"),
        ({"sample_base": float("inf")}, "sample_base must be positive"),
        ({"dim": "3"}, "dim must be a number .int., got '3'"),
        ({"tau": [0.4]}, r"tau must be a number"),
    ],
)
def test_what_contradicts_is_refused_and_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Settings(**given)


def test_options_of_run_make_settings_of_the_recipe_with_what_stands_beside_it() -> None:
    defaults = {n: p.default for n, p in inspect.signature(command.run).parameters.items()}
    given = {**defaults, "data": None, "model": "x", "recipe": "authors", "seed": 3}
    given |= {"also": ["kappa_p=none", "importance_rate=0.005", "point_priors=yes"]}
    made = command.analysis(given)[1]
    assert made == Settings(
        recipe="authors", kappa_p=None, importance_rate=0.005, point_priors=True, random_state=3
    )
    for text in ("kappa_q=1", "kappa_p", "kappa_p=x", "point_priors=1"):
        with pytest.raises(ValueError, match="also"):
            command.analysis(given | {"also": [text]})
    with pytest.raises(ValueError, match="also"):  # one of the two is not meant
        command.analysis(given | {"temperature": 2.0, "also": ["temperature=3"]})
