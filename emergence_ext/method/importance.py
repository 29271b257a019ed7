"""Importance of regions and channels to the similarity between images (Sec. 3.3, Eq. 11, 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from emergence_ext.method.blocks import mean_over_blocks
from emergence_ext.method.frame import unit_rows
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.solver import FitStats, minimise, require_finite
from emergence_ext.ops import choose
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import Estimator

KAPPA_TILDE: Final = 1.5  # of each channel: v spreads the concentration over all K of them


class RegionImportance(Estimator):
    """Weight regions and channels so that their matches reproduce the similarity of images.

    `T[i, j] = kappa_tilde sum_r w[j, r] max_s sum_k v[j, k] Fn[j, r, k] Fn[i, s, k]` with unit rows
    `Fn`, and `mean_i KL(P[i] || softmax_j T[i])` is minimised over all w and v together, each row
    of which is non-negative and sums to 1 (`w = |x| / |x|_1` of a free x).

    Args:
        kappa_tilde: concentration of the matches; 1.5 K when left out (the paper has 1000 for every
            layer; docs/method.md).
        include_self: whether the pair i = j takes part; as in the P that is given.
        max_evals: evaluations of loss and gradient at most. Few: taken to the end, w may follow
            single images and leave what the network goes by.
        tol: stop when ten evaluations lower the loss by less than this share of it.
        precision: of the matching, see `ops.maxsim`. "medium" takes half the time of "highest"
            where the machine has bfloat16 products, and moves w less than one evaluation more
            does (docs/method.md).
        backend: what matches regions, see `backend.choose`. Not kept by `save`: it says how a fit
            is computed, and `stats_` says how it was.

    Attributes:
        w_: region importance, `[N, R]`.
        v_: channel importance, `[N, K]`.
        stats_: `FitStats`; its losses never rise.
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
        backend: Backend = "auto",
    ) -> None:
        self.kappa_tilde = kappa_tilde
        self.include_self = include_self
        self.max_evals = max_evals
        self.tol = tol
        self.precision = precision
        self.backend = backend

    @takes_numpy
    def fit(
        self,
        F: Tensor,
        P: Tensor,
        step: Callable[[int, float], None] | None = None,
    ) -> Self:
        """Learn w and v of all images together.

        Args:
            F: regional features, `[N, R, K]`.
            P: similarity between the images, `[N, N]`.
            step: called after each evaluation with their number and the loss.

        Raises:
            ValueError: shapes that do not fit, features that are not finite, an unknown backend.
            RuntimeError: a backend that cannot compute here.
        """
        matching = choose(
            self.backend, F.device, width=F.shape[-1], precision=self.precision, scaled=True
        )
        require_finite(F=F)
        if F.ndim != 3 or P.shape != (F.shape[0], F.shape[0]):
            raise ValueError(
                f"F must be [N, R, K] and P [N, N]; got {tuple(F.shape)} and {tuple(P.shape)}"
            )
        N, R, K = F.shape
        Fn = unit_rows(F.detach().float())
        bias = Fn.new_zeros(N)
        exclude = None if self.include_self else torch.arange(N, device=F.device)
        start = [Fn.new_ones(N, R), Fn.new_ones(N, K)]
        kappa_tilde = KAPPA_TILDE * K if self.kappa_tilde is None else self.kappa_tilde

        def loss(block: slice, a: Tensor, v: Tensor) -> Tensor:
            excluded = None if exclude is None else exclude[block]
            return matching.ops.match_kl_scaled(
                Fn, v, Fn[block], a, bias, P[block], excluded, precision=self.precision
            )

        def objective(x: Tensor, y: Tensor) -> Tensor:
            return mean_over_blocks(loss, N, kappa_tilde * on_simplex(x), on_simplex(y))

        # The loss is a mean over images, each with its own w and v: N times the loss has gradients
        # of a size that does not depend on N, which is what the solver's first step is made for.
        (x, y), stats = minimise(
            objective, start, max_evals=self.max_evals, tol=self.tol, scale=N, step=step
        )
        self.w_, self.v_ = on_simplex(x), on_simplex(y)
        self.stats_ = replace(stats, backend=matching.name)
        return self

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        # What was stored before the precision could be chosen was computed at the highest.
        parameters = {"precision": "highest", **settings["parameters"]}
        return super()._from_state(arrays, {**settings, "parameters": parameters})


def on_simplex(x: Tensor) -> Tensor:
    """`|x| / |x|_1` along the last dimension."""
    return x.abs() / x.abs().sum(-1, keepdim=True)
