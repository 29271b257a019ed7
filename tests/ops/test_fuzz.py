"""A sample of the random cases of `make fuzz`, and that they find what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from tests.ops import fuzz


def test_a_sample_of_random_cases_is_the_oracles(level: str) -> None:
    assert [*fuzz.failures(range(60))] == []


def test_cases_follow_from_their_numbers_and_are_of_every_kind() -> None:
    problems = [fuzz.draw(number) for number in range(400)]
    assert problems == [fuzz.draw(number) for number in range(400)]
    for of, kinds in (
        (lambda x: x.op, ["maxsim", "match_kl", "match_kl_scaled"]),
        (lambda x: x.case.values, fuzz.VALUES),
        (lambda x: x.case.strides, fuzz.STRIDES),
        (lambda x: x.case.dtype, fuzz.DTYPES),
        (lambda x: x.options.get("precision"), [None, "highest", "high", "medium"]),
        (lambda x: 0 in (x.case.N, x.case.R, x.case.B), [True, False]),
        (lambda x: x.case.D > 64 and x.case.S > 1, [True, False]),
    ):
        assert {of(x) for x in problems} == set(kinds)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("wrong", ["scores", "match", "tie", "gradient", "loss"])
def test_what_is_wrong_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        T, argmax = right(*given, **options)
        S = given[1].shape[1]
        if wrong == "scores":
            T = T * (1 + 1e-3)
        if wrong == "match":
            argmax = (argmax + 1) % S
        if wrong == "tie":  # the last of equal regions
            flipped = right(given[0], given[1].flip(1), *given[2:], **options)[1]
            argmax = S - 1 - flipped
        return T, argmax

    right, right_grad = ops.maxsim_indices, torch.autograd.grad
    if wrong in ("scores", "match", "tie"):
        monkeypatch.setattr(ops, "maxsim_indices", scores)
        monkeypatch.setattr(ops, "maxsim", lambda *x, **options: scores(*x, **options)[0])
    elif wrong == "gradient":
        monkeypatch.setattr(
            torch.autograd, "grad", lambda *x: [1.001 * grad for grad in right_grad(*x)]
        )
    else:
        right_loss = ops.match_kl
        monkeypatch.setattr(ops, "match_kl", lambda **x: right_loss(**x) * (1 + 1e-3))
    assert any(isinstance(error, AssertionError) for _, error in fuzz.failures(range(60)))
