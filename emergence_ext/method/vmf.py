"""The revised von Mises-Fisher distribution: `log C_d`, `A_d`, concentration of a strength.

`vMF(o | mu, kappa) = C_d(kappa) exp(kappa cos(o, mu))` on unit vectors `o` of width `d >= 2` (Eq.
1-3). A feature is a direction and a strength `l`; its concentration is that of a clean direction of
strength `l` seen through Gaussian noise (Eq. 13, 14). Everything here is computed in float64 and
returned in the dtype of the input, works on tensors of any shape, and has its derivative in closed
form, so that gradients are as exact as values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from torch.autograd.function import once_differentiable

from emergence_ext.method import special
from emergence_ext.settings import require_count

CELLS: Final = 4096
FARTHEST: Final = 9.25
"""Of the table of a concentration: its cells, and the `log(1 + s)` where it ends."""

Elementwise = Callable[[Tensor], Tensor]


def log_normalizer(kappa: Tensor, dim: int) -> Tensor:
    """Return `log C_dim(kappa)`, the logarithm of the normaliser of the vMF distribution (Eq. 1).

    Args:
        kappa: concentrations of any shape, `0 <= kappa`; at 0 the result is the uniform density.
        dim: width of the space, at least 2.

    Returns:
        The shape and dtype of `kappa`. The derivative is `-A_dim(kappa)`.

    Raises:
        TypeError: `kappa` is not a floating-point tensor.
        ValueError: `dim` below 2, or a negative `kappa`.
    """
    dim = _checked_dim(dim)
    return _analytic(
        "log_normalizer",
        "kappa",
        kappa,
        lambda k: special.log_density(k, dim, at_mode=False),
        lambda k: -special.resultant(k, dim)[0],
    )


def log_mode_density(kappa: Tensor, dim: int) -> Tensor:
    """Return `log C_dim(kappa) + kappa`, the log density at the mean direction.

    Args:
        kappa: concentrations of any shape, `0 <= kappa`.
        dim: width of the space, at least 2.

    Returns:
        The shape and dtype of `kappa`. The derivative is `1 - A_dim(kappa)`.

    Raises:
        TypeError: `kappa` is not a floating-point tensor.
        ValueError: `dim` below 2, or a negative `kappa`.
    """
    dim = _checked_dim(dim)
    return _analytic(
        "log_mode_density",
        "kappa",
        kappa,
        lambda k: special.log_density(k, dim, at_mode=True),
        lambda k: special.resultant(k, dim)[1],
    )


def mean_resultant(kappa: Tensor, dim: int) -> Tensor:
    """Return `A_dim(kappa) = I_{dim/2}(kappa) / I_{dim/2-1}(kappa)`, the mean resultant length.

    Args:
        kappa: concentrations of any shape, `0 <= kappa`.
        dim: width of the space, at least 2.

    Returns:
        Values in `[0, 1)`, the shape and dtype of `kappa`.

    Raises:
        TypeError: `kappa` is not a floating-point tensor.
        ValueError: `dim` below 2, or a negative `kappa`.
    """
    dim = _checked_dim(dim)
    return _analytic(
        "mean_resultant",
        "kappa",
        kappa,
        lambda k: special.resultant(k, dim)[0],
        lambda k: special.resultant_slope(k, dim),
    )


def noise_resultant(s: Tensor, dim: int) -> Tensor:
    """Return `rho_dim(s) = E cos(s mu + eps, mu)`, `eps ~ N(0, I)`: what survives the noise.

    `rho_d(s) = Gamma((d+1)/2) / (sqrt 2 Gamma(d/2+1)) * s * 1F1(1/2; d/2+1; -s^2/2)` (section 1 of
    the method).

    Args:
        s: ratios of strength to noise of any shape, `0 <= s`.
        dim: width of the space, at least 2.

    Returns:
        Values in `[0, 1)`, the shape and dtype of `s`.

    Raises:
        TypeError: `s` is not a floating-point tensor.
        ValueError: `dim` below 2, or a negative `s`.
    """
    dim = _checked_dim(dim)
    return _analytic(
        "noise_resultant",
        "s",
        s,
        lambda x: special.noise_resultant(x, dim)[0],
        lambda x: special.noise_slope(x, dim),
    )


@dataclass(frozen=True)
class ExactKappa:
    """Concentration `kappa(l)` of a feature of strength `l` in closed form.

    `rho = A_dim(base) rho_dim(l / sigma)` is put into `kappa = rho (dim - rho^2) / (1 - rho^2)`
    (Eq. 14). The result is 0 at 0, strictly increasing and differentiable, and grows as `(l /
    sigma)^2` when `base` is infinite.

    Attributes:
        dim: width of the space, at least 2.
        sigma: standard deviation of the noise in each coordinate.
        base: concentration of the clean feature around its direction; infinite means that it is the
            direction.

    Raises:
        ValueError: `dim` below 2, or `sigma` or `base` not positive.

    Examples:
        >>> import emergence_ext as ee
        >>> kappa = ee.ExactKappa(dim=3)
        >>> [round(x, 2) for x in kappa(torch.tensor([0.0, 1.0, 10.0])).tolist()]
        [0.0, 1.75, 100.49]
    """

    dim: int
    sigma: float = 1.0
    base: float = math.inf

    def __post_init__(self) -> None:
        _checked_dim(self.dim)
        _checked_positive("sigma", self.sigma)
        if not (isinstance(self.base, Real) and self.base > 0):
            raise ValueError(f"base: expected a positive concentration or inf, got {self.base!r}")

    def __call__(self, strength: Tensor) -> Tensor:
        """Return the concentrations of strengths `>= 0` of any shape, in their shape and dtype.

        Raises:
            TypeError: `strength` is not a floating-point tensor.
            ValueError: a negative strength.
        """
        return _analytic("ExactKappa", "strength", strength, self._value, self._slope)

    def with_slope(self, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Return concentrations and their derivatives, without autograd, to a relative 1e-8.

        From a table, for fits that ask for both thousands of times.
        """
        s = strength.double() / self.sigma
        table = _table(self).to(s.device)
        u = s.log1p()
        if not bool((u < FARTHEST).all()):
            exact = strength.double()
            return self._value(exact).to(strength), self._slope(exact).to(strength)
        place = u * (table.shape[1] / FARTHEST)
        cell = place.long()
        c3, c2, c1, c0 = table[:, cell]
        x = place - cell
        quotient = ((c3 * x + c2) * x + c1) * x + c0
        rise = ((3 * c3 * x + 2 * c2) * x + c1) * (table.shape[1] / FARTHEST)
        kappa = quotient * (s + s.square())
        slope = (rise * s + quotient * (1 + 2 * s)) / self.sigma
        return kappa.to(strength), slope.to(strength)

    def settings(self) -> dict[str, Any]:
        """Return what `kappa_from_settings` needs, with None for an infinite `base`."""
        base = None if math.isinf(self.base) else self.base
        return {"kind": "exact", "dim": self.dim, "sigma": self.sigma, "base": base}

    def _clean(self) -> tuple[float, float]:
        """`A_dim(base)` and its complement to 1."""
        if math.isinf(self.base):
            return 1.0, 0.0
        resultant, complement = special.resultant(
            torch.tensor([self.base], dtype=torch.float64), self.dim
        )
        return float(resultant), float(complement)

    def _rho(self, strength: Tensor) -> tuple[Tensor, Tensor]:
        """`rho` and `1 - rho`, the second never by subtraction of near-equals."""
        clean, clean_complement = self._clean()
        rho, complement = special.noise_resultant(strength / self.sigma, self.dim)
        return clean * rho, clean_complement + clean * complement

    def _value(self, strength: Tensor) -> Tensor:
        return _fit_kappa(*self._rho(strength), self.dim)

    def _slope(self, strength: Tensor) -> Tensor:
        rho, complement = self._rho(strength)
        through_rho = (
            special.noise_slope(strength / self.sigma, self.dim) * self._clean()[0] / self.sigma
        )
        return _fit_kappa_slope(rho, complement, self.dim) * through_rho


@dataclass(frozen=True)
class MonteCarloKappa:
    """Concentration `kappa(l)` from random draws, as in the paper (appendix, Eq. 13, 14).

    The same draws serve every strength, so the mean cosine rises with the strength, and each draw
    `eps` counts together with `-eps`, so it is exactly 0 at strength 0. It is tabulated on a
    logarithmic grid of `l / sigma` from 1e-3 to 1e4; between, a monotone cubic in the logarithms of
    both; below, linear; above, as the square.

    Attributes:
        dim: width of the space, at least 2.
        sigma: standard deviation of the noise in each coordinate.
        samples: number of draws.
        random_state: seed of the draws.

    Raises:
        ValueError: `dim` below 2, `sigma` not positive, or no `samples`.

    Examples:
        >>> import emergence_ext as ee
        >>> drawn, exact = ee.MonteCarloKappa(dim=3), ee.ExactKappa(dim=3)
        >>> strength = torch.tensor([0.5, 2.0, 8.0])
        >>> bool(torch.allclose(drawn(strength), exact(strength), rtol=0.05))
        True
    """

    dim: int
    sigma: float = 1.0
    samples: int = 10_000
    random_state: int = 0
    # log s, [G], and the cubics of log kappa in log s, [4, G - 1].
    _knots: Tensor = field(init=False, repr=False, compare=False)
    _cubics: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _checked_dim(self.dim)
        _checked_positive("sigma", self.sigma)
        require_count("samples", self.samples, 1)
        grid = torch.logspace(-3, 4, 281, dtype=torch.float64)
        log_kappa = _fit_kappa(*self._mean_cosines(grid), self.dim).log()
        table = PchipInterpolator(grid.log().numpy(), log_kappa.numpy())
        object.__setattr__(self, "_knots", grid.log())
        object.__setattr__(self, "_cubics", torch.from_numpy(np.ascontiguousarray(table.c)))

    def __call__(self, strength: Tensor) -> Tensor:
        """Return the concentrations of strengths `>= 0` of any shape, in their shape and dtype.

        Raises:
            TypeError: `strength` is not a floating-point tensor.
            ValueError: a negative strength.
        """
        return _analytic("MonteCarloKappa", "strength", strength, self._value, self._slope)

    def with_slope(self, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Return the concentrations and their derivatives, without autograd; as `__call__`."""
        exact = strength.double()
        return self._value(exact).to(strength), self._slope(exact).to(strength)

    def settings(self) -> dict[str, Any]:
        """Return what `kappa_from_settings` needs to build this object again."""
        return {
            "kind": "monte_carlo",
            "dim": self.dim,
            "sigma": self.sigma,
            "samples": self.samples,
            "random_state": self.random_state,
        }

    def _mean_cosines(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cosine of `s mu + eps` with `mu` over the draws, and 1 minus it, both `[G]`."""
        generator = torch.Generator().manual_seed(self.random_state)
        noise = torch.randn(self.samples, self.dim, generator=generator, dtype=torch.float64)
        across = noise[:, 1:].square().sum(dim=1)
        rho, complement = [], []
        for ratio in s:
            along = ratio + torch.cat([noise[:, 0], -noise[:, 0]])
            across_both = torch.cat([across, across])
            length = (along.square() + across_both).sqrt()
            # 1 - along / length; the quotient has no cancellation where along > 0, the difference
            # where it is not.
            short = torch.where(
                along > 0, across_both / (length + along.clamp_min(0)), length - along
            )
            complement.append((short / length).mean())
            rho.append((along / length).mean())
        return torch.stack(rho), torch.stack(complement)

    def _segment(self, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the ratios, offsets in their cells, cubics `[4, ...]` of the cells."""
        knots, cubics = self._knots.to(strength.device), self._cubics.to(strength.device)
        # The clamp comes before the logarithm so that strength 0 is a number.
        log_s = (strength / self.sigma).clamp_min(1e-300).log()
        held = log_s.clamp(knots[0], knots[-1]).contiguous()
        cell = torch.bucketize(held, knots[1:-1])
        return log_s, held - knots[cell], cubics[:, cell]

    def _value(self, strength: Tensor) -> Tensor:
        _, offset, (c3, c2, c1, c0) = self._segment(strength)
        kappa = (((c3 * offset + c2) * offset + c1) * offset + c0).exp()
        s = strength / self.sigma
        below, above = self._knots[0].exp().item(), self._knots[-1].exp().item()
        return kappa * (s / below).clamp_max(1) * (s / above).clamp_min(1).square()

    def _slope(self, strength: Tensor) -> Tensor:
        log_s, offset, (c3, c2, c1, _) = self._segment(strength)
        power = (3 * c3 * offset + 2 * c2) * offset + c1  # d log kappa / d log s inside the grid
        power = torch.where(log_s < self._knots[0].item(), 1.0, power)
        power = torch.where(log_s > self._knots[-1].item(), 2.0, power)
        # Below the grid kappa is linear; held to a tiny strength the quotient is its slope at 0
        # too.
        safe = strength.clamp_min(self.sigma * 1e-200)
        return power * self._value(safe) / safe


Kappa = ExactKappa | MonteCarloKappa


def kappa_from_settings(settings: Mapping[str, Any]) -> Kappa:
    """Build the `ExactKappa` or `MonteCarloKappa` that `settings()` described.

    Raises:
        ValueError: an unknown kind.
    """
    kind = settings.get("kind")
    values = {name: value for name, value in settings.items() if name != "kind"}
    if kind == "exact":
        base = values.pop("base", None)
        return ExactKappa(**values, base=math.inf if base is None else base)
    if kind == "monte_carlo":
        return MonteCarloKappa(**values)
    raise ValueError(f"settings: expected kind 'exact' or 'monte_carlo', got {kind!r}")


@functools.lru_cache(16)
def _table(kappa: ExactKappa) -> Tensor:
    """Cubics of `kappa(s) / (s + s^2)` in cells of `u = log(1 + s)`, `[4, cells]`, highest first.

    The quotient is smooth and of the size of 1 where the concentration runs over ten decades.
    """
    u = torch.linspace(0, FARTHEST, CELLS + 1, dtype=torch.float64)
    u[0] = u[1] * 1e-4  # at 0 itself the quotient is 0 / 0
    s = torch.expm1(u)
    value, slope = kappa._value(kappa.sigma * s), kappa.sigma * kappa._slope(kappa.sigma * s)
    quotient = value / (s + s.square())
    rise = (slope - quotient * (1 + 2 * s)) / s * (FARTHEST / CELLS)
    rise[0] = 2 * rise[1] - rise[2]  # there it is a difference of near-equals
    quotient[0] -= 1e-4 * rise[0]
    q0, q1, r0, r1 = quotient[:-1], quotient[1:], rise[:-1], rise[1:]
    return torch.stack([2 * (q0 - q1) + r0 + r1, 3 * (q1 - q0) - 2 * r0 - r1, r0, q0])


class _Analytic(torch.autograd.Function):
    """An elementwise function whose derivative is known; both are evaluated in float64."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Elementwise, slope: Elementwise) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value(x.double()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return (grad.double() * ctx.slope(x.double())).to(x.dtype), None, None


def _analytic(
    function: str, argument: str, x: Tensor, value: Elementwise, slope: Elementwise
) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{function}: {argument} must be a floating-point tensor, got {got}")
    if bool((x < 0).any()):
        raise ValueError(f"{function}: {argument} must not be negative, got {float(x.min())}")
    return _Analytic.apply(x, value, slope)


def _checked_dim(dim: int) -> int:
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim: expected an integer, got {type(dim).__name__}")
    if dim < 2:
        raise ValueError(f"dim: directions need a space of width 2 or more, got {dim}")
    if dim > special.WIDEST:
        raise ValueError(f"dim: expected at most {special.WIDEST}, got {dim}")
    return dim


def _checked_positive(name: str, value: float) -> None:
    if not (isinstance(value, Real) and value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}")


def _fit_kappa(rho: Tensor, complement: Tensor, dim: int) -> Tensor:
    """Concentration of a mean resultant length (Eq. 14), from `rho` and `1 - rho`."""
    return rho * (dim - rho.square()) / (complement * (1 + rho))


def _fit_kappa_slope(rho: Tensor, complement: Tensor, dim: int) -> Tensor:
    square = rho.square()
    return (dim + (dim - 3) * square + square.square()) / (complement * (1 + rho)).square()
