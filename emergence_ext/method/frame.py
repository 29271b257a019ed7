"""The frame that everything is drawn in: category directions, weights, two concentrations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.method.numpy_arrays import takes_numpy, tensor_of
from emergence_ext.method.vmf import ExactKappa, MonteCarloKappa, kappa_from_settings
from emergence_ext.settings import require_real
from emergence_ext.store import Saved

ROUNDING: Final = 1e-3
"""By how much a sum or a length may miss 1: what half precision leaves of it."""


@dataclass(frozen=True, eq=False)
class Frame(Saved):
    """A mixture of revised von Mises-Fisher distributions, one component per category (Eq. 1-3).

    Learned once, on the final checkpoint, by `SampleProjection`, and then held fixed, so that
    movement on the figures is learning and not rotation.

    Attributes:
        priors: `pi`, `[C]`, none negative, sums to 1.
        directions: `mu`, `[C, dim]`, unit rows.
        kappa: concentration as a function of strength.
        kappa_p: concentration of the similarity between images; None until it is solved.

    Raises:
        ValueError: shapes that do not fit, priors that do not sum to 1, directions of another
            length than 1, a kappa_p below 0.

    Examples:
        >>> import emergence_ext as ee
        >>> frame = ee.Frame(
        ...     priors=torch.tensor([0.5, 0.5]), directions=torch.eye(3)[:2], kappa=ee.ExactKappa(3)
        ... )
        >>> h = torch.tensor([[4.0, 0.0, 0.0], [0.1, 0.1, 0.0]])  # strong and clear; weak
        >>> [[round(p, 2) for p in row] for row in frame.posterior(h).tolist()]
        [[1.0, 0.0], [0.5, 0.5]]
    """

    priors: Tensor
    directions: Tensor
    kappa: ExactKappa | MonteCarloKappa
    kappa_p: float | None = None

    def __post_init__(self) -> None:
        for name in ("priors", "directions"):
            object.__setattr__(self, name, tensor_of(name, getattr(self, name)))
        of, dim = tuple(self.directions.shape[:1]), getattr(self.kappa, "dim", None)
        if self.directions.ndim != 2 or self.priors.shape != of or dim != self.dim:
            raise ValueError(
                "frame: expected priors [C], directions [C, dim] and a kappa of as many "
                f"dimensions, got {tuple(self.priors.shape)}, {tuple(self.directions.shape)} and "
                f"{self.kappa!r}"
            )
        total = float(self.priors.sum())
        if not (abs(total - 1) <= ROUNDING and float(self.priors.min()) >= 0):
            raise ValueError(
                "priors: expected shares of categories, none negative, that sum to 1, got a sum of "
                f"{total:g} and a least of {float(self.priors.min()):g}; priors / priors.sum() "
                "makes shares of numbers"
            )
        off = ~((self.directions.double().norm(dim=1) - 1).abs() <= ROUNDING)
        if bool(off.any()):
            first = int(off.nonzero()[0])
            length = float(self.directions[first].double().norm())
            raise ValueError(
                f"directions: expected rows of length 1, but row {first} has {length:g}; "
                "torch.nn.functional.normalize makes unit rows of what is not zero"
            )
        if self.kappa_p is not None:
            require_real("kappa_p", self.kappa_p, zero=True)
            object.__setattr__(self, "kappa_p", float(self.kappa_p))

    @property
    def dim(self) -> int:
        """Projected width."""
        return self.directions.shape[1]

    @property
    def solved_kappa_p(self) -> float:
        """`kappa_p` of a frame that images are compared in.

        Raises:
            ValueError: it is not solved yet.
        """
        if self.kappa_p is None:
            raise ValueError("frame: its kappa_p is not solved yet; give it one by with_kappa_p")
        return self.kappa_p

    @takes_numpy
    def log_posterior(self, g: Tensor) -> Tensor:
        """`log p(y | g)` of projected features `[..., dim]`, as `[..., C]` (Eq. 4).

        A feature of length 0 has no direction; its posterior is the prior.
        """
        if g.shape[-1:] != (self.dim,):
            raise ValueError(f"g must end in dim = {self.dim}, got {tuple(g.shape)}")
        strength, orientation = polar(g)
        cosine = orientation @ self.directions.to(orientation).t()
        kappa = self.kappa(strength)[..., None]
        return torch.log_softmax(self.priors.to(orientation).log() + kappa * cosine, dim=-1)

    @takes_numpy
    def posterior(self, g: Tensor) -> Tensor:
        """`p(y | g)`, `[..., C]`."""
        return self.log_posterior(g).exp()

    def with_kappa_p(self, kappa_p: float) -> Frame:
        """The same frame, with the concentration of the similarity between images."""
        return replace(self, kappa_p=kappa_p)

    # A concentration says on its own which of the two it is.
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays, settings = super()._state()
        return arrays, {**settings, "kappa": self.kappa.settings()}

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        kappa = kappa_from_settings(settings["kappa"])
        return super()._from_state(arrays, {**settings, "kappa": kappa})


@takes_numpy
def polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Strength `[...]` and orientation `[..., dim]` of features; a zero row stays zero.

    Neither has a gradient at a zero row: the sub-gradient taken is 0.

    Examples:
        >>> from emergence_ext import method
        >>> strength, orientation = method.polar(torch.tensor([[3.0, 4.0]]))
        >>> strength, orientation
        (tensor([5.]), tensor([[0.6000, 0.8000]]))
    """
    square = x.square().sum(-1, keepdim=True)
    zero = square == 0
    length = torch.where(zero, 1, square).sqrt()
    strength = torch.where(zero, 0, length)
    return strength.squeeze(-1), torch.where(zero, 0, x / length)


def unit_rows(x: Tensor) -> Tensor:
    """`x` with its last dimension scaled to length 1; a zero row stays zero."""
    return polar(x)[1]
