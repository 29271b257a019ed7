"""What is no argument of a study is named before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext import studies
from emergence_ext.run import FinishedRun
from emergence_ext.settings import AttackSettings
from tests.planted import feature_set

FEATURES = feature_set(1.0)
X = torch.rand(2, 3, 4, 4)
NO_RUN = "run: expected FinishedRun, got str"
LABELS = torch.tensor([0, 1])
NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
DRPR = studies.drpr.DRPR


def _pgd(**changes: Any) -> list[Any]:
    given = {"network": NETWORK, "images": X, "labels": LABELS, "steps": 1, **changes}
    return list(studies.pgd.pgd(**given))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: AttackSettings(eps="a"), "eps: expected a number, got 'a'"),
        (lambda: AttackSettings(step="a"), "step: expected a number, got 'a'"),
        (lambda: AttackSettings(steps=2.5), "steps: expected a whole number, got 2.5"),
        (lambda: AttackSettings(tau=5), "tau must be between 0 and 1, got 5"),
        (lambda: AttackSettings(tau="a"), "tau: expected a number, got 'a'"),
        (lambda: AttackSettings(images=None), "images: expected held-out, all, or a number"),
        (lambda: _pgd(images=255 * X), "images: expected pixels in 0..1, got .*"),
        (lambda: _pgd(images=X.numpy()), "images: expected a tensor"),
        (lambda: _pgd(eps=-1.0), "eps: expected at least 0, got -1.0"),
        (lambda: _pgd(step="a"), "step: expected a number, got 'a'"),
        (lambda: _pgd(steps="a"), "steps: expected a whole number, got 'a'"),
        (
            lambda: studies.pgd.require_differentiable("clip", X),
            r"preprocess: expected a function .* network.preprocess\('clip'\) makes one",
        ),
        (
            lambda: studies.attack.region_types(torch.ones(3), torch.ones(4)),
            r"o and a must be bool .* \[3\] and .* \[4\]",
        ),
        (lambda: DRPR(dim="3"), "dim: expected a whole number, got '3'"),
        (lambda: DRPR(softening="2"), "softening: expected a number, got '2'"),
        (lambda: DRPR(max_evals=0), "max_evals: expected at least 1, got 0"),
        (
            lambda: studies.paper_tables.paper_tables({"a": "runs/demo"}, [1.0]),
            "runs: expected Fin",
        ),
        (
            lambda: studies.controls.controls("runs/demo", None),
            "run: expected FinishedRun, got str",
        ),
        (lambda: studies.distill.distill("runs/demo", None), NO_RUN),
        (
            lambda: studies.apply.open_folder("runs/demo", "new"),
            "run: expected FinishedRun, got str",
        ),
        (lambda: studies.attack.attack(NETWORK, None, None), "subject: expected Subject, got Seq"),
        (lambda: studies.ablation.Choices(centring="all"), "centring must be one of none, for w"),
        (lambda: studies.ablation.Choices(similarity="z"), "similarity must be one of logits, cen"),
        (lambda: studies.compare.align(None, None), "a: expected Frame, got NoneType"),
        (lambda: studies.compare.differences(None), "c: expected Comparison, got NoneType"),
        (lambda: studies.foreground.find_objects(None, boxes={}), "e: expected Emergence"),
        (lambda: studies.foreground.share_of_points(None, None), "e: expected Emergence"),
    ],
)
def test_what_is_no_argument_is_named(call: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        call()


def test_numbers_and_lists_are_taken_where_they_say_the_same() -> None:
    assert AttackSettings(images=20) == AttackSettings(images="20")  # type: ignore[arg-type]
    assert len(_pgd(labels=[0, 1])) == len(_pgd()) == 2
    f, z = FEATURES.f, FEATURES.z
    fit, like = DRPR(max_evals=2).fit(f, z), DRPR(max_evals=2).fit(f.numpy(), z.numpy())  # type: ignore[arg-type]
    assert torch.equal(torch.as_tensor(like.transform(f.numpy())), fit.transform(f))  # type: ignore[arg-type]


def test_arguments_of_a_comparison_are_named(finished_run: Path) -> None:
    e = FinishedRun.open(finished_run).emergence
    with pytest.raises(ValueError, match="names: expected two, of A and of B, got 'AB'"):
        studies.compare.compare(e, e, names="AB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"checkpoint_a: expected the place .* got 'last'"):
        studies.compare.compare(e, e, checkpoint_a="last")  # type: ignore[arg-type]
    opened = studies.paper_tables.open_runs(str(finished_run))  # type: ignore[arg-type]
    assert list(opened) == [finished_run.name]
