"""DRPR: the mixture is its own definition, and the fit reproduces what the network says."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext.studies.drpr import DRPR, drpr_loss, log_responsibilities, mixture
from tests.planted import planted

DATA = planted(60, 3)


@pytest.fixture(scope="module")
def fitted() -> DRPR:
    return DRPR(softening=1.0, max_evals=80).fit(DATA.f, DATA.z)


def test_the_mixture_and_its_responsibilities_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    P = torch.softmax(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=1)
    priors, centres = mixture(x, P)
    loss = 0.0
    for c in range(3):
        mass = sum(float(P[i, c]) for i in range(5))
        assert float(priors[c]) == pytest.approx(mass / 5)
        for d in range(2):
            mean = sum(float(P[i, c] * x[i, d]) for i in range(5)) / mass
            assert float(centres[c, d]) == pytest.approx(mean)
    for i in range(5):
        scores = [
            float(priors[c]) * math.exp(-float((x[i] - centres[c]).square().sum()))
            for c in range(3)
        ]
        for c in range(3):
            r = scores[c] / sum(scores)
            assert float(log_responsibilities(x, priors, centres)[i, c]) == pytest.approx(
                math.log(r)
            )
            loss += float(P[i, c]) * (math.log(float(P[i, c])) - math.log(r)) / 5
    assert float(drpr_loss(x, P)) == pytest.approx(loss)


def test_the_loss_has_the_gradient_of_what_it_is() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    P = torch.softmax(torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=1)
    assert torch.autograd.gradcheck(lambda x: drpr_loss(x, P), (x,))


def test_the_points_reproduce_what_the_network_says(fitted: DRPR) -> None:
    P = torch.softmax(DATA.z, dim=1)
    kl = (torch.xlogy(P, P / fitted.predict_proba(DATA.f))).sum(1).mean()
    assert float(kl) == pytest.approx(fitted.stats_.terms["kl"], rel=1e-4)
    assert float(kl) < 0.1 * fitted.stats_.losses[0]
    assert (fitted.predict_proba(DATA.f).argmax(1) == P.argmax(1)).float().mean() > 0.9
    assert fitted.transform(DATA.f).shape == (60, 3)
    assert all(b <= a for a, b in pairwise(fitted.stats_.losses))


def test_the_best_points_are_kept_where_the_steps_lead_uphill() -> None:
    fit = DRPR(softening=1.0, hidden=0, learning_rate=50.0, max_evals=12).fit(DATA.f, DATA.z)
    assert fit.stats_.losses[-1] == fit.stats_.losses[-2]  # the last steps were worse
    reached = drpr_loss(fit.transform(DATA.f), torch.softmax(DATA.z, dim=1))
    assert float(reached) == pytest.approx(fit.stats_.losses[-1], rel=1e-5)


def test_a_softer_network_is_reproduced_as_softer() -> None:
    soft = DRPR(softening=4.0, hidden=0, max_evals=80).fit(DATA.f, DATA.z)
    assert [tuple(x.shape) for x in soft.weights_] == [(3, 12)]
    confidence = torch.softmax(DATA.z / 4, dim=1).amax(1).mean()
    assert soft.predict_proba(DATA.f).amax(1).mean() == pytest.approx(float(confidence), abs=0.05)


def test_the_units_of_features_do_not_matter() -> None:
    plain, scaled = (
        DRPR(max_evals=20).fit(a * DATA.f + b, DATA.z).transform(a * DATA.f + b)
        for a, b in ((1.0, 0.0), (64.0, 2.0))
    )
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-3)


def test_a_seed_gives_the_same_fit_and_leaves_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        DRPR(max_evals=10, random_state=seed).fit(DATA.f, DATA.z).transform(DATA.f)
        for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_fit_stops_where_nothing_more_is_gained_and_tells_every_step() -> None:
    told: list[tuple[int, float]] = []
    fit = DRPR(tol=0.9, max_evals=200).fit(DATA.f, DATA.z, step=lambda *x: told.append(x))
    assert "fell by less than" in fit.stats_.stopped and len(fit.stats_.losses) < 200
    assert told == list(enumerate(fit.stats_.losses, start=1))
    assert DRPR(max_evals=5).fit(DATA.f, DATA.z).stats_.stopped == "reached max_evals = 5"


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_fit_comes_back_from_disk(hidden: int, tmp_path: Path) -> None:
    fit = DRPR(hidden=hidden, max_evals=5).fit(DATA.f, DATA.z)
    fit.save(tmp_path / "fit")
    again = DRPR.load(tmp_path / "fit")
    assert torch.equal(again.transform(DATA.f), fit.transform(DATA.f))
    assert torch.equal(again.predict_proba(DATA.f), fit.predict_proba(DATA.f))
    assert again.stats_ == fit.stats_ and again.hidden == hidden


@pytest.mark.parametrize(
    ("f", "z", "message"),
    [
        (DATA.f[:5], DATA.z, r"f must be \[N, E\] and z \[N, C\]"),
        (DATA.f, DATA.z[:, :1], "z: one category"),
        (torch.ones(60, 4), DATA.z, "f: the features of all images are alike"),
        (DATA.f.where(torch.arange(60)[:, None] != 3, torch.nan), DATA.z, "f: image 3 is not fin"),
        (DATA.f, DATA.z.where(torch.arange(60)[:, None] != 7, torch.inf), "z: image 7 is not fin"),
    ],
)
def test_inputs_that_cannot_be_fitted_are_named(f: Any, z: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRPR(max_evals=2).fit(f, z)


@pytest.mark.parametrize("name", ["dim", "hidden", "softening", "learning_rate", "max_evals"])
def test_a_setting_that_makes_no_sense_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected .*got -1"):
        DRPR(**{name: -1})  # type: ignore[arg-type]


def test_features_of_another_width_are_an_error(fitted: DRPR) -> None:
    with pytest.raises(ValueError, match=r"f must be \[N, E = 12\]"):
        fitted.transform(DATA.f[:, :5])
