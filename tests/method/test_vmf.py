"""The vMF distribution against 60-digit values, finite differences and its own draws."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence_ext.method.special import WIDEST
from emergence_ext.method.vmf import (
    ExactKappa,
    MonteCarloKappa,
    kappa_from_settings,
    log_mode_density,
    log_normalizer,
    mean_resultant,
    noise_resultant,
)

TRUTH = json.loads((Path(__file__).parents[1] / "truth" / "vmf.json").read_text())
DIMS = sorted({dim for dim, _, _ in TRUTH["log_normalizer"]})
FUNCTIONS = {
    "log_normalizer": log_normalizer,
    "mean_resultant": mean_resultant,
    "noise_resultant": noise_resultant,
    "kappa_of_strength": lambda strength, dim: ExactKappa(dim)(strength),
}


def truth(name, dim, dtype):
    rows = [(x, value) for d, x, value in TRUTH[name] if d == dim]
    x, value = torch.tensor(rows, dtype=torch.float64).T
    return x.to(dtype), value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_agree_with_60_digit_arithmetic(name, dim, dtype):
    x, expected = truth(name, dim, dtype)
    found = FUNCTIONS[name](x, dim)
    assert found.dtype == dtype
    scale = expected.abs().clamp_min(1) if name == "log_normalizer" else expected.abs()
    error = (found.double() - expected).abs() / scale.clamp_min(1e-300)
    double = 1e-10 if dim <= 8 else 1e-7
    assert error.max() <= (double if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("dim", DIMS)
def test_closed_form_gradients_agree_with_finite_differences(dim):
    # Central differences in float64 are themselves good to about 1e-8 at these steps.
    points = torch.tensor(
        [0.01, 0.3, 0.999, 1.001, 2.5, 9.0, 39.9, 40.1, 75.0, 300.0], dtype=torch.float64
    )
    step = 1e-4 * points
    functions = {**FUNCTIONS, "log_mode_density": log_mode_density}
    functions["finite_base"] = lambda x, dim: ExactKappa(dim, sigma=0.7, base=50.0)(x)
    functions["monte_carlo"] = lambda x, dim: MonteCarloKappa(dim, samples=200)(x)
    for name, function in functions.items():
        x = points.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x, dim).sum(), x)
        up, down = function(points + step, dim), function(points - step, dim)
        expected = (up - down) / (2 * step)
        noise = 1e-13 * up.abs() / step  # rounding of the difference itself
        error = (slope - expected).abs()
        # A cubic's second derivative jumps at the knots of the Monte Carlo table.
        relative = 1e-3 if name == "monte_carlo" else 1e-6
        assert (error <= relative * slope.abs() + noise).all(), name


@pytest.mark.parametrize("dim", [2, 3, 4, 17, 512])
def test_log_normalizer_is_finite_and_differentiable_over_its_whole_range(dim):
    kappa = torch.cat([torch.zeros(1), torch.logspace(-12, 9, 300)]).double().requires_grad_()
    for function in (log_normalizer, log_mode_density, mean_resultant):
        value = function(kappa, dim)
        (slope,) = torch.autograd.grad(value.sum(), kappa)
        assert value.isfinite().all() and slope.isfinite().all()
    (slope,) = torch.autograd.grad(log_normalizer(kappa, dim).sum(), kappa)
    torch.testing.assert_close(slope, -mean_resultant(kappa.detach(), dim), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_the_density_at_zero_concentration_is_uniform(dim):
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    value = log_normalizer(torch.zeros((), dtype=torch.float64), dim)
    assert math.isclose(value.item(), -math.log(area), rel_tol=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_mode_density_is_log_normalizer_plus_kappa_without_its_cancellation(dim):
    small = torch.tensor([0.0, 0.5, 39.0, 41.0], dtype=torch.float64)
    difference = log_mode_density(small, dim) - small
    torch.testing.assert_close(difference, log_normalizer(small, dim), rtol=1e-13, atol=1e-13)
    # log C + kappa tends to ((d-1)/2) log(kappa / 2 pi); float32 of log C alone is off by 64.
    large = torch.tensor(1e9, dtype=torch.float32)
    expected = (dim - 1) / 2 * math.log(1e9 / (2 * math.pi))
    assert math.isclose(log_mode_density(large, dim).item(), expected, rel_tol=1e-6)


KAPPAS = [ExactKappa, MonteCarloKappa, lambda dim: ExactKappa(dim, base=30.0)]


@pytest.mark.parametrize("kappa_of", KAPPAS, ids=["exact", "monte_carlo", "finite_base"])
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_kappa_starts_at_zero_and_strictly_increases(kappa_of, dim):
    strength = torch.cat([torch.zeros(1), torch.logspace(-8, 2, 400)]).double().requires_grad_()
    value = kappa_of(dim)(strength)
    (slope,) = torch.autograd.grad(value.sum(), strength)
    assert value[0] == 0
    assert (value.diff() > 0).all()
    assert (slope > 0).all() and slope.isfinite().all()


@pytest.mark.parametrize("kappa", [ExactKappa(3), ExactKappa(10), MonteCarloKappa(3)], ids=repr)
def test_kappa_grows_as_the_square_of_a_large_strength(kappa):
    # 1 - rho^2 is about 1e-8 at 1e4 and would be lost to subtraction in float32.
    strength = torch.tensor([1e3, 1e4, 1e6], dtype=torch.float32)
    exact = isinstance(kappa, ExactKappa)
    quotient = kappa(strength) / strength.square()
    # Four standard errors of the mean of a chi-squared variable of `dim - 1` degrees of freedom.
    tolerance = 1e-4 if exact else 4 * math.sqrt(2 / (kappa.dim - 1) / kappa.samples)
    torch.testing.assert_close(quotient, torch.ones(3), rtol=tolerance, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_monte_carlo_is_within_four_standard_errors_of_exact(dim):
    strength = torch.logspace(-1, 2, 25, dtype=torch.float64)
    draws = torch.randn(20_000, dim, generator=torch.Generator().manual_seed(1)).double()
    exact = ExactKappa(dim)(strength)
    for seed in range(3):
        found = MonteCarloKappa(dim, random_state=seed)(strength)
        for s, value, reference in zip(strength, found, exact, strict=True):
            noisy = draws.clone()
            noisy[:, 0] += s
            cosine = noisy[:, 0] / noisy.norm(dim=1)
            rho = noise_resultant(s.requires_grad_(), dim)
            (rho_slope,) = torch.autograd.grad(rho, s)
            (kappa_slope,) = torch.autograd.grad(ExactKappa(dim)(s), s)
            error = cosine.std() / math.sqrt(10_000) * kappa_slope / rho_slope
            assert (value - reference).abs() <= 4 * error


def test_monte_carlo_is_seeded_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = (MonteCarloKappa(3, samples=100, random_state=s) for s in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    strength = torch.linspace(0, 10, 50)
    assert torch.equal(first(strength), again(strength))
    assert not torch.equal(first(strength), other(strength))


def test_noise_only_counts_relative_to_the_strength():
    strength = torch.linspace(0, 20, 30, dtype=torch.float64)
    for kappa_of in (ExactKappa, MonteCarloKappa):
        scaled, unit = kappa_of(4, sigma=2.5)(2.5 * strength), kappa_of(4)(strength)
        torch.testing.assert_close(scaled, unit, rtol=1e-12, atol=0)


def test_a_noisy_clean_feature_bounds_the_concentration():
    strength = torch.tensor([0.5, 5.0, 1e5], dtype=torch.float64)
    noisy, clean = ExactKappa(3, base=25.0)(strength), ExactKappa(3)(strength)
    assert (noisy < clean).all()
    resultant = mean_resultant(torch.tensor(25.0, dtype=torch.float64), 3)
    bound = resultant * (3 - resultant**2) / (1 - resultant**2)
    torch.testing.assert_close(noisy[-1], bound, rtol=1e-8, atol=0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(2, 9), categories=st.integers(2, 8))
def test_confidence_never_falls_as_a_feature_grows_along_its_direction(seed, dim, categories):
    """Sec. 3.1 and Fig. 17: for uniform priors length is confidence."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(categories + 1, dim, generator=generator, dtype=torch.float64)
    unit = draw / draw.norm(dim=1, keepdim=True)
    cosines = unit[1:] @ unit[0]
    strengths = torch.logspace(-3, 3, 80, dtype=torch.float64)
    for kappa in (ExactKappa(dim), MonteCarloKappa(dim, samples=200)):
        posterior = torch.softmax(kappa(strengths)[:, None] * cosines, dim=1)
        confidence = posterior.amax(dim=1)
        # A saturated softmax is 1 up to rounding.
        assert (confidence.diff() >= -1e-15).all()


@pytest.mark.parametrize(
    "kappa",
    [ExactKappa(3), ExactKappa(2, sigma=0.5, base=7.0), MonteCarloKappa(4, samples=50)],
    ids=repr,
)
def test_settings_survive_json_and_build_the_same_kappa(kappa):
    again = kappa_from_settings(json.loads(json.dumps(kappa.settings(), allow_nan=False)))
    assert again == kappa and repr(again) == repr(kappa) and hash(again) == hash(kappa)
    strength = torch.linspace(0, 9, 20)
    assert torch.equal(again(strength), kappa(strength))


def test_defaults_are_those_that_are_documented():
    assert ExactKappa(3) == ExactKappa(3, sigma=1.0, base=math.inf)
    usual = MonteCarloKappa(3, sigma=1.0, samples=10_000, random_state=0)
    assert MonteCarloKappa(3) == usual
    assert kappa_from_settings({"kind": "exact", "dim": 3}) == ExactKappa(3)
    assert log_normalizer(torch.ones(1), WIDEST).isfinite().all()
    for kappa in (ExactKappa(3), usual):
        with pytest.raises(dataclasses.FrozenInstanceError):
            kappa.sigma = 2.0


def test_monte_carlo_is_linear_below_its_table_and_a_square_above():
    kappa = MonteCarloKappa(4, sigma=2.0, samples=50)
    low, high = 2e-3, 2e4  # the ends of the table, 1e-3 and 1e4, times sigma
    strength = torch.tensor(
        [0.0, low * 1e-9, low / 4, low, high, 3 * high], dtype=torch.float64, requires_grad=True
    )
    value = kappa(strength)
    (slope,) = torch.autograd.grad(value.sum(), strength)
    value, x = value.detach(), strength.detach()
    first, last = value[3] / low, value[4] / high**2
    torch.testing.assert_close(value[:4], first * x[:4], rtol=1e-9, atol=0)
    torch.testing.assert_close(slope[:3], first.expand(3), rtol=1e-9, atol=0)
    torch.testing.assert_close(value[4:], last * x[4:].square(), rtol=1e-9, atol=0)
    torch.testing.assert_close(slope[5], 2 * last * x[5], rtol=1e-9, atol=0)
    inside = torch.tensor([1.1 * low, 0.9 * high], dtype=torch.float64)
    straight = torch.stack([first * inside[0], last * inside[1].square()])
    assert (kappa(inside) != straight).all()  # the table begins and ends where it says


def test_monte_carlo_is_the_mean_cosine_of_its_draws_and_their_opposites():
    kappa = MonteCarloKappa(3, samples=7, random_state=4)
    noise = torch.randn(7, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for ratio in (1e-3, 10.0, 1e4):  # knots of the table, whose values are those of the draws
        moved = torch.cat([noise, -noise])
        moved[:, 0] += ratio
        away = moved[:, 1:].square().sum(1)
        length = moved.norm(dim=1)
        rho = (moved[:, 0] / length).mean()
        short = torch.where(
            moved[:, 0] > 0, away / (length * (length + moved[:, 0])), 1 - moved[:, 0] / length
        )
        expected = rho * (3 - rho**2) / (short.mean() * (1 + rho))
        found = kappa(torch.tensor(ratio, dtype=torch.float64))
        assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_any_shape_and_layout_is_accepted():
    strength = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)).transpose(0, 2)
    for function in (ExactKappa(3), ExactKappa(4), MonteCarloKappa(3, samples=50)):
        expected = torch.stack([function(row) for row in strength.unbind(0)])
        torch.testing.assert_close(function(strength), expected, rtol=1e-6, atol=0)
        assert function(torch.zeros(0, 3)).shape == (0, 3)
        assert function(torch.tensor(2.0)).shape == ()


def test_half_precision_input_gives_half_precision_output():
    strength = torch.tensor([0.5, 3.0], dtype=torch.bfloat16)
    assert ExactKappa(3)(strength).dtype == torch.bfloat16
    expected = ExactKappa(3)(strength.double()).bfloat16()
    assert torch.equal(ExactKappa(3)(strength), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: log_normalizer(torch.ones(2), 1), ValueError, "dim.*2 or more, got 1"),
        (lambda: log_normalizer(torch.ones(2), 3.0), TypeError, "dim.*integer, got float"),
        (lambda: log_normalizer(torch.ones(2), True), TypeError, "dim.*integer, got bool"),
        (lambda: log_normalizer(torch.ones(2), WIDEST + 1), ValueError, f"at most {WIDEST}"),
        (lambda: log_mode_density([1.0], 3), TypeError, "log_mode_density: kappa must.*got list"),
        (lambda: log_normalizer(1, 3), TypeError, "log_normalizer: kappa must be"),
        (lambda: mean_resultant(torch.tensor([-1.0]), 3), ValueError, "mean_resultant: kappa must"),
        (lambda: noise_resultant(-torch.ones(1), 3), ValueError, "noise_resultant: s must not"),
        (lambda: ExactKappa(3)(-torch.ones(1)), ValueError, "ExactKappa: strength must not"),
        (
            lambda: MonteCarloKappa(3, samples=1)(-torch.ones(1)),
            ValueError,
            "MonteCarloKappa: strength must not",
        ),
        (lambda: ExactKappa(1), ValueError, "dim.*2 or more"),
        (lambda: MonteCarloKappa(1), ValueError, "dim.*2 or more"),
        (lambda: MonteCarloKappa(3, sigma=-1.0), ValueError, "^sigma: .*positive"),
        (lambda: ExactKappa(3, sigma=math.inf), ValueError, "^sigma: .*finite"),
        (lambda: ExactKappa(3, base=0.0), ValueError, "^base: .*positive"),
        (lambda: log_normalizer(torch.tensor([1.0, -2.0]), 3), ValueError, "negative, got -2"),
        (lambda: mean_resultant(torch.ones(2, dtype=torch.int64), 3), TypeError, "floating-point"),
        (lambda: noise_resultant(1.5, 3), TypeError, "s must be a floating-point tensor"),
        (lambda: ExactKappa(3, sigma=0.0), ValueError, "^sigma: .*positive"),
        (lambda: ExactKappa(3, base=-1.0), ValueError, "^base: .*positive"),
        (lambda: MonteCarloKappa(3, samples=0), ValueError, "samples.*at least 1"),
        (lambda: kappa_from_settings({"kind": "guess"}), ValueError, "kind.*'guess'"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "kappa", [ExactKappa(3), ExactKappa(2, sigma=0.5), ExactKappa(7, base=10.0)], ids=str
)
def test_a_concentration_with_its_slope_is_that_of_the_function(kappa: ExactKappa) -> None:
    small = torch.logspace(-7, 3.9, 500, dtype=torch.float64)
    for strengths in (torch.cat([torch.zeros(1).double(), small]), torch.tensor([0.5, 3e5])):
        x = strengths.clone().requires_grad_()
        (slope,) = torch.autograd.grad(kappa(x).sum(), x)
        value, found = kappa.with_slope(strengths)
        torch.testing.assert_close(value, kappa(strengths), rtol=1e-8, atol=0)
        torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-7)
