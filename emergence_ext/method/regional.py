"""The linear projection of regional features into the frame (Sec. 3.2, Eq. 7-10, 16, 17)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from emergence_ext.method.blocks import mean_over_blocks
from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.solver import FitStats, best_start, least_squares, minimise
from emergence_ext.method.vmf import log_mode_density
from emergence_ext.ops import choose
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import Estimator

START_STRENGTH: Final = 3.0


class RegionalProjection(Estimator):
    """Project regional features so that their best matches reproduce the similarity of images.

    `L = L_similarity + alpha L_align + strength_prior * mean |h|^2`, where `L_similarity = mean_i
    KL(P[i] || softmax_j T[i])`, `T[i, j] = sum_r w[j, r] (log C(kappa_jr) + kappa_jr max_s cos(h[j,
    r], h[i, s]))` with `kappa_jr = kappa(|h[j, r]|)`, and `L_align = -mean_i sum_r w[i, r] cos(g_i,
    h[i, r])`. Rotating Lambda leaves the first as it is; the second turns regions towards the
    direction of their sample. The paper has no prior; without one strengths keep growing to fit the
    similarities of the very images at hand, and images that were left out are explained worse
    (docs/method.md has the measurement).

    Args:
        frame: the frame of the sample features.
        alpha: weight of the alignment.
        include_self: whether the pair i = j takes part; as in the P that is given.
        strength_prior: weight of the mean squared strength; 0 is the paper's loss.
        batch_size: images of a random batch, with P and Q renormalised over it; all images when
            None.
        normaliser: whether log C takes part in T, as printed in Eq. 8.
        max_evals: evaluations of loss and gradient at most; with batches, passes over the images.
        tol: stop when ten evaluations lower the loss by less than this share of it (whole fits
            only).
        random_state: seed of the order of batches.
        backend: what matches regions, see `backend.choose`. Not kept by `save`: it says how a fit
            is computed, and `stats_` says how it was.

    Attributes:
        Lambda_: projection, `[dim, K]`.
        scale_: factor on the strengths of `transform`, 1 until `normalise_strengths` sets it.
        stats_: `FitStats`; terms `similarity`, `align`, and `left_out_similarity` where images were
            left out.
    """

    frame: Frame
    Lambda_: Tensor
    scale_: float
    stats_: FitStats
    _unprefixed = ("frame",)
    _unsaved = ("backend",)

    def __init__(
        self,
        frame: Frame,
        alpha: float = Settings.alpha,
        include_self: bool = Settings.include_self,
        strength_prior: float = 1e-2,
        batch_size: int | None = None,
        normaliser: bool = True,
        max_evals: int = Settings.regional_evals,
        tol: float = 1e-3,
        random_state: int = 0,
        backend: Backend = "auto",
    ) -> None:
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        if strength_prior < 0:
            raise ValueError(f"strength_prior must not be negative, got {strength_prior}")
        if batch_size is not None and batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 images, got {batch_size}")
        self.frame = frame
        self.alpha = alpha
        self.include_self = include_self
        self.strength_prior = strength_prior
        self.batch_size = batch_size
        self.normaliser = normaliser
        self.max_evals = max_evals
        self.tol = tol
        self.random_state = random_state
        self.backend = backend

    @takes_numpy
    def fit(
        self,
        F: Tensor,
        w: Tensor,
        P: Tensor,
        g: Tensor,
        init: RegionalProjection | None = None,
        left_out: Tensor | None = None,
        step: Callable[[int, float], None] | None = None,
    ) -> Self:
        """Learn Lambda.

        Args:
            F: regional features, `[N, R, K]`.
            w: importance of regions, `[N, R]`, from `RegionImportance` on all N images.
            P: similarity between the images, `[N, N]`.
            g: projected sample features, `[N, dim]`.
            init: projection to start from where it is better than the least-squares map of pooled
                features to g.
            left_out: indices of images that Lambda does not see, neither as scored nor as
                conditioning ones; the loss among them is reported.
            step: called after each evaluation with their number and the loss.

        Raises:
            ValueError: shapes that do not fit, features that are not finite or all alike, `dim >
                K`, an unknown backend.
            RuntimeError: a backend that cannot compute here.
        """
        matching = choose(self.backend, F.device, width=self.frame.dim)
        self._check(F, w, P, g)
        F = F.detach().float()
        size = F.square().mean().sqrt()  # so that the first step of the solver fits any layer
        images = _Images(F / size, w, P, g)
        kept = torch.ones(len(F), dtype=torch.bool)
        if left_out is not None:
            kept[left_out] = False
        seen = images.part(kept)
        starts = [[self._start(seen)]] + ([] if init is None else [[init.Lambda_ * size]])
        (start,) = best_start(lambda Lambda: self._loss(Lambda, seen)[0], starts)
        if self.batch_size is None or self.batch_size >= len(seen.F):
            Lambda, stats = self._fit_whole(start, seen, step)
        else:
            Lambda, stats = self._fit_in_batches(start, seen, self.batch_size, step)
        with torch.no_grad():
            _, similarity, align = self._loss(Lambda, seen)
            stats.terms.update(similarity=float(similarity), align=float(align))
            if left_out is not None:
                similarity = self._loss(Lambda, images.part(~kept))[1]
                stats.terms["left_out_similarity"] = float(similarity)
        self.stats_ = replace(stats, backend=matching.name)
        self.Lambda_, self.scale_ = Lambda / size, 1.0
        return self

    @takes_numpy
    def transform(self, F: Tensor) -> Tensor:
        """Project regional features `[N, R, K]` to `h = scale_ Lambda F`, `[N, R, dim]`."""
        if F.shape[-1] != self.Lambda_.shape[1]:
            raise ValueError(f"F must end in K = {self.Lambda_.shape[1]}, got {tuple(F.shape)}")
        return F @ (self.scale_ * self.Lambda_).to(F).t()

    def _loss(self, Lambda: Tensor, x: _Images) -> tuple[Tensor, Tensor, Tensor]:
        """`(L, L_similarity, L_align)` of a projection `[dim, K]`."""
        h = x.F @ Lambda.t()
        similarity = similarity_loss(
            h,
            x.w,
            x.P,
            self.frame,
            include_self=self.include_self,
            normaliser=self.normaliser,
            backend=self.backend,
        )
        align = alignment_loss(h, x.w, x.g)
        prior = self.strength_prior * h.square().sum(-1).mean()
        return similarity + self.alpha * align + prior, similarity, align

    def _start(self, x: _Images) -> Tensor:
        """The least-squares map of pooled features to g, brought to a mean strength."""
        pooled = (x.w[..., None] * x.F).sum(1)
        Lambda = least_squares(pooled, x.g)
        strength = (x.F @ Lambda.t()).norm(dim=-1).mean()
        return Lambda * (START_STRENGTH / strength.clamp_min(1e-12))

    def _fit_whole(
        self, start: Tensor, x: _Images, step: Callable[[int, float], None] | None
    ) -> tuple[Tensor, FitStats]:
        """L-BFGS on the loss of all images."""
        (Lambda,), stats = minimise(
            lambda Lambda: self._loss(Lambda, x)[0],
            [start],
            max_evals=self.max_evals,
            tol=self.tol,
            step=step,
        )
        return Lambda, stats

    def _fit_in_batches(
        self,
        start: Tensor,
        x: _Images,
        batch_size: int,
        step: Callable[[int, float], None] | None,
    ) -> tuple[Tensor, FitStats]:
        """Adam over random batches, i and j both from the batch."""
        clock = time.perf_counter()
        generator = torch.Generator().manual_seed(self.random_state)
        Lambda = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([Lambda], lr=0.02 * float(start.abs().mean()))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_evals)
        losses: list[float] = []
        for epoch in range(self.max_evals):
            total = 0.0
            order = torch.randperm(len(x.F), generator=generator)
            batches = order[: len(order) // batch_size * batch_size].split(batch_size)
            for batch in batches:
                optimizer.zero_grad()
                loss = self._loss(Lambda, x.part(batch.sort().values))[0]
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
            schedule.step()
            losses.append(total / len(batches))
            if step is not None:
                step(epoch + 1, losses[-1])
        stopped = f"reached max_evals = {self.max_evals} passes in batches of {batch_size}"
        return Lambda.detach(), FitStats(tuple(losses), time.perf_counter() - clock, stopped)

    def _check(self, F: Tensor, w: Tensor, P: Tensor, g: Tensor) -> None:
        """Refuse what cannot be fitted, named."""
        if F.ndim != 3:
            raise ValueError(f"F must be [N, R, K], got {tuple(F.shape)}")
        N, R, K = F.shape
        dim = self.frame.dim
        for name, x, shape in (("w", w, (N, R)), ("P", P, (N, N)), ("g", g, (N, dim))):
            if x.shape != shape:
                raise ValueError(
                    f"{name} must be {list(shape)} for F {list(F.shape)}, got {list(x.shape)}"
                )
        if dim > K:
            raise ValueError(f"F has K = {K} channels, fewer than the dim = {dim} of the frame")
        bad = (~torch.isfinite(F)).flatten(1).any(1)
        if bool(bad.any()):
            raise ValueError(f"F: image {int(bad.nonzero()[0])} is not finite; leave it out")
        if bool((F[:1, :1] == F).all()):
            raise ValueError("F: the features of all regions are alike; is this the right layer?")


class _Images(NamedTuple):
    """What one evaluation of the loss reads."""

    F: Tensor  # [N, R, K]
    w: Tensor  # [N, R]
    P: Tensor  # [N, N]
    g: Tensor  # [N, dim]

    def part(self, chosen: Tensor) -> _Images:
        """The same of some images, by mask or index; the rows of P sum to 1 again."""
        P = self.P[chosen][:, chosen].float()
        P = P / P.sum(1, keepdim=True).clamp_min(1e-30)
        return _Images(self.F[chosen], self.w[chosen], P, self.g[chosen])


def similarity_loss(
    h: Tensor,
    w: Tensor,
    P: Tensor,
    frame: Frame,
    *,
    include_self: bool = Settings.include_self,
    normaliser: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """`L_similarity = mean_i KL(P[i] || softmax_j T[i])` (Eq. 7-9), a scalar.

    Args:
        h: projected regional features, `[N, R, dim]`.
        w: importance of regions, `[N, R]`.
        P: similarity between the images, `[N, N]`.
        frame: gives the concentration of a strength.
        include_self: whether the pair i = j takes part.
        normaliser: whether log C takes part in T.
        backend: what matches regions, see `backend.choose`.
    """
    strength, orientation = polar(h)
    kappa = frame.kappa(strength)
    # log C + kappa max cos = (log C + kappa) + kappa (max cos - 1), neither of which cancels
    density = log_mode_density(kappa, frame.dim) if normaliser else kappa
    bias = (w * (density - kappa)).sum(1)
    exclude = None if include_self else torch.arange(len(h), device=h.device)
    match_kl = choose(backend, h.device, width=frame.dim).ops.match_kl

    def loss(block: slice, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        excluded = None if exclude is None else exclude[block]
        return match_kl(o, o[block], a, b, P[block], excluded)

    return mean_over_blocks(loss, len(h), orientation, w * kappa, bias)


def alignment_loss(h: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """`L_align = -mean_i sum_r w[i, r] cos(g_i, h[i, r])` (Eq. 10), a scalar."""
    cosine = (unit_rows(h) * unit_rows(g)[:, None]).sum(-1)
    return -(w * cosine).sum(1).mean()


def normalise_strengths(
    projections: Mapping[str, RegionalProjection], features: Mapping[str, Tensor]
) -> None:
    """Bring every layer's mean strength to that of the last layer, so that layers compare.

    Sets `scale_` of the projections of one checkpoint, from clean images.

    Args:
        projections: layer name -> projection, in the order of depth.
        features: layer name -> regional features, `[N, R, K]`.
    """
    strengths = {}
    for name, projection in projections.items():
        projection.scale_ = 1.0
        strengths[name] = float(projection.transform(features[name]).norm(dim=-1).mean())
    last = strengths[list(projections)[-1]]
    for name, projection in projections.items():
        projection.scale_ = last / strengths[name]
