"""The projection of sample features and the mixture that reads them (Sec. 3.1 of the paper)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method.frame import Frame, unit_rows
from emergence_ext.method.mixture import (
    cross_entropy,
    divergence,
    em_step,
    mean_cosine,
    moving_cross_entropy,
    spread_directions,
)
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.solver import (
    FitStats,
    descend,
    least_squares,
    minimise,
    require_finite,
)
from emergence_ext.method.vmf import ExactKappa, Kappa
from emergence_ext.settings import (
    Responsibilities,
    Settings,
    Solver,
    require_choice,
    require_count,
    require_real,
)
from emergence_ext.store import Estimator

logger = logging.getLogger(__name__)

COLLAPSE: Final = 0.5  # mean cosine between directions above which a fit counts as collapsed
RESTARTS: Final = 4
START_STRENGTH: Final = 3.0
EVALS_PER_ROUND: Final = 20  # evaluations for M between two EM steps
SMALLER: Final = 40.0  # what gradient descent divides features by
SAME: Final = 1e-6  # differences of P(y|x) that are none
LEAST_ENTROPY: Final = 1e-4  # nats; below, all of P(y|x) is as good as one-hot


class SampleProjection(Estimator):
    """Project sample features so that a mixture reads P(y|x) off direction and strength.

    `Q_M(y|x) = softmax_y(log pi_y + kappa(|M f|) cos(M f, mu_y))` (Eq. 4) is fitted to `P(y|x) =
    softmax(z / temperature)` by alternating one EM step for `{pi, mu}` (Eq. 15) with steps on
    `mean_i KL[P || Q_M] + strength_prior * mean_i |M f_i|^2` for M (Eq. 6).

    Without the prior and with an unsure network the optimum is degenerate: all directions fall onto
    one and the strengths grow, a linear classifier in a tangent plane. So the fit starts from
    well-spread directions and prices strength; one that still ends collapsed is started anew, and
    refused when that does not help.

    Args:
        dim: projected width, at least 2.
        temperature: of the network's softmax.
        responsibilities: the `"posterior"` of the mixture (Eq. 15) or the `"network"`'s own P(y|x).
        kappa: makes the concentration from `dim`.
        strength_prior: weight of the mean squared strength.
        max_rounds: alternations at most.
        tol: a round that lowers the objective by less, relative to it, is the last.
        random_state: seed of the restarts.
        solver: "lbfgs", or "sgd": as the authors' code, 20 `max_rounds` steps of gradient descent
            on the sum over images of features / 40 from a random start, in the frame of an EM step
            at each, with a gradient through its directions and none through strengths.
        rate: its learning rate.

    Attributes:
        M_: projection, `[dim, E]`.
        priors_: `pi`, `[C]`.
        directions_: `mu`, `[C, dim]`, unit rows.
        frame_: the `Frame` made of them; everything later is drawn in it.
        stats_: `FitStats`.

    Examples:
        >>> import emergence_ext as ee
        >>> rng = torch.Generator().manual_seed(0)
        >>> f = torch.randn(60, 8, generator=rng)  # features of images, and logits
        >>> samples = ee.SampleProjection().fit(f, 3 * f[:, :4])
        >>> samples.transform(f).shape, samples.directions_.shape
        (torch.Size([60, 3]), torch.Size([4, 3]))
    """

    M_: Tensor
    frame_: Frame
    stats_: FitStats
    _unprefixed = ("frame",)
    _unsaved = ("kappa",)

    def __init__(
        self,
        dim: int = Settings.dim,
        temperature: float = Settings.temperature,
        responsibilities: Responsibilities = Settings.responsibilities,
        kappa: Callable[[int], Kappa] = ExactKappa,
        strength_prior: float = Settings.sample_prior,
        max_rounds: int = 100,
        tol: float = 1e-4,
        random_state: int = 0,
        solver: Solver = Settings.solver,
        rate: float = Settings.sample_rate,
    ) -> None:
        require_count("dim", dim, 2)
        require_real("temperature", temperature)
        require_real("strength_prior", strength_prior, zero=True)
        require_count("max_rounds", max_rounds, 1)
        require_count("random_state", random_state, 0)
        require_real("rate", rate)
        if not callable(kappa):
            raise TypeError(f"kappa: expected what makes one of dim, as ExactKappa, got {kappa!r}")
        require_choice("responsibilities", responsibilities, Responsibilities)
        require_choice("solver", solver, Solver)
        self.dim = dim
        self.temperature = temperature
        self.responsibilities = responsibilities
        self.kappa = kappa
        self.strength_prior = strength_prior
        self.max_rounds = max_rounds
        self.tol = tol
        self.random_state = random_state
        self.solver = solver
        self.rate = rate

    @takes_numpy
    def fit(self, f: Tensor, z: Tensor, init: SampleProjection | None = None) -> Self:
        """Learn projection and mixture.

        Args:
            f: sample features, `[N, E]`.
            z: logits, `[N, C]`.
            init: a fitted projection to start from, of this dim, from E to C categories.

        Raises:
            TypeError: an init of another class.
            ValueError: shapes that do not fit, one category, `dim > E`, features that are not
                finite or all alike, or category directions that collapse from every start.
        """
        f, P = self._checked(f, z)
        self._require_differences(P)
        if init is not None:
            self._check_start(init, E=f.shape[1], C=P.shape[1])
        clock = time.perf_counter()
        fit = self._alternate if self.solver == "lbfgs" else self._step_by_step
        for M, frame in self._starts(f, P, init):
            M, frame, losses, stopped = fit(f, P, M, frame)
            cosine = mean_cosine(frame.directions)
            if cosine <= COLLAPSE:
                break
            # Only that none of all starts helps is the user's matter.
            logger.info("the category directions collapsed (mean cosine %.2f); new start", cosine)
        else:
            advice = "Is the network trained on these categories? If it is: lower `temperature`. "
            advice += "A larger `strength_prior` helps, too."
            if self.solver == "sgd":
                advice = f"Gradient descent at sample_rate = {self.rate:g} may go too short a way "
                advice += "for features of this size: take a larger one."
            raise ValueError(
                f"z: the category directions collapsed onto one (mean cosine {cosine:.2f}) from "
                f"{RESTARTS} starts; such a fit is no picture. {advice}"
            )
        seconds = time.perf_counter() - clock
        self.M_, self.frame_ = M, frame
        terms = {"mean_cosine": cosine, "kl": float(divergence(f @ M.t(), P, frame))}
        self.stats_ = FitStats(tuple(losses), seconds, stopped, terms)
        return self

    @takes_numpy
    def refit(self, f: Tensor, z: Tensor) -> SampleProjection:
        """Learn only another checkpoint's M, in this one's frame.

        It starts from the least-squares map to the directions and takes as many evaluations as this
        fit did: on with it M over-fits, and the two could not be compared (docs/method.md).

        Args:
            f: that checkpoint's sample features, `[N, E]`.
            z: its logits, `[N, C]`.

        Returns:
            A new projection; `self` is unchanged.
        """
        f, P = self._checked(f, z)
        C = len(self.priors_)
        if P.shape[1] != C:
            raise ValueError(f"z: {P.shape[1]} categories, but the frame has {C}")
        each = EVALS_PER_ROUND if self.solver == "lbfgs" else 1
        evals = self.stats_.terms.get("evaluations", len(self.stats_.losses) * each)
        new = type(self)(**self.get_params())
        new.frame_ = self.frame_
        start = towards(f, P, self.directions_)
        new.M_, new.stats_ = self._descend(f, P, start, self.frame_, int(evals))
        kl = float(divergence(f @ new.M_.t(), P, self.frame_))
        new.stats_.terms.update(kl=kl, evaluations=evals)  # also of its refits
        return new

    @takes_numpy
    def transform(self, f: Tensor) -> Tensor:
        """Project sample features `[N, E]` to `g = M f`, `[N, dim]`."""
        if f.ndim != 2 or f.shape[1] != self.M_.shape[1]:
            raise ValueError(f"f must be [N, E = {self.M_.shape[1]}], got {tuple(f.shape)}")
        return f @ self.M_.to(f).t()

    def fit_transform(self, f: Tensor, z: Tensor) -> Tensor:
        """Learn from sample features `[N, E]` and logits `[N, C]`, and return g, `[N, dim]`."""
        return self.fit(f, z).transform(f)

    @takes_numpy
    def predict_proba(self, f: Tensor) -> Tensor:
        """`Q_M(y|x)` of sample features `[N, E]`, as `[N, C]` (Eq. 4)."""
        return self.frame_.posterior(self.transform(f))

    @property
    def priors_(self) -> Tensor:
        """`pi`, `[C]`."""
        return self.frame_.priors

    @property
    def directions_(self) -> Tensor:
        """`mu`, `[C, dim]`."""
        return self.frame_.directions

    def _starts(
        self, f: Tensor, P: Tensor, init: SampleProjection | None
    ) -> Iterator[tuple[Tensor, Frame]]:
        """Projections and frames to begin from: `init` or well-spread directions, then random ones.

        Each is computed when it is asked for.
        """
        generator = torch.Generator().manual_seed(self.random_state)
        for attempt in range(RESTARTS):
            if init is not None and attempt == 0:
                yield init.M_, init.frame_
            elif self.solver == "sgd":
                M = 0.1 / SMALLER * torch.randn(self.dim, f.shape[1], generator=generator)
                kappa = self.kappa(self.dim)
                directions = unit_rows(torch.randn(P.shape[1], self.dim, generator=generator))
                yield M.to(f), em_step(f @ M.to(f).t(), Frame(P.mean(0), directions, kappa), P)
            else:
                directions = spread_directions(f, P, self.dim, generator if attempt else None)
                frame = Frame(P.mean(0), directions, self.kappa(self.dim))
                yield towards(f, P, directions), frame

    def _alternate(
        self, f: Tensor, P: Tensor, M: Tensor, frame: Frame
    ) -> tuple[Tensor, Frame, list[float], str]:
        """EM steps for the frame in turn with descents for M: both, the losses, why it stopped."""
        losses: list[float] = []
        best = M, frame
        stopped = f"reached max_rounds = {self.max_rounds}"
        for _ in range(self.max_rounds):
            responsibilities = P if self.responsibilities == "network" else None
            frame = em_step(f @ M.t(), frame, responsibilities)
            M, stats = self._descend(f, P, M, frame, EVALS_PER_ROUND)
            gain = losses[-1] - stats.losses[-1] if losses else math.inf
            # The EM step serves the likelihood, so that the objective of M may rise over a round.
            if gain > 0:
                best = M, frame
                losses.append(stats.losses[-1])
            if gain <= self.tol * abs(losses[-1]):
                stopped = f"a round lowered the objective by less than {self.tol:g} of itself"
                break
        return *best, losses, stopped

    def _step_by_step(
        self, f: Tensor, P: Tensor, M: Tensor, frame: Frame
    ) -> tuple[Tensor, Frame, list[float], str]:
        """Gradient descent for M, on which the frame depends; as `_alternate`."""
        by_network = P if self.responsibilities == "network" else None

        def loss(g: Tensor) -> Tensor:
            r = frame.posterior(g.detach()) if by_network is None else by_network
            return moving_cross_entropy(g, r, P, frame)

        M, stats = self._descend_by_sgd(f, P, M, loss, self.max_rounds * EVALS_PER_ROUND)
        return M, em_step(f @ M.t(), frame, by_network), list(stats.losses), stats.stopped

    def _descend_by_sgd(
        self, f: Tensor, P: Tensor, M: Tensor, loss: Callable[[Tensor], Tensor], steps: int
    ) -> tuple[Tensor, FitStats]:
        """Lower a loss of g, and the prior, by gradient descent on the sum over images."""
        small, own = f / SMALLER, torch.xlogy(P, P).sum(1).mean()

        def objective(larger: Tensor) -> Tensor:
            g = small @ larger.t()
            return own + loss(g) + self.strength_prior * g.square().sum(1).mean()

        (larger,), stats = descend(
            lambda larger: objective, [M * SMALLER], steps=steps, rate=self.rate, scale=len(f)
        )
        return larger / SMALLER, stats

    def _descend(
        self, f: Tensor, P: Tensor, M: Tensor, frame: Frame, max_evals: int
    ) -> tuple[Tensor, FitStats]:
        """Lower `mean_i KL[P || Q_M] + strength_prior * mean_i |g_i|^2` over M, the frame held."""
        if self.solver == "sgd":
            in_frame = partial(cross_entropy, P=P, frame=frame)
            return self._descend_by_sgd(f, P, M, in_frame, max_evals)
        scale = f.square().mean().sqrt()  # so that the first step of the solver fits any network
        of_size_1, own = f / scale, torch.xlogy(P, P).sum(1).mean()

        def objective(scaled: Tensor) -> Tensor:
            g = of_size_1 @ scaled.t()
            prior = self.strength_prior * g.square().sum(1).mean()
            return own + cross_entropy(g, P, frame) + prior

        (scaled,), stats = minimise(objective, [M * scale], max_evals=max_evals, tol=self.tol)
        return scaled / scale, stats

    def _checked(self, f: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Sample features and the network's `P(y|x)`, `[N, C]`, where both are usable."""
        if f.ndim != 2 or z.ndim != 2 or len(f) != len(z):
            raise ValueError(
                f"f must be [N, E] and z [N, C]; got {tuple(f.shape)} and {tuple(z.shape)}"
            )
        if z.shape[1] < 2:
            raise ValueError(
                "z: one category has no directions to tell apart; give logits of two or more"
            )
        if self.dim > f.shape[1]:
            raise ValueError(
                f"dim = {self.dim} is more than the E = {f.shape[1]} of f; choose a smaller dim"
            )
        require_finite(f=f, z=z)
        if z.shape[1] > f.shape[1] and bool((z >= 0).all()) and not bool((f >= 0).all()):
            logger.warning(
                "z [N, %d] is wider than f [N, %d] and has no negative numbers, as features behind "
                "a ReLU: were they given the wrong way round? It is fit(f, z)",
                z.shape[1],
                f.shape[1],
            )
        if bool((f == f[:1]).all()):
            raise ValueError("f: the features of all images are alike; is this the right layer?")
        f = f.detach().float()
        P = torch.softmax(z.detach().float() / self.temperature, dim=1)
        return f, P

    def _check_start(self, init: SampleProjection, E: int, C: int) -> None:
        """Refuse a start that is none of this fit."""
        require_kind(init=(init, SampleProjection))
        there = (*init.M_.shape, len(init.priors_))
        if there != (self.dim, E, C):
            raise ValueError(
                f"init: expected one of dim = {self.dim}, E = {E} features and C = {C} categories, "
                f"got {there[0]}, {there[1]} and {there[2]}; leave it out to start anew"
            )

    def _require_differences(self, P: Tensor) -> None:
        """Refuse a P(y|x) that is the same for all images, and name one that is never unsure."""
        if bool((P - P.mean(0)).abs().max() < SAME):
            raise ValueError(
                f"temperature = {self.temperature:g} makes P(y|x) the same for every image, so "
                "that there is nothing to learn; take a lower one, or check that these are the "
                "logits of a trained network"
            )
        if float(torch.special.entr(P).sum(1).max()) < LEAST_ENTROPY:
            logger.warning(
                "at temperature %g P(y|x) is as good as one-hot for every image: strength has no "
                "uncertainty to tell; take a higher temperature",
                self.temperature,
            )

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        new = super()._from_state(arrays, settings)
        new.kappa = _Kept(
            new.frame_.kappa
        )  # a function is not stored; the frame holds what it made
        return new


class _Kept:
    """Makes what was made, and is shown as that."""

    def __init__(self, made: Kappa) -> None:
        self.made = made

    def __call__(self, dim: int) -> Kappa:
        return self.made

    def __repr__(self) -> str:
        return repr(self.made)


def towards(f: Tensor, P: Tensor, directions: Tensor) -> Tensor:
    """The least-squares map of sample features `[N, E]` to their P-weighted directions."""
    return least_squares(f, START_STRENGTH * (P @ directions))
