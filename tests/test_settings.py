"""The words of a choice are those that exist, and options read the defaults of the settings."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

import pytest

from emergence_ext import network, ops, settings
from emergence_ext.cli import network as command
from emergence_ext.report.look import TECHNIQUES


def test_every_word_of_a_choice_exists_and_nothing_else() -> None:
    assert list(get_args(settings.Technique)) == list(TECHNIQUES)
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
        assert options[field.name].default == field.default, field.name
