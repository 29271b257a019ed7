"""The ops on a CUDA device. Only torch and pytest are imported, so that this runs anywhere."""

from __future__ import annotations

import pytest

from emergence_ext import ops
from tests import oracle
from tests.cases import CASES, Case, build

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("library")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda_agrees_with_the_cpu(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_UNTESTED_CUDA", "1")
    there, here = build(case, "cuda"), build(case)
    T, argmax = ops.maxsim_indices(there.q, there.d, there.a)
    oracle.assert_scores(here.q, here.d, here.a, T.cpu(), argmax.cpu())


def test_cuda_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMERGENCE_UNTESTED_CUDA", raising=False)
    x = build(CASES[0], "cuda")
    with pytest.raises(NotImplementedError, match="EMERGENCE_UNTESTED_CUDA=1"):
        ops.maxsim(x.q, x.d)
