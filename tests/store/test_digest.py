"""Digests: equal exactly where values are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from emergence_ext.store import digest


def test_values_that_differ_in_anything_have_other_digests() -> None:
    values = [
        None, True, 1, 1.0, "1", b"1", [], [1], ["1"], [[1]], [1, 2], [[1], 2], {}, {"a": 1},
        {"a": 1, "b": 2}, {"b": 2, "a": 1}, ["ab", "c"], ["a", "bc"],
        torch.zeros(2), torch.zeros(2, dtype=torch.int32), torch.zeros(1, 2), torch.zeros(2, 1),
        torch.tensor([0.0, -0.0]), torch.zeros(0), torch.zeros(0, 3),
    ]  # fmt: skip
    digests = [digest(value) for value in values]
    for (i, a), (j, b) in itertools.combinations(enumerate(digests), 2):
        assert a != b, (values[i], values[j])


def test_where_an_array_lies_is_nothing_to_its_digest() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    for same in (x.t().contiguous().t(), torch.cat([x, x])[:3], x.requires_grad_(), x.clone()):
        assert digest(same) == digest(x)
    assert digest(x.detach().numpy()) == digest(x)
    assert digest(np.float64(0.5)) == digest(0.5)
    assert digest((1, "a")) == digest([1, "a"])


def test_one_flipped_bit_is_another_value() -> None:
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    for place in range(20):
        flipped = x.clone()
        flipped.view(torch.uint8)[place] ^= 1
        assert digest(flipped) != digest(x)


def test_what_has_no_digest_is_refused() -> None:
    with pytest.raises(TypeError, match="no digest of a set"):
        digest({1})
    with pytest.raises(TypeError, match="text as keys"):
        digest({1: 2})
