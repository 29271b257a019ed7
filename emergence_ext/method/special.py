"""The special functions behind the vMF distribution, on float64: `log C_d`, `A_d`, `rho_d`.

Values and derivatives only: no argument checks and no autograd, which are `vmf.py`'s. Each function
evaluates the branch of an element only, and returns a quantity and its complement to 1 where
callers would otherwise subtract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Below: power series and continued fraction (positive terms). Above: the expansion for large
# order or argument, which at this threshold is already exact to rounding for every d >= 2.
_LARGE_KAPPA = 40.0
_SERIES_TERMS = 80
_FRACTION_DEPTH = 60
_EXPANSION_TERMS = 13
_QUADRATURE_NODES = 56


def log_density(kappa: Tensor, dim: int, *, at_mode: bool) -> Tensor:
    """`log C_d(kappa)`, plus `kappa` when `at_mode`."""
    if dim == 3:
        # log C_3 is constant to rounding below the clamp, which keeps the logarithms finite.
        k = kappa.clamp_min(1e-8)
        at_top = k.log() - math.log(2 * math.pi) - (-torch.expm1(-2 * k)).log()
        return at_top + (kappa - k) if at_mode else at_top - k

    order = dim / 2 - 1

    def series(k: Tensor) -> tuple[Tensor]:
        # I_nu(k) = (k/2)^nu / Gamma(nu+1) * sum_m (k^2/4)^m / (m! (nu+1)_m); the power of k cancels
        # that of C_d.
        total = torch.ones_like(k)
        quarter = k.square() / 4
        for m in range(_SERIES_TERMS, 0, -1):
            total = 1 + quarter * total / (m * (order + m))
        constant = order * math.log(2) + math.lgamma(order + 1) - dim / 2 * math.log(2 * math.pi)
        value = constant - total.log()
        return (value + k if at_mode else value,)

    def expansion(k: Tensor) -> tuple[Tensor]:
        w = torch.hypot(torch.full_like(k, order), k)
        value = order * (order + w).log() + 0.5 * w.log() - (dim - 1) / 2 * math.log(2 * math.pi)
        value = value - _debye_sum(_debye_u(), w, order).log()
        # w - k = order^2 / (w + k), which does not cancel.
        return (value - order**2 / (w + k) if at_mode else value - w,)

    return _piecewise(kappa, _LARGE_KAPPA, series, expansion)[0]


def resultant(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`A_d(kappa)` and `1 - A_d(kappa)`, whose relative accuracy stays for large `kappa`."""

    def fraction(k: Tensor) -> tuple[Tensor, Tensor]:
        value = k * _resultant_fraction(k, dim)
        return value, 1 - value

    def closed(k: Tensor) -> tuple[Tensor, Tensor]:
        complement = 1 / k - 2 / torch.expm1(2 * k)
        return 1 - complement, complement

    def expansion(k: Tensor) -> tuple[Tensor, Tensor]:
        order = dim / 2 - 1
        w = torch.hypot(torch.full_like(k, order), k)
        # A = I'/I - order/k with I'/I = (w/k) (1 - excess/w), and w - order = k^2 / (w + order).
        excess = w * _debye_sum(_debye_w(), w, order) / _debye_sum(_debye_u(), w, order)
        return k / (w + order) - excess / k, (order * (1 - order / (w + k)) + excess) / k

    if dim == 3:
        return _piecewise(kappa, 1.0, fraction, closed)  # type: ignore[return-value]
    return _piecewise(kappa, _LARGE_KAPPA, fraction, expansion)  # type: ignore[return-value]


def _resultant_fraction(kappa: Tensor, dim: int) -> Tensor:
    """`A_d(kappa) / kappa` for small `kappa` by Gauss's continued fraction, from the inside out."""
    square = kappa.square()
    value = torch.full_like(kappa, 1 / (dim + 2 * _FRACTION_DEPTH))
    for step in range(_FRACTION_DEPTH - 1, -1, -1):
        value = 1 / (dim + 2 * step + square * value)
    return value


def resultant_slope(kappa: Tensor, dim: int) -> Tensor:
    """`A' = 1 - A^2 - (d-1) A / kappa`, with `1 - A^2` from the complement where that is small."""

    def low(k: Tensor) -> tuple[Tensor]:
        quotient = _resultant_fraction(k, dim)
        return (1 - (k * quotient).square() - (dim - 1) * quotient,)

    def high(k: Tensor) -> tuple[Tensor]:
        value, complement = resultant(k, dim)
        return (complement * (2 - complement) - (dim - 1) * value / k,)

    return _piecewise(kappa, _LARGE_KAPPA, low, high)[0]


@lru_cache(maxsize=1)
def _debye_u() -> tuple[tuple[float, ...], ...]:
    """Coefficients `c[k][j]` of Olver's `U_k(p) = p^k sum_j c[k][j] p^(2j)` (DLMF 10.41.9)."""
    return tuple(tuple(map(float, row)) for row in _debye_exact())


@lru_cache(maxsize=1)
def _debye_w() -> tuple[tuple[float, ...], ...]:
    """Coefficients of `U_k - V_k = p(1-p^2) U_{k-1}/2 + p^2(1-p^2) U'_{k-1}` (DLMF 10.41.10)."""
    rows: list[tuple[float, ...]] = [(0.0,)]
    for k, u in enumerate(_debye_exact()[:-1]):
        # Of p^k p^(2j): both terms raise the power by one and by three.
        raised = [c * (Fraction(1, 2) + k + 2 * j) for j, c in enumerate(u)]
        row = [Fraction(0)] * (len(u) + 1)
        for j, c in enumerate(raised):
            row[j] += c
            row[j + 1] -= c
        rows.append(tuple(map(float, row)))
    return tuple(rows)


@lru_cache(maxsize=1)
def _debye_exact() -> list[list[Fraction]]:
    # U_{k+1} = p^2 (1-p^2) U_k' / 2 + (1/8) integral_0^p (1 - 5 t^2) U_k dt
    rows = [[Fraction(1)]]
    for k in range(_EXPANSION_TERMS - 1):
        row = [Fraction(0)] * (k + 2)
        for j, c in enumerate(rows[-1]):
            power = k + 2 * j
            row[j] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            row[j + 1] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        rows.append(row)
    return rows


def _debye_sum(coefficients: tuple[tuple[float, ...], ...], w: Tensor, order: float) -> Tensor:
    """`sum_k X_k(p) / order^k` with `p = order / w`, order 0 allowed."""
    inverse, p_square = 1 / w, (order / w).square()
    total = torch.zeros_like(w)
    for row in reversed(coefficients):
        polynomial = torch.zeros_like(w)
        for c in reversed(row):
            polynomial = polynomial * p_square + c
        total = total * inverse + polynomial
    return total


# rho_d. With x = s^2/2, Euler's integral of 1F1 and t = arcsin sqrt(u), t in [0, pi/2]:
#   rho(s)     = sqrt(2/pi) s     int cos^d t exp(-x sin^2 t) dt
#   rho'(s)    = sqrt(2/pi) (d-1) int cos^{d-2} t sin^2 t exp(-x sin^2 t) dt    (by parts)
#   1 - rho(s) = (d-1) int cos^{d-2} t sin t erfc(s sin t / sqrt 2) dt          (rho' from s up)
# Every integrand is positive, so nothing cancels for any s. d = 3 is elementary.


def noise_resultant(s: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`rho_d(s)` and `1 - rho_d(s)`; the second keeps its relative accuracy for large `s`."""
    if dim == 3:
        return _piecewise(s, 1.0, _noise_series_3, _noise_closed_3)  # type: ignore[return-value]

    rho, complement = torch.zeros_like(s), torch.zeros_like(s)
    for weight, sine, cosine in _quadrature(s, dim):
        scaled = s * sine * math.sqrt(0.5)
        rho += weight * cosine**dim * (-scaled.square()).exp()
        complement += weight * cosine ** (dim - 2) * sine * torch.erfc(scaled)
    return math.sqrt(2 / math.pi) * s * rho, (dim - 1) * complement


def noise_slope(s: Tensor, dim: int) -> Tensor:
    """`d rho_d / d s`."""
    if dim == 3:
        return _piecewise(s, 1.0, _noise_slope_series_3, _noise_slope_closed_3)[0]
    total = torch.zeros_like(s)
    for weight, sine, cosine in _quadrature(s, dim):
        decay = (-(s * sine).square() / 2).exp()
        total += weight * cosine ** (dim - 2) * sine.square() * decay
    return math.sqrt(2 / math.pi) * (dim - 1) * total


def _quadrature(s: Tensor, dim: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gauss-Legendre weights, sines and cosines node by node, on the range of `t` that counts."""
    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
    # Beyond 9.5 standard deviations of exp(-x sin^2 t) cos^d t lies less than float64's rounding.
    end = (9.5 / (s.square() / 2 + dim / 2).sqrt()).clamp_max(math.pi / 2)
    half = end / 2
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        angle = half * (1 + node)
        yield half * weight, angle.sin(), angle.cos()


def _noise_series_3(s: Tensor) -> tuple[Tensor, Tensor]:
    rho = s * _alternating(s, lambda k: 1 / ((2 * k + 1) * (2 * k + 3)))
    rho = 2 * math.sqrt(2 / math.pi) * rho
    return rho, 1 - rho


def _noise_closed_3(s: Tensor) -> tuple[Tensor, Tensor]:
    scaled = s * math.sqrt(0.5)
    bell = math.sqrt(2 / math.pi) * (-scaled.square()).exp()
    complement = torch.erf(scaled) / s.square() + torch.erfc(scaled) - bell / s
    return 1 - complement, complement


def _noise_slope_series_3(s: Tensor) -> tuple[Tensor]:
    return (2 * math.sqrt(2 / math.pi) * _alternating(s, lambda k: 1 / (2 * k + 3)),)


def _noise_slope_closed_3(s: Tensor) -> tuple[Tensor]:
    scaled = s * math.sqrt(0.5)
    bell = math.sqrt(2 / math.pi) * (-scaled.square()).exp()
    return (2 * (torch.erf(scaled) - s * bell) / s**3,)


def _alternating(s: Tensor, coefficient: Callable[[int], float]) -> Tensor:
    """`sum_k coefficient(k) (-s^2/2)^k / k!` for `s <= 1`, where 18 terms are exact to rounding."""
    x = -s.square() / 2
    total = torch.zeros_like(s)
    for k in range(17, -1, -1):
        total = total * x + coefficient(k) / math.factorial(k)
    return total


def _piecewise(
    x: Tensor, limit: float, low: Callable[..., Any], high: Callable[..., Any]
) -> tuple[Tensor, ...]:
    """Evaluate `low` where `x <= limit` and `high` elsewhere, each only on its own elements."""
    flat = x.reshape(-1)
    is_low = flat <= limit
    where_low, where_high = is_low.nonzero().squeeze(1), (~is_low).nonzero().squeeze(1)
    parts_low, parts_high = low(flat[where_low]), high(flat[where_high])
    results = []
    for part_low, part_high in zip(parts_low, parts_high, strict=True):
        out = torch.empty_like(flat).index_copy_(0, where_low, part_low)
        results.append(out.index_copy_(0, where_high, part_high).reshape(x.shape))
    return tuple(results)
