"""Barron's general and adaptive robust loss, with its normaliser (CVPR 2019).

`rho(x, b, r) = (|b - 2| / b) (((x / r)^2 / |b - 2| + 1)^(b / 2) - 1)`, and its limits: half a
square at b = 2, Cauchy's loss at 0, Welsch's at minus infinity. Where shape b and scale r are
learned, `log r + log Z(b)` belongs to it, without which the scale grows for ever.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.lookup import parsed_device
from emergence_ext.method import takes_numpy
from emergence_ext.settings import require_count, require_real

# Of log_normaliser: x = sinh(u) makes the heaviest tail, 1 / x^2 at b = 0, fall as exp(-u), and the
# trapezoidal rule converge geometrically in 1 / _NODE.
_NODE: Final = 0.02
_END: Final = 40.0

_LEAST_SCALE: Final = 1e-3


@takes_numpy
def robust(x: Tensor, shape: Tensor | float, scale: Tensor | float = 1.0) -> Tensor:
    """Return Barron's general robust loss, `rho(x, b, r)` (Eq. 1, 2, 8 there).

    Args:
        x: residuals, of any shape.
        shape: b, any number or minus infinity, of a shape that broadcasts with x.
        scale: r, above 0, likewise.

    Raises:
        ValueError: a scale that is not above 0, or a shape that is NaN or plus infinity.

    Examples:
        >>> from emergence_ext import mindseye
        >>> x = torch.tensor([0.5, 10.0])
        >>> mindseye.robust(x, shape=2.0), mindseye.robust(x, shape=-2.0)
        (tensor([ 0.1250, 50.0000]), tensor([0.1176, 1.9231]))
    """
    b = torch.as_tensor(shape, dtype=x.dtype, device=x.device)
    r = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    if not bool((r > 0).all()):
        raise ValueError("scale: expected above 0")
    if bool(b.isnan().any()) or bool((b == torch.inf).any()):
        raise ValueError("shape: expected a number or minus infinity")
    squares = (x / r).square()
    welsch = -torch.expm1(-squares / 2)
    endless = b == -torch.inf
    b = torch.where(endless, 1.0, b)
    # With beta = |b - 2| and t = log(1 + squares / beta):
    #   rho = beta / b (exp(b t / 2) - 1) = beta / 2 * t * phi(b t / 2), phi(y) = (exp(y) - 1) / y,
    # which has no special case at b = 0. At b = 2 it is 0 / 0, though the limit is half a square.
    square_law = b == 2
    beta = torch.where(square_law, 1.0, (b - 2).abs())
    t = torch.log1p(squares / beta)
    general = beta / 2 * t * _phi(b * t / 2)
    return torch.where(endless, welsch, torch.where(square_law, squares / 2, general))


@takes_numpy
def log_normaliser(shape: Tensor) -> Tensor:
    """Return `log Z(b)`, `Z(b) = int exp(-rho(x, b, 1)) dx`, for b in [0, 2] (Eq. 17 there).

    By the trapezoidal rule in `x = sinh(u)`, within 2e-12 in float64, and differentiable.

    Args:
        shape: b, of any shape.

    Raises:
        ValueError: a shape outside of [0, 2]; below 0 the integral is infinite.

    Examples:
        >>> from emergence_ext import mindseye
        >>> import math
        >>> normal = mindseye.log_normaliser(torch.tensor(2.0, dtype=torch.float64)).exp()
        >>> round(normal.item() ** 2 / math.pi, 6)
        2.0
    """
    if not bool(((shape >= 0) & (shape <= 2)).all()):
        raise ValueError("shape: expected in [0, 2], where the loss has a normaliser")
    u = torch.arange(0, _END + _NODE / 2, _NODE, dtype=torch.float64, device=shape.device)
    log_weights = math.log(2 * _NODE) + u.cosh().log()
    log_weights[0] -= math.log(2)  # the one node that is its own mirror image
    b = shape.double()[..., None]
    total = (log_weights - robust(u.sinh().expand(*b.shape[:-1], -1), b)).logsumexp(-1)
    return total.to(shape.dtype)


class AdaptiveRobust(nn.Module):
    """A robust distance whose shape and scale are learned with what it measures (Sec. 2.2 there).

    `rho(x, b, r) + log r + log Z(b)`, the negative logarithm of a density, with `r = softplus` of
    one parameter and `b = 2 sigmoid` of another, for each of `n` residuals its own.

    Args:
        count: number of residuals `n`.
        scale: r at the start.
        device: of the parameters.

    Examples:
        >>> from emergence_ext import mindseye
        >>> adaptive = mindseye.AdaptiveRobust(3)
        >>> adaptive(torch.tensor([0.0, 1.0, 2.0])).diff() > 0
        tensor([True, True])
    """

    def __init__(
        self, count: int, scale: float = 1.0, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        require_count("count", count, 1)
        require_real("scale", scale)
        device = None if device is None else parsed_device(device)
        if not scale > _LEAST_SCALE:
            raise ValueError(f"scale: expected above {_LEAST_SCALE:g}, got {scale}")
        start = math.log(math.expm1(scale - _LEAST_SCALE))
        self.raw_scale = nn.Parameter(torch.full((count,), start, device=device))
        self.raw_shape = nn.Parameter(torch.zeros(count, device=device))

    @property
    def scale(self) -> Tensor:
        """The scales r, `[n]`, above 0."""
        return functional.softplus(self.raw_scale) + _LEAST_SCALE

    @property
    def shape(self) -> Tensor:
        """The shapes b, `[n]`, in (0, 2); 1 at the start."""
        return 2 * self.raw_shape.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return the adaptive distance of residuals `[n]`, `[n]`."""
        r, b = self.scale, self.shape
        return robust(x, b, r) + r.log() + log_normaliser(b)


def _phi(y: Tensor) -> Tensor:
    """`(exp(y) - 1) / y`, 1 at 0; by its series where the quotient loses digits."""
    near = y.abs() < 0.1
    small = torch.where(near, y, 0.0)
    series = torch.ones_like(y)
    for n in range(10, 1, -1):
        series = 1 + small * series / n
    large = torch.where(near, 1.0, y)
    return torch.where(near, series, torch.expm1(large) / large)
