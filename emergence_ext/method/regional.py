"""The linear projection of regional features into the frame (Sec. 3.2, Eq. 7-10, 16, 17)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from emergence_ext.method.blocks import deal, is_of_all, mean_over_blocks, mean_over_groups
from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.lengths import mean_of_regions, real_regions
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.similarity import Similarity, among, require_similarity
from emergence_ext.method.solver import (
    FitStats,
    best_start,
    least_squares,
    minimise,
    minimise_in_rounds,
)
from emergence_ext.method.vmf import log_mode_density
from emergence_ext.ops import choose
from emergence_ext.settings import Backend, Settings, WeightsOf, require_choice
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

    With `weights_of="conditioning"`, as in the authors' code, `T[i, j] = sum_r w[i, r] kappa_ir
    max_s cos(h[i, r], h[j, s])`: log C is that of one image and cancels.

    Args:
        frame: the frame of the sample features.
        alpha: weight of the alignment.
        include_self: whether the pair i = j takes part; as in the P that is given.
        strength_prior: weight of the mean squared strength; 0 is the paper's loss.
        pairs: other images that each image is scored against in an evaluation: others in each round
            of ten, drawn at random, within which P and Q sum to 1; all when None.
        normaliser: whether log C takes part in T, as printed in Eq. 8.
        max_evals: evaluations of loss and gradient at most.
        tol: stop when ten evaluations lower the loss by less than this share of it (without `pairs`
            only).
        random_state: seed of these.
        weights_of: whose w and strengths weigh a match; as for the w that is given.
        backend: what matches regions, see `backend.choose`. Not kept by `save`: it says how a fit
            is computed, and `stats_` says how it was.

    Attributes:
        Lambda_: projection, `[dim, K]`.
        scale_: factor on the strengths of `transform`, 1 until `normalise_strengths` sets it.
        stats_: `FitStats`; terms `similarity`, `align`, and `left_out_similarity` where images were
            left out.

    Examples:
        >>> import emergence_ext as ee
        >>> rng = torch.Generator().manual_seed(0)
        >>> f, F = torch.randn(30, 5, generator=rng), torch.rand(30, 4, 6, generator=rng)
        >>> z = 3 * f[:, :3]
        >>> samples = ee.SampleProjection().fit(f, z)
        >>> P = ee.image_similarity(z, 4.0)
        >>> w = ee.RegionImportance(max_evals=5).fit(F, P).w_
        >>> regions = ee.RegionalProjection(samples.frame_, max_evals=5)
        >>> regions.fit(F, w, P, samples.transform(f)).transform(F).shape
        torch.Size([30, 4, 3])
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
        pairs: int | None = Settings.pairs,
        normaliser: bool = True,
        max_evals: int = Settings.regional_evals,
        tol: float = 1e-3,
        random_state: int = 0,
        weights_of: WeightsOf = Settings.weights_of,
        backend: Backend = "auto",
    ) -> None:
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        if strength_prior < 0:
            raise ValueError(f"strength_prior must not be negative, got {strength_prior}")
        if pairs is not None and pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}")
        require_choice("weights_of", weights_of, WeightsOf)
        self.frame = frame
        self.alpha = alpha
        self.include_self = include_self
        self.strength_prior = strength_prior
        self.pairs = pairs
        self.normaliser = normaliser
        self.max_evals = max_evals
        self.tol = tol
        self.random_state = random_state
        self.weights_of = weights_of
        self.backend = backend

    @takes_numpy
    def fit(
        self,
        F: Tensor,
        w: Tensor,
        P: Similarity,
        g: Tensor,
        init: RegionalProjection | None = None,
        left_out: Tensor | None = None,
        step: Callable[[int, float], None] | None = None,
        lengths: Tensor | None = None,
    ) -> Self:
        """Learn Lambda.

        Args:
            F: regional features, `[N, R, K]`.
            w: importance of regions, `[N, R]`, from `RegionImportance` on all N images.
            P: similarity between the images, `[N, N]`; with `pairs` it need not be there as a
                whole, see `Similarity`.
            g: projected sample features, `[N, dim]`.
            init: projection to start from where it is better than the least-squares map of pooled
                features to g.
            left_out: indices of images that Lambda does not see, neither as scored nor as
                conditioning ones; the loss among them is reported.
            step: called after each evaluation with their number and the loss.
            lengths: how many of the R regions each image has, `[N]`, 1 to R; all when left out.
                Rows beyond may hold anything.

        Raises:
            ValueError: shapes that do not fit, features that are not finite or all alike, `dim >
                K`, an unknown backend.
            RuntimeError: a backend that cannot compute here.
        """
        matching = choose(self.backend, F.device, width=self.frame.dim)
        F = F.detach()
        if lengths is not None and F.ndim == 3:
            real = real_regions(lengths, F)
            F = F.masked_fill(~real[..., None], 0)
            w = torch.where(real, w, 0) if w.shape == real.shape else w
        self._check(F, w, P, g, lengths)
        F = F.float()
        square = F.square()
        square = square.mean() if lengths is None else mean_of_regions(square.mean(-1), lengths)
        size = square.sqrt()  # so that the first step of the solver fits any layer
        images = _Images(F / size, w, P, g, lengths)
        kept = torch.ones(len(F), dtype=torch.bool)
        if left_out is not None:
            kept[left_out] = False
        seen = images.part(kept)
        generator = torch.Generator().manual_seed(self.random_state)
        starts = [[self._start(seen)]] + ([] if init is None else [[init.Lambda_ * size]])
        groups = self._deal(seen, generator)
        start = best_start(lambda Lambda: self._loss(Lambda, seen, groups)[0], starts)

        def objective(groups: list[Tensor] | None, Lambda: Tensor) -> Tensor:
            return self._loss(Lambda, seen, groups)[0]

        if groups is None:
            (Lambda,), stats = minimise(
                partial(objective, None), start, max_evals=self.max_evals, tol=self.tol, step=step
            )
        else:
            (Lambda,), stats = minimise_in_rounds(
                lambda: partial(objective, self._deal(seen, generator)),
                start,
                max_evals=self.max_evals,
                step=step,
            )
            stats = replace(stats, stopped=f"{stats.stopped}, {self.pairs} an image")
        with torch.no_grad():
            _, similarity, align = self._loss(Lambda, seen, self._deal(seen, generator))
            stats.terms.update(similarity=float(similarity), align=float(align))
            if left_out is not None:
                others = images.part(~kept)
                similarity = self._loss(Lambda, others, self._deal(others, generator))[1]
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

    def _loss(
        self, Lambda: Tensor, x: _Images, groups: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(L, L_similarity, L_align)` of a projection `[dim, K]`."""
        h = x.F @ Lambda.t()
        similarity = similarity_loss(
            h,
            x.w,
            x.P,
            self.frame,
            include_self=self.include_self,
            normaliser=self.normaliser,
            weights_of=self.weights_of,
            backend=self.backend,
            groups=groups,
            lengths=x.lengths,
        )
        align = alignment_loss(h, x.w, x.g)
        prior = self.strength_prior * mean_of_regions(h.square().sum(-1), x.lengths)
        return similarity + self.alpha * align + prior, similarity, align

    def _start(self, x: _Images) -> Tensor:
        """The least-squares map of pooled features to g, brought to a mean strength."""
        pooled = (x.w[..., None] * x.F).sum(1)
        Lambda = least_squares(pooled, x.g)
        strength = mean_of_regions((x.F @ Lambda.t()).norm(dim=-1), x.lengths)
        return Lambda * (START_STRENGTH / strength.clamp_min(1e-12))

    def _deal(self, x: _Images, generator: torch.Generator) -> list[Tensor] | None:
        """Groups within which images are scored against each other; None: all of them."""
        if self.pairs is None or is_of_all(self.pairs, len(x.F)):
            return None
        return deal(len(x.F), self.pairs, generator)

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        # Before there were pairs, there were batches, of which little depends on what is loaded.
        parameters = {k: x for k, x in settings["parameters"].items() if k != "batch_size"}
        return super()._from_state(arrays, {**settings, "parameters": parameters})

    def _check(
        self, F: Tensor, w: Tensor, P: Similarity, g: Tensor, lengths: Tensor | None
    ) -> None:
        """Refuse what cannot be fitted, named."""
        if F.ndim != 3:
            raise ValueError(f"F must be [N, R, K], got {tuple(F.shape)}")
        N, R, K = F.shape
        dim = self.frame.dim
        for name, x, shape in (("w", w, (N, R)), ("g", g, (N, dim))):
            if x.shape != shape:
                raise ValueError(
                    f"{name} must be {list(shape)} for F {list(F.shape)}, got {list(x.shape)}"
                )
        require_similarity(P, N, self.pairs)
        if dim > K:
            raise ValueError(f"F has K = {K} channels, fewer than the dim = {dim} of the frame")
        bad = (~torch.isfinite(F)).flatten(1).any(1)
        if bool(bad.any()):
            raise ValueError(f"F: image {int(bad.nonzero()[0])} is not finite; leave it out")
        there = F if lengths is None else F[real_regions(lengths, F)]
        if bool((F[:1, :1] == there).all()):
            raise ValueError("F: the features of all regions are alike; is this the right layer?")


class _Images(NamedTuple):
    """What one evaluation of the loss reads."""

    F: Tensor  # [N, R, K]
    w: Tensor  # [N, R]
    P: Similarity
    g: Tensor  # [N, dim]
    lengths: Tensor | None  # [N]

    def part(self, chosen: Tensor) -> _Images:
        """The same of some images, by mask or index; the rows of P sum to 1 again."""
        P: Similarity
        whole = chosen.dtype == torch.bool and bool(chosen.all())  # then there is one copy less
        if isinstance(self.P, Tensor):
            P = among(self.P, chosen)
        else:
            of_all, places = self.P, torch.arange(len(self.F))[chosen]
            P = lambda images: of_all(places[images])  # noqa: E731
        F = self.F if whole else self.F[chosen]
        lengths = None if self.lengths is None else self.lengths[chosen]
        return _Images(F, self.w[chosen], P, self.g[chosen], lengths)


def similarity_loss(
    h: Tensor,
    w: Tensor,
    P: Similarity,
    frame: Frame,
    *,
    include_self: bool = Settings.include_self,
    normaliser: bool = True,
    weights_of: WeightsOf = Settings.weights_of,
    backend: Backend = "auto",
    groups: Sequence[Tensor] | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """`L_similarity = mean_i KL(P[i] || softmax_j T[i])` (Eq. 7-9), a scalar.

    Args:
        h: projected regional features, `[N, R, dim]`.
        w: importance of regions, `[N, R]`.
        P: similarity between the images, see `Similarity`.
        frame: gives the concentration of a strength.
        include_self: whether the pair i = j takes part.
        normaliser: whether log C takes part in T.
        weights_of: whose w and strengths weigh a match, see `RegionalProjection`.
        backend: what matches regions, see `backend.choose`.
        groups: indices of images within which P and Q sum to 1; None: all of them.
        lengths: how many of the R regions each image has, `[N]`; w is 0 beyond.
    """
    strength, orientation = polar(h)
    kappa = frame.kappa(strength)
    if weights_of == "conditioning":
        bias = h.new_zeros(len(h))  # log C of one image is the same for all others
    else:
        # log C + kappa max cos = (log C + kappa) + kappa (max cos - 1), neither of which cancels
        density = log_mode_density(kappa, frame.dim) if normaliser else kappa
        bias = (w * (density - kappa)).sum(1)
    match_kl = choose(backend, h.device, width=frame.dim).ops.match_kl

    def match(
        block: slice, target: Tensor, o: Tensor, n: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        own = None if n is None else n[block]
        exclude = None if include_self else torch.arange(len(o), device=o.device)[block]
        if weights_of == "conditioning":
            return match_kl(
                o[block], o, a[block], b, target, exclude, over="d", q_lengths=own, d_lengths=n
            )
        return match_kl(o, o[block], a, b, target, exclude, q_lengths=n, d_lengths=own)

    def of_block(block: slice, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return match(block, P[block], o, lengths, a, b)  # type: ignore[index]

    def of_group(images: Tensor, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        own = None if lengths is None else lengths[images]
        return match(slice(None), among(P, images), o, own, a, b)

    if groups is None:
        return mean_over_blocks(of_block, len(h), orientation, w * kappa, bias)
    return mean_over_groups(of_group, groups, orientation, w * kappa, bias)


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
