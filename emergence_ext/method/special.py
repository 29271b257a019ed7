"""The special functions behind the vMF distribution, on float64: `log C_d`, `A_d`, `rho_d`.

Values and derivatives only: no argument checks and no autograd, which are `vmf.py`'s. Each function
evaluates the branch of an element only, and returns a quantity and its complement to 1 where
callers would otherwise subtract. SciPy's functions serve all but these complements and width 3,
which is elementary and stays on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from scipy.special import hyp0f1, hyp1f1, ive
from torch import Tensor

WIDEST: Final = 3000  # above, there are kappa where I_nu underflows and 0F1 overflows
_COMPLEMENT_TERMS = 10
_QUADRATURE_NODES = 56


def log_density(kappa: Tensor, dim: int, *, at_mode: bool) -> Tensor:
    """`log C_d(kappa)`, plus `kappa` when `at_mode`."""
    if dim == 3:
        # log C_3 is constant to rounding below the clamp, which keeps the logarithms finite.
        k = kappa.clamp_min(1e-8)
        at_top = k.log() - math.log(2 * math.pi) - (-torch.expm1(-2 * k)).log()
        return at_top + (kappa - k) if at_mode else at_top - k

    order = dim / 2 - 1

    def low(k: Tensor) -> tuple[Tensor]:
        # I_nu(k) = (k/2)^nu / Gamma(nu+1) 0F1(nu+1; k^2/4); the power of k cancels that of C_d.
        constant = order * math.log(2) + math.lgamma(order + 1) - dim / 2 * math.log(2 * math.pi)
        value = constant - _scipy(hyp0f1, order + 1, k.square() / 4).log()
        return (value + k if at_mode else value,)

    def high(k: Tensor) -> tuple[Tensor]:
        at_top = order * k.log() - dim / 2 * math.log(2 * math.pi) - _scipy(ive, order, k).log()
        return (at_top if at_mode else at_top - k,)

    return _piecewise(kappa, _low_end(dim), low, high)[0]


def resultant(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`A_d(kappa)` and `1 - A_d(kappa)`, whose relative accuracy stays for large `kappa`."""

    def low(k: Tensor) -> tuple[Tensor, Tensor]:
        value = k * (_resultant_quotient_3(k) if dim == 3 else _resultant_quotient(k, dim))
        return value, 1 - value

    def closed(k: Tensor) -> tuple[Tensor, Tensor]:
        complement = 1 / k - 2 / torch.expm1(2 * k)
        return 1 - complement, complement

    def middle(k: Tensor) -> tuple[Tensor, Tensor]:
        value = _scipy(ive, dim / 2, k) / _scipy(ive, dim / 2 - 1, k)
        return value, 1 - value

    def high(k: Tensor) -> tuple[Tensor, Tensor]:
        complement = _resultant_complement(k, dim)
        return 1 - complement, complement

    def above(k: Tensor) -> tuple[Tensor, ...]:
        return _piecewise(k, max(100, 4 * dim**2), middle, high)

    if dim == 3:
        return _piecewise(kappa, 1.0, low, closed)  # type: ignore[return-value]
    return _piecewise(kappa, _low_end(dim), low, above)  # type: ignore[return-value]


def resultant_slope(kappa: Tensor, dim: int) -> Tensor:
    """`A' = 1 - A^2 - (d-1) A / kappa`, with `1 - A^2` from the complement where that is small."""

    def low(k: Tensor) -> tuple[Tensor]:
        quotient = _resultant_quotient(k, dim)
        return (1 - (k * quotient).square() - (dim - 1) * quotient,)

    def high(k: Tensor) -> tuple[Tensor]:
        value, complement = resultant(k, dim)
        return (complement * (2 - complement) - (dim - 1) * value / k,)

    return _piecewise(kappa, _low_end(dim), low, high)[0]


def _low_end(dim: int) -> float:
    """Up to which `kappa` to go by `0F1(d/2; kappa^2/4)`: below I_nu may underflow.

    Above, 0F1, at most `exp(kappa^2 / 2d)`, may overflow.
    """
    return math.sqrt(1300 * dim)


def _resultant_quotient(kappa: Tensor, dim: int) -> Tensor:
    """`A_d(kappa) / kappa`, also at 0."""
    x = kappa.square() / 4
    return _scipy(hyp0f1, dim / 2 + 1, x) / (dim * _scipy(hyp0f1, dim / 2, x))


def _resultant_quotient_3(kappa: Tensor) -> Tensor:
    """`A_3(kappa) / kappa` for `kappa <= 1`, where 10 terms are exact to rounding.

    `coth k - 1 / k = (k cosh k - sinh k) / (k sinh k)`, both in powers of k, all of them positive.
    """
    square = kappa.square()
    above, below = torch.zeros_like(kappa), torch.zeros_like(kappa)
    for n in range(9, -1, -1):
        above = above * square + 2 * (n + 1) / math.factorial(2 * n + 3)
        below = below * square + 1 / math.factorial(2 * n + 1)
    return above / below


def _resultant_complement(kappa: Tensor, dim: int) -> Tensor:
    """`1 - A_d(kappa) = sum_j b_j / kappa^j` for `kappa` far above `dim`.

    By subtraction its relative error would be `kappa / d` roundings. The coefficients follow from
    `A' = 1 - A^2 - (d-1) A / kappa`.
    """
    b = [(dim - 1) / 2]
    for j in range(2, _COMPLEMENT_TERMS + 1):
        products = sum(x * y for x, y in zip(b, reversed(b), strict=True))
        b.append((products + (j - dim) * b[-1]) / 2)
    total = torch.zeros_like(kappa)
    for coefficient in reversed(b):
        total = (total + coefficient) / kappa
    return total


# rho_d(s) = c s 1F1(1/2; d/2+1; -s^2/2), and its derivative is c 1F1(3/2; d/2+1; -s^2/2), with
# c = Gamma((d+1)/2) / (sqrt 2 Gamma(d/2+1)). For the complement, with t = arcsin sqrt(u) in Euler's
# integral of 1F1 and integrating rho' from s up,
#   1 - rho(s) = (d-1) int_0^{pi/2} cos^{d-2} t sin t erfc(s sin t / sqrt 2) dt,
# whose integrand is positive, so that nothing cancels for any s. d = 3 is elementary.


def noise_resultant(s: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`rho_d(s)` and `1 - rho_d(s)`; the second keeps its relative accuracy for large `s`."""
    if dim == 3:
        return _piecewise(s, 1.0, _noise_series_3, _noise_closed_3)  # type: ignore[return-value]
    complement = _noise_complement(s, dim)
    small = s.clamp_max(1)
    rho = _noise_factor(dim) * small * _scipy(hyp1f1, 0.5, dim / 2 + 1, -small.square() / 2)
    return torch.where(s < 1, rho, 1 - complement), complement


def noise_slope(s: Tensor, dim: int) -> Tensor:
    """`d rho_d / d s`."""
    if dim == 3:
        return _piecewise(s, 1.0, _noise_slope_series_3, _noise_slope_closed_3)[0]
    # SciPy's 1F1 is not finite everywhere further out, where the slope falls as s^-3.
    held = s.clamp_max(1e5)
    slope = _noise_factor(dim) * _scipy(hyp1f1, 1.5, dim / 2 + 1, -held.square() / 2)
    return slope * (1e5 / s.clamp_min(1e5)) ** 3


def _noise_factor(dim: int) -> float:
    return math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2 + 1)) / math.sqrt(2)


def _noise_complement(s: Tensor, dim: int) -> Tensor:
    """`1 - rho_d(s)` by Gauss-Legendre quadrature on the range of t that counts."""
    # Beyond 9.5 standard deviations of exp(-x sin^2 t) cos^d t lies less than float64's rounding.
    half = (9.5 / (s.square() / 2 + dim / 2).sqrt()).clamp_max(math.pi / 2) / 2
    total = torch.zeros_like(s)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_QUADRATURE_NODES), strict=True):
        t = half * (1 + float(node))
        sine = t.sin()
        total += float(weight) * half * t.cos() ** (dim - 2) * sine * torch.erfc(s * sine / 2**0.5)
    return (dim - 1) * total


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


def _scipy(function: Callable[..., Any], *arguments: Any) -> Tensor:
    """A function of SciPy whose last argument is a tensor, on that tensor's device."""
    *parameters, x = arguments
    return torch.as_tensor(function(*parameters, x.cpu().numpy()), device=x.device)
