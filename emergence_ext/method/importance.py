"""Importance of regions and channels to the similarity between images (Sec. 3.3, Eq. 11, 12)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.method.blocks import deal, is_of_all, mean_over_blocks, mean_over_groups
from emergence_ext.method.frame import unit_rows
from emergence_ext.method.lengths import in_order, real_regions, to_front
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.similarity import Similarity, among, require_similarity
from emergence_ext.method.solver import (
    FitStats,
    descend,
    minimise,
    minimise_in_rounds,
    require_finite,
)
from emergence_ext.ops import choose
from emergence_ext.settings import (
    Backend,
    Settings,
    Solver,
    WeightsOf,
    require_choice,
    require_count,
    require_real,
)
from emergence_ext.store import Estimator

logger = logging.getLogger(__name__)

Loss = Callable[[list[Tensor] | None, Tensor, Tensor], Tensor]  # of groups, and of the free w and v

KAPPA_TILDE: Final = 1.5  # of each channel: v spreads the concentration over all K of them
RATE: Final = 0.3
"""Of gradient descent, for shares of 1; docs/method.md has what others give."""


class RegionImportance(Estimator):
    """Weight regions and channels so that their matches reproduce the similarity of images.

    `T[i, j] = kappa_tilde sum_r w[i, r] max_s sum_k v[i, k] Fn[i, r, k] Fn[j, s, k]` with unit rows
    `Fn`: the regions of image i look for their match in every other image j, as in the authors'
    code, and `KL(P[i] || softmax_j T[i])` is minimised, each row of w and v non-negative and of sum
    1. The w and v of an image are a problem of their own, and a few steps of gradient descent are
    enough for what the network goes by (docs/method.md).

    With `weights_of="scored"`, as Eq. 7 and 11 are printed, it is image j whose regions look for
    their match, with its own w and v, which are then learned all together: `T[i, j] = kappa_tilde
    sum_r w[j, r] max_s sum_k v[j, k] Fn[j, r, k] Fn[i, s, k]`. That wants `solver="lbfgs"`.

    Args:
        kappa_tilde: concentration of the matches; 1.5 K when left out (the paper has 1000 for every
            layer; docs/method.md).
        include_self: whether the pair i = j takes part; as in the P that is given.
        max_evals: steps of gradient descent, or evaluations of loss and gradient at most. Few:
            taken to the end, w may follow single images and leave what the network goes by.
        tol: stop when ten evaluations lower the loss by less than this share of it.
        precision: of the matching, see `ops.maxsim`. "medium" takes half the time of "highest"
            where the machine has bfloat16 products, and moves w less than one evaluation more
            does (docs/method.md).
        pairs: other images that each image is scored against in an evaluation: others in each round
            of ten, drawn at random, within which P and Q sum to 1; all when None.
        random_state: seed of these.
        weights_of: whose w and v weigh a match, see above.
        solver: "sgd", gradient descent on the sum over images, each step against other `pairs`,
            after which w and v are brought to sum to 1 again; or "lbfgs".
        rate: its learning rate; None: `RATE / R` of w and `RATE / K` of v, by which a step moves
            shares by a part of themselves, however many there are.
        backend: what matches regions, see `backend.choose`. Not kept by `save`: it says how a fit
            is computed, and `stats_` says how it was.

    Attributes:
        w_: region importance, `[N, R]`.
        v_: channel importance, `[N, K]`.
        stats_: `FitStats`; by "lbfgs" its losses never rise. With `pairs`, they may from one round
            to the next, and the term `new_pairs` is the loss over pairs that no evaluation saw.

    Examples:
        >>> import emergence_ext as ee
        >>> rng = torch.Generator().manual_seed(0)
        >>> F = torch.rand(12, 4, 6, generator=rng)  # images, regions, channels
        >>> P = ee.image_similarity(torch.randn(12, 3, generator=rng), 4.0)
        >>> fitted = ee.RegionImportance(max_evals=5).fit(F, P)
        >>> fitted.w_.shape, fitted.v_.shape
        (torch.Size([12, 4]), torch.Size([12, 6]))
    """

    w_: Tensor
    v_: Tensor
    stats_: FitStats
    _unsaved = ("backend",)

    def __init__(
        self,
        kappa_tilde: float | None = None,
        include_self: bool = Settings.include_self,
        max_evals: int = Settings.importance_evals,
        tol: float = 1e-3,
        precision: str = "medium",
        pairs: int | None = Settings.pairs,
        random_state: int = 0,
        weights_of: WeightsOf = Settings.importance_weights_of,
        solver: Solver = Settings.importance_solver,
        rate: float | None = Settings.importance_rate,
        backend: Backend = "auto",
    ) -> None:
        require_choice("weights_of", weights_of, WeightsOf)
        require_choice("solver", solver, Solver)
        if kappa_tilde is not None:
            require_real("kappa_tilde", kappa_tilde)
        if pairs is not None:
            require_count("pairs", pairs, 1)
        require_count("max_evals", max_evals, 1)
        require_count("random_state", random_state, 0)
        if rate is not None:
            require_real("rate", rate)
        self.kappa_tilde = kappa_tilde
        self.include_self = include_self
        self.max_evals = max_evals
        self.tol = tol
        self.precision = precision
        self.pairs = pairs
        self.random_state = random_state
        self.weights_of = weights_of
        self.solver = solver
        self.rate = rate
        self.backend = backend

    @takes_numpy
    def fit(
        self,
        F: Tensor,
        P: Similarity,
        step: Callable[[int, float], None] | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Self:
        """Learn w and v of all images together.

        Args:
            F: regional features, `[N, R, K]`.
            P: similarity between the images, `[N, N]`; with `pairs` it need not be there as a
                whole, see `Similarity`.
            step: called after each evaluation with their number and the loss.
            lengths: how many of the R regions each image has, `[N]`, 1 to R; all when left out.
                Rows beyond may hold anything and get w = 0.
            mask: in place of lengths, which rows are regions, `[N, R]` bool, in any order.

        Raises:
            ValueError: shapes that do not fit, features that are not finite, an unknown backend,
                lengths and a mask.
            RuntimeError: a backend that cannot compute here.
        """
        if mask is not None and F.ndim == 3:
            order, lengths = to_front(mask, F, lengths)
            self.fit(in_order(F, order), P, step, lengths)
            self.w_ = self.w_.new_zeros(mask.shape).scatter(1, order, self.w_)
            return self
        matching = choose(
            self.backend, F.device, width=F.shape[-1], precision=self.precision, scaled=True
        )
        if F.ndim != 3 or F.numel() == 0:
            raise ValueError(f"F must be [N, R, K], none of them 0, got {tuple(F.shape)}")
        N, R, K = F.shape
        real = None if lengths is None else real_regions(lengths, F)
        F = F if real is None else F.masked_fill(~real[..., None], 0)
        require_finite(F=F)
        require_similarity(P, N, self.pairs)
        Fn = unit_rows(F.detach().float())
        kappa_tilde = KAPPA_TILDE * K if self.kappa_tilde is None else self.kappa_tilde
        loss = self._loss(matching.ops, Fn, P, kappa_tilde, lengths)
        # What is no region starts at 0, where |x| has no slope, and stays there.
        start = [Fn.new_ones(N, R) if real is None else real.to(Fn), Fn.new_ones(N, K)]
        x, y, stats = self._minimise(loss, start, step)
        self.w_, self.v_ = on_simplex(x), on_simplex(y)
        self.stats_ = replace(stats, backend=matching.name)
        return self

    def _loss(
        self, ops: ModuleType, Fn: Tensor, P: Similarity, kappa_tilde: float, lengths: Tensor | None
    ) -> Loss:
        """Give the mean divergence of the images (eq. 12): of all pairs, or within groups."""

        def match(
            block: slice, target: Tensor, f: Tensor, n: Tensor | None, a: Tensor, v: Tensor
        ) -> Tensor:
            own = None if n is None else n[block]
            exclude = None if self.include_self else torch.arange(len(f), device=f.device)[block]
            b = f.new_zeros(len(f))
            if self.weights_of == "conditioning":
                return ops.match_kl_scaled(
                    f[block], v[block], f, a[block], b, target, exclude, over="d",
                    q_lengths=own, d_lengths=n, precision=self.precision,
                )  # fmt: skip
            return ops.match_kl_scaled(
                f, v, f[block], a, b, target, exclude,
                q_lengths=n, d_lengths=own, precision=self.precision,
            )  # fmt: skip

        def of_block(block: slice, a: Tensor, v: Tensor) -> Tensor:
            return match(block, P[block], Fn, lengths, a, v)  # type: ignore[index]

        def of_group(images: Tensor, a: Tensor, v: Tensor) -> Tensor:
            own = None if lengths is None else lengths[images]
            return match(slice(None), among(P, images), Fn[images], own, a, v)

        def loss(groups: list[Tensor] | None, x: Tensor, y: Tensor) -> Tensor:
            a, v = kappa_tilde * self._shares(x), self._shares(y)
            if groups is None:
                return mean_over_blocks(of_block, len(Fn), a, v)
            return mean_over_groups(of_group, groups, a, v)

        return loss

    def _minimise(
        self, loss: Loss, start: list[Tensor], step: Callable[[int, float], None] | None
    ) -> tuple[Tensor, Tensor, FitStats]:
        """Lower a loss by the solver that was asked for, on all pairs or ever new groups."""
        N = len(start[0])
        all_pairs = is_of_all(self.pairs, N)
        generator = torch.Generator().manual_seed(self.random_state)

        def draw(*_: Tensor) -> Callable[..., Tensor]:
            return partial(loss, None if all_pairs else deal(N, self.pairs or N, generator))

        # The loss is a mean over images, each with its own w and v: N times the loss has gradients
        # of a size that does not depend on N, which is what the solver's first step is made for.
        if self.solver == "sgd":
            return self._descend(draw, start, step)
        if all_pairs:
            (x, y), stats = minimise(
                draw(), start, max_evals=self.max_evals, tol=self.tol, scale=N, step=step
            )
        else:
            (x, y), stats = minimise_in_rounds(
                draw, start, max_evals=self.max_evals, scale=N, step=step
            )
            stats = replace(stats, stopped=f"{stats.stopped}, {self.pairs} an image")
            with torch.no_grad():
                stats.terms["new_pairs"] = float(draw()(x, y))
        return x, y, stats

    def _shares(self, x: Tensor) -> Tensor:
        """By gradient descent rows sum to 1 because they are brought there after each step."""
        return x.abs() if self.solver == "sgd" else on_simplex(x)

    def _descend(
        self,
        draw: Callable[..., Callable[..., Tensor]],
        start: list[Tensor],
        step: Callable[[int, float], None] | None,
    ) -> tuple[Tensor, Tensor, FitStats]:
        """Lower the loss of each image by steps of gradient descent between shares."""

        def back(x: Tensor, y: Tensor) -> None:
            x.copy_(on_simplex(x))
            y.copy_(on_simplex(y))

        own = [RATE / int(x.ne(0).sum(1).max()) for x in start]  # what is no region has no share
        back(*start)
        (x, y), stats = descend(
            draw,
            start,
            steps=self.max_evals,
            rate=own if self.rate is None else self.rate,
            scale=len(start[0]),
            after=back,
            step=step,
        )
        first, last = stats.losses[0], stats.losses[-1]
        if last > first:
            logger.warning(
                "w and v: their divergence rose from %.3g to %.3g in %d steps of gradient descent; "
                "a smaller importance_rate may do, or importance_solver = lbfgs, as weights of the "
                "scored image want",
                first,
                last,
                self.max_evals,
            )
        return x, y, stats

    @takes_numpy
    def fit_new(self, F: Tensor, others: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
        """Learn w and v of further images, each by itself; `w_` and `v_` stay as they are.

        What an image gets does not depend on the other new ones.

        Args:
            F: regional features of the new images, `[n, R, K]`.
            others: those of the images that each is scored against, `[N, R, K]`.
            P: similarity of each new image with these, `[n, N]`, see `similarity_with`.

        Returns:
            Region importance `[n, R]` and channel importance `[n, K]`.

        Raises:
            ValueError: `weights_of` is "scored", with which all images are one problem; shapes that
                do not fit, or features that are not finite.
            RuntimeError: a backend that cannot compute here.
        """
        if self.weights_of != "conditioning":
            raise ValueError(
                'weights_of must be "conditioning" for w and v of further images, got '
                f'"{self.weights_of}": with it the w and v of all images are one problem'
            )
        require_finite(F=F, others=others)
        if F.ndim != 3 or F.shape[1:] != others.shape[1:] or P.shape != (len(F), len(others)):
            raise ValueError(
                f"F, others and P must be [n, R, K], [N, R, K] and [n, N], got {list(F.shape)}, "
                f"{list(others.shape)} and {list(P.shape)}"
            )
        R, K = F.shape[1:]
        matching = choose(self.backend, F.device, width=K, precision=self.precision, scaled=True)
        Fn, d = unit_rows(F.detach().float()), unit_rows(others.detach().float())
        kappa_tilde = KAPPA_TILDE * K if self.kappa_tilde is None else self.kappa_tilde
        b = d.new_zeros(len(d))

        def objective(image: slice, x: Tensor, y: Tensor) -> Tensor:
            return matching.ops.match_kl_scaled(
                Fn[image], self._shares(y), d, kappa_tilde * self._shares(x), b, P[image], None,
                over="d", precision=self.precision,
            )  # fmt: skip

        if self.solver == "sgd":  # which moves each row by its own gradient
            start = [Fn.new_ones(len(F), R), Fn.new_ones(len(F), K)]
            x, y, _ = self._descend(lambda *_: partial(objective, slice(None)), start, None)
            return on_simplex(x), on_simplex(y)
        w, v = Fn.new_empty(len(F), R), Fn.new_empty(len(F), K)
        for i in range(len(F)):
            image = slice(i, i + 1)
            start = [Fn.new_ones(1, R), Fn.new_ones(1, K)]
            (x, y), _ = minimise(
                partial(objective, image), start, max_evals=self.max_evals, tol=self.tol
            )
            w[image], v[image] = on_simplex(x), on_simplex(y)
        return w, v

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        # What was stored before these could be chosen was computed so.
        before = {"precision": "highest", "weights_of": "scored", "solver": "lbfgs"}
        parameters = {**before, **settings["parameters"]}
        return super()._from_state(arrays, {**settings, "parameters": parameters})


def on_simplex(x: Tensor) -> Tensor:
    """`|x| / |x|_1` along the last dimension."""
    return x.abs() / x.abs().sum(-1, keepdim=True)
