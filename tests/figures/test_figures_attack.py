"""Figures of an attack: what they show, what they say, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from emergence_ext import figures

HOSTILE = ["$x^2$", "a_very_long_name_" * 20, "猫 \udcff"]


@pytest.mark.parametrize("dim", [2, 3])
def test_figures_in_space_take_planes_and_hostile_names(dim: int) -> None:
    rng = np.random.default_rng(0)
    mu = rng.normal(size=(3, dim))
    y, after = [0, 1, 2], [1, 2, 0]
    path = rng.normal(size=(5, 3, 4, dim))
    important = np.ones((3, 4), dtype=bool)
    important[2] = False
    drawn = figures.attack_paths(path, important, y, after, mu, HOSTILE, max_paths=2)
    texts = [t.get_text() for axes in drawn.axes for t in axes.texts]
    assert any("4 important regions, the 2 that" in " ".join(t.split()) for t in texts)
    assert any("no region is important" in " ".join(t.split()) for t in texts)
    p = rng.random((2, 5, 3))
    drawn = figures.attack_types(path[:, :, 0], p, [1, 1, 4], y, after, mu, HOSTILE)
    texts = [" ".join(t.get_text().split()) for axes in drawn.axes for t in axes.texts]
    assert texts.count("no such region in this layer") == 2


def test_figures_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"no region has p\(c_adv \| h_adv\) > 0.4"):
        figures.attack_utility([[], []], ["a", "b"])
    with pytest.raises(ValueError, match="utility must hold L=2 arrays"):
        figures.attack_utility([[0.1]], ["a", "b"])
    with pytest.raises(ValueError, match="grid 2 x 3 holds 6 regions"):
        figures.attack_images(
            np.zeros((2, 1, 3, 4, 4)), np.zeros((2, 2, 1, 4)), [0], [1], (2, 3), ["a", "b"], eps=0.1
        )
    with pytest.raises(ValueError, match="dim 4, only 2 or 3"):
        figures.attack_paths(np.zeros((2, 1, 1, 4)), [[1]], [0], [1], np.eye(4), list("abcd"))


def test_an_addition_of_eps_is_white_and_a_layer_without_regions_says_so() -> None:
    clean = np.full((1, 1, 2, 2), 0.5)
    added = clean + 0.1 * np.array([[[[1, -1], [0, 0.5]]]])
    drawn = figures.attack_images(
        np.stack([clean, added]), np.zeros((2, 2, 1, 4)), [0], [1], (2, 2), ["a", "b"], eps=0.1
    )
    shown = drawn.axes[1].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(np.asarray(shown)[..., 0], [[1, 0], [0.5, 0.75]], atol=1e-6)
    histogram = figures.attack_utility([[0.1, 0.9], []], ["a", "b"])
    texts = [t.get_text() for axes in histogram.axes for t in axes.texts]
    assert "no such region" in texts and "2 regions, 50% above 0.4" in texts
    told = next(t for t in histogram.axes[0].texts if "2 regions" in t.get_text())
    assert told.get_bbox_patch() is not None  # the line at tau passes behind it
    assert drawn.axes[1].texts[0].get_text() == "added, ±25.5/255"


def test_the_counts_of_both_categories_are_within_their_panels_and_no_type_is_said() -> None:
    few, many = np.full((2, 3), 5.0), np.full((2, 3), 80.0)
    change, none = np.full((3, 3), 0.5), np.zeros((4, 3))
    drawn = figures.attack_curves(
        *(figures.Band(x, x, 1.1 * x) for x in (few, many, change, none)), ["a", "b", "c"]
    )
    first, second, *_, types = drawn.axes
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] == 0 and second.get_ylim()[1] > 88
    assert [t.get_text() for t in types.texts] == ["every region is unchanged"]
    low, high = types.get_ylim()
    shown = [t for t in types.get_yticks() if low <= t <= high]
    assert all(t == int(t) for t in shown)
