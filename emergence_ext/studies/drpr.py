"""DRPR: points among which a Gaussian mixture reads P(y|x), what Table 1 compares with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Self

import torch
from torch import Tensor

from emergence_ext.method import FitStats, require_finite, takes_numpy
from emergence_ext.settings import Settings, require_count, require_real
from emergence_ext.store import Estimator

LOOK: Final = 50  # steps between two looks at the tolerance


class DRPR(Estimator):
    """Map sample features to points among which a Gaussian mixture reproduces P(y|x).

    After Law et al., Dimensionality Reduction for Representing the Knowledge of Probabilistic
    Models (ICLR 2019). The points are x = a(f), a linear map or a network with one hidden layer,
    the centres `mu_c` the P-weighted means of the points, and `softmax_c(log pi_c - |x - mu_c|^2)`
    is fitted to `P(y|x) = softmax(z / softening)` by cross-entropy, which is told as the
    divergence: its lowest value is 0. Unlike in the paper's method, where a point lies tells the
    category, and length has no meaning of its own.

    Args:
        dim: width of the points.
        softening: temperature of the network's softmax; the authors take 2 to 10.
        hidden: units of the hidden layer, with ReLU; 0 for a linear map.
        learning_rate: of Adam, on all images at once.
        max_evals: steps at most.
        tol: stop when 50 steps lower the loss by less than this share of it.
        random_state: seed of the first weights.

    Attributes:
        mean_, size_: mean `[E]` and standard deviation of the fitted features; the map sees
            `(f - mean_) / (size_ sqrt E)`.
        weights_: of the map; `[dim, E]`, or `[hidden, E]`, `[hidden]`, `[dim, hidden]`.
        priors_: `pi`, `[C]`.
        centres_: `mu`, `[C, dim]`.
        stats_: `FitStats`.
    """

    mean_: Tensor
    size_: float
    weights_: list[Tensor]
    priors_: Tensor
    centres_: Tensor
    stats_: FitStats

    def __init__(
        self,
        dim: int = Settings.dim,
        softening: float = 2.0,
        hidden: int = 64,
        learning_rate: float = 0.1,
        max_evals: int = 500,
        tol: float = 1e-3,
        random_state: int = 0,
    ) -> None:
        require_count("dim", dim, 1)
        require_count("hidden", hidden, 0)
        require_count("max_evals", max_evals, 1)
        require_real("softening", softening)
        require_real("learning_rate", learning_rate)
        self.dim = dim
        self.softening = softening
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.max_evals = max_evals
        self.tol = tol
        self.random_state = random_state

    @takes_numpy
    def fit(self, f: Tensor, z: Tensor, step: Callable[[int, float], None] | None = None) -> Self:
        """Learn map, centres and priors.

        Args:
            f: sample features, `[N, E]`.
            z: logits, `[N, C]`.
            step: called after each evaluation with their number and the best loss.

        Raises:
            ValueError: shapes that do not fit, one category, or features that are not finite or
                all alike.
        """
        f, P = self._checked(f, z)
        clock = time.perf_counter()
        self.mean_, self.size_ = f.mean(0), float((f - f.mean(0)).square().mean().sqrt())
        scaled = self._scaled(f)
        weights = [x.requires_grad_() for x in self._first_weights(f.shape[1])]
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        best = [x.detach().clone() for x in weights]
        losses: list[float] = []
        stopped = f"reached max_evals = {self.max_evals}"
        for count in range(self.max_evals):
            optimizer.zero_grad()
            loss = drpr_loss(_mapped(scaled, weights), P)
            value = float(loss.detach())
            if not math.isfinite(value):
                stopped = f"the loss was not finite after {count} evaluations; the best is kept"
                break
            if not losses or value < losses[-1]:
                best = [x.detach().clone() for x in weights]
            losses.append(min([value, *losses[-1:]]))
            if step is not None:
                step(len(losses), losses[-1])
            if count >= LOOK and losses[-1 - LOOK] - losses[-1] <= self.tol * abs(losses[-1]):
                stopped = f"fell by less than {self.tol:g} of itself in {LOOK} evaluations"
                break
            loss.backward()
            optimizer.step()
        if not losses:
            raise ValueError("f: the loss is not finite at the start; are the features usable?")
        self.weights_ = best
        self.priors_, self.centres_ = mixture(_mapped(scaled, best), P)
        self.stats_ = FitStats(
            tuple(losses), time.perf_counter() - clock, stopped, {"kl": losses[-1]}
        )
        return self

    @takes_numpy
    def transform(self, f: Tensor) -> Tensor:
        """Map sample features `[N, E]` to points `[N, dim]`."""
        if f.ndim != 2 or f.shape[1] != len(self.mean_):
            raise ValueError(f"f must be [N, E = {len(self.mean_)}], got {tuple(f.shape)}")
        return _mapped(self._scaled(f.float()), self.weights_)

    @takes_numpy
    def predict_proba(self, f: Tensor) -> Tensor:
        """What the mixture says of sample features `[N, E]`, as `[N, C]`."""
        return log_responsibilities(self.transform(f), self.priors_, self.centres_).exp()

    def _scaled(self, f: Tensor) -> Tensor:
        return (f - self.mean_) / (self.size_ * math.sqrt(len(self.mean_)))

    def _first_weights(self, E: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.random_state)
        if not self.hidden:
            return [torch.randn(self.dim, E, generator=generator)]
        return [
            torch.randn(self.hidden, E, generator=generator),
            torch.zeros(self.hidden),
            torch.randn(self.dim, self.hidden, generator=generator) / math.sqrt(self.hidden),
        ]

    def _checked(self, f: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        if f.ndim != 2 or z.ndim != 2 or len(f) != len(z) or len(f) < 2:
            raise ValueError(
                f"f must be [N, E] and z [N, C], N at least 2; got {tuple(f.shape)} and "
                f"{tuple(z.shape)}"
            )
        if z.shape[1] < 2:
            raise ValueError("z: one category leaves nothing to reproduce; give two or more logits")
        require_finite(f=f, z=z)
        if bool((f == f[:1]).all()):
            raise ValueError("f: the features of all images are alike; is this the right layer?")
        return f.detach().float(), torch.softmax(z.detach().float() / self.softening, dim=1)


def mixture(x: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Priors `[C]` and P-weighted means `[C, dim]` of points `[N, dim]`, for P `[N, C]`.

    Examples:
        >>> from emergence_ext import studies
        >>> priors, centres = studies.drpr.mixture(torch.eye(2), torch.eye(2))
        >>> priors, centres
        (tensor([0.5000, 0.5000]), tensor([[1., 0.],
                [0., 1.]]))
    """
    mass = P.sum(0).clamp_min(1e-12)
    return mass / mass.sum(), (P.t() @ x) / mass[:, None]


def log_responsibilities(x: Tensor, priors: Tensor, centres: Tensor) -> Tensor:
    """`log softmax_c(log pi_c - |x - mu_c|^2)` of points `[N, dim]`, as `[N, C]`.

    Examples:
        >>> from emergence_ext import studies
        >>> x = 9 * torch.eye(2)
        >>> studies.drpr.log_responsibilities(x, torch.full((2,), 0.5), x).exp().round()
        tensor([[1., 0.],
                [0., 1.]])
    """
    # |x|^2 is the same for all centres and leaves the softmax alone.
    closeness = 2 * x @ centres.t() - centres.square().sum(1)
    return torch.log_softmax(priors.log() + closeness, dim=1)


def drpr_loss(x: Tensor, P: Tensor) -> Tensor:
    """`mean_i KL[P_i || r_i]` of points `[N, dim]` whose centres are their own, a scalar.

    Examples:
        >>> from emergence_ext import studies
        >>> studies.drpr.drpr_loss(99 * torch.eye(2), torch.eye(2)).item() < 1e-3
        True
    """
    log_r = log_responsibilities(x, *mixture(x, P))
    return (torch.xlogy(P, P) - P * log_r).sum(1).mean()


def _mapped(scaled: Tensor, weights: list[Tensor]) -> Tensor:
    """Points `[N, dim]` of scaled features `[N, E]`."""
    if len(weights) == 1:
        return scaled @ weights[0].t()
    first, bias, last = weights
    return torch.relu(scaled @ first.t() + bias) @ last.t()
