"""The linear projection of regional features into the frame (Sec. 3.2, Eq. 7-10, 16, 17)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method.blocks import deal, deal_to_each, is_of_all
from emergence_ext.method.frame import Frame
from emergence_ext.method.lengths import in_order, mean_of_regions, real_regions, to_front
from emergence_ext.method.losses import alignment_loss, matches_of, similarity_loss
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.method.similarity import Similarity, among, require_similarity
from emergence_ext.method.solver import (
    FitStats,
    best_start,
    descend,
    least_squares,
    minimise,
    minimise_in_rounds,
    require_finite,
)
from emergence_ext.ops import choose
from emergence_ext.settings import (
    Backend,
    Matches,
    Settings,
    Solver,
    StrengthScale,
    WeightsOf,
    require_choice,
    require_count,
    require_real,
)
from emergence_ext.store import Estimator

START_STRENGTH: Final = 3.0
SMALLER: Final = 40.0  # what gradient descent divides features by


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
    max_s cos(h[i, r], h[j, s])`: log C is that of one image and cancels, and nothing but the prior
    keeps a strength from growing. Fewer points are right then (docs/reproduction.md).

    Args:
        frame: the frame of the sample features.
        alpha: weight of the alignment.
        include_self: whether the pair i = j takes part; as in the P that is given.
        strength_prior: weight of the mean squared strength; 0 is the paper's loss.
        pairs: other images that each image is scored against in an evaluation: others in each round
            of ten, drawn at random, within which P and Q sum to 1; all when None.
        normaliser: whether log C takes part in T, as printed in Eq. 8.
        max_evals: evaluations of loss and gradient at most. By gradient descent, passes over the
            images, with a step for each.
        tol: stop when ten evaluations lower the loss by less than this share of it (without `pairs`
            only).
        random_state: seed of these.
        weights_of: whose w and strengths weigh a match, see above.
        matches: "projected", the best ones among h at every evaluation; or "raw", looked up once by
            v and raw features, as in the authors' code: memory of N N R numbers of 2 bytes.
        strength_gradient: whether the loss has a gradient through strengths; without one only
            "sgd" can go on, which follows no single loss.
        solver: "lbfgs", or "sgd": as in the authors' code, gradient descent on features / 40 from a
            random start, each step for one image against `pairs` others.
        rate: its learning rate.
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
        strength_prior: float = Settings.region_prior,
        pairs: int | None = Settings.pairs,
        normaliser: bool = Settings.normaliser,
        max_evals: int = Settings.regional_evals,
        tol: float = 1e-3,
        random_state: int = 0,
        weights_of: WeightsOf = Settings.weights_of,
        matches: Matches = Settings.matches,
        strength_gradient: bool = Settings.strength_gradient,
        solver: Solver = Settings.solver,
        rate: float = Settings.regional_rate,
        backend: Backend = "auto",
    ) -> None:
        if not isinstance(frame, Frame):
            raise TypeError(
                f"frame: expected a Frame, as frame_ of samples, got {type(frame).__name__}"
            )
        require_real("alpha", alpha, zero=True)
        require_real("strength_prior", strength_prior, zero=True)
        if pairs is not None:
            require_count("pairs", pairs, 1)
        require_count("max_evals", max_evals, 1)
        require_count("random_state", random_state, 0)
        require_real("rate", rate)
        require_choice("weights_of", weights_of, WeightsOf)
        require_choice("matches", matches, Matches)
        require_choice("solver", solver, Solver)
        if solver == "lbfgs" and not strength_gradient:
            raise ValueError('strength_gradient = False needs solver = "sgd"')
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
        self.matches = matches
        self.strength_gradient = strength_gradient
        self.solver = solver
        self.rate = rate
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
        v: Tensor | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Self:
        """Learn Lambda.

        Args:
            F: regional features, `[N, R, K]`.
            w: importance of regions, `[N, R]`, from `RegionImportance` on all N images.
            P: similarity between the images, `[N, N]`; with `pairs` it need not be there as a
                whole, see `Similarity`.
            g: projected sample features, `[N, dim]`.
            init: projection to start from where it is better than the least-squares map of pooled
                features to g; of as many channels and this dim.
            left_out: indices of images that Lambda does not see, neither as scored nor as
                conditioning ones; the loss among them is reported.
            step: called after each evaluation with their number and the loss.
            v: importance of channels, `[N, K]`, which matches="raw" looks matches up with.
            lengths: how many of the R regions each image has, `[N]`, 1 to R; all when left out.
                Rows beyond may hold anything.
            mask: in place of lengths, which rows are regions, `[N, R]` bool, in any order.

        Raises:
            TypeError: an init of another class.
            ValueError: shapes that do not fit, features that are not finite or all alike, `dim >
                K`, an unknown backend, no v for raw matches, lengths and a mask.
            RuntimeError: a backend that cannot compute here.
        """
        if mask is not None and F.ndim == 3 and w.shape == F.shape[:2]:
            order, lengths = to_front(mask, F, lengths)
            F, w = in_order(F, order), w.gather(1, order)
        matching = choose(self.backend, F.device, width=self.frame.dim)
        F = F.detach()
        if lengths is not None and F.ndim == 3:
            real = real_regions(lengths, F)
            F = F.masked_fill(~real[..., None], 0)
            w = torch.where(real, w, 0) if w.shape == real.shape else w
        self._check(F, w, P, g, v, lengths)
        F = F.float()
        square = F.square()
        square = square.mean() if lengths is None else mean_of_regions(square.mean(-1), lengths)
        size = square.sqrt()  # so that the first step of the solver fits any layer
        images = _Images(F / size, w, P, g, lengths, v)
        kept = torch.ones(len(F), dtype=torch.bool)
        if left_out is not None:
            _check_left_out(left_out, len(F))
            kept[left_out] = False
        seen = self._with_matches(images.part(kept))
        generator = torch.Generator().manual_seed(self.random_state)
        if init is not None:
            self._check_start(init, F.shape[2])
        if self.solver == "sgd":
            Lambda, stats = self._step_by_step(seen, float(size), generator, step)
        else:
            inits = [] if init is None else [[init.Lambda_ * size]]
            Lambda, stats = self._minimise(seen, inits, generator, step)
        with torch.no_grad():
            _, similarity, align = self._loss(Lambda, seen, self._deal(seen, generator))
            stats.terms.update(similarity=float(similarity), align=float(align))
            if left_out is not None:
                others = self._with_matches(images.part(~kept))
                similarity = self._loss(Lambda, others, self._deal(others, generator))[1]
                stats.terms["left_out_similarity"] = float(similarity)
        self.stats_ = replace(stats, backend=matching.name)
        self.Lambda_, self.scale_ = Lambda / size, 1.0
        return self

    def _check_start(self, init: RegionalProjection, K: int) -> None:
        """Refuse a start that is none of this fit."""
        require_kind(init=(init, RegionalProjection))
        if init.Lambda_.shape != (self.frame.dim, K):
            raise ValueError(
                f"init: expected one from K = {K} channels to dim = {self.frame.dim}, got "
                f"{init.Lambda_.shape[1]} and {init.Lambda_.shape[0]}; leave it out to start anew"
            )

    def _minimise(
        self,
        seen: _Images,
        inits: list[list[Tensor]],
        generator: torch.Generator,
        step: Callable[[int, float], None] | None,
    ) -> tuple[Tensor, FitStats]:
        """L-BFGS from the best of the starts, in rounds where each has its own pairs."""
        groups = self._deal(seen, generator)
        starts = [[self._start(seen)], *inits]
        start = best_start(lambda Lambda: self._loss(Lambda, seen, groups)[0], starts)

        def objective(groups: list[Tensor] | None, Lambda: Tensor) -> Tensor:
            return self._loss(Lambda, seen, groups)[0]

        if groups is None:
            (Lambda,), stats = minimise(
                partial(objective, None), start, max_evals=self.max_evals, tol=self.tol, step=step
            )
            return Lambda, stats
        (Lambda,), stats = minimise_in_rounds(
            lambda: partial(objective, self._deal(seen, generator)),
            start,
            max_evals=self.max_evals,
            step=step,
        )
        return Lambda, replace(stats, stopped=f"{stats.stopped}, {self.pairs} an image")

    def _step_by_step(
        self,
        seen: _Images,
        size: float,
        generator: torch.Generator,
        step: Callable[[int, float], None] | None,
    ) -> tuple[Tensor, FitStats]:
        """Gradient descent, a step for each image against some others, as in the authors' code."""
        # Features are those of `seen` times size / 40, and what is learned is for these.
        N, _, K = seen.F.shape
        width = SMALLER / size
        start = (2 * torch.rand(self.frame.dim, K, generator=generator) - 1) / K**0.5
        turns: Iterator[Tensor] = iter(())

        def draw(_: Tensor) -> Callable[[Tensor], Tensor]:
            nonlocal turns
            group = next(turns, None)
            if group is None:
                turns = iter(deal_to_each(N, self.pairs, generator))
                group = next(turns)
            part, alone = seen.part(group), [torch.arange(len(group))]
            return lambda larger: self._loss(larger / width, part, alone, of_first=True)[0]

        (larger,), stats = descend(
            draw, [start.to(seen.F)], steps=self.max_evals * N, rate=self.rate, step=step
        )
        return larger / width, stats

    @takes_numpy
    def transform(self, F: Tensor) -> Tensor:
        """Project regional features `[N, R, K]` to `h = scale_ Lambda F`, `[N, R, dim]`."""
        if F.shape[-1] != self.Lambda_.shape[1]:
            raise ValueError(f"F must end in K = {self.Lambda_.shape[1]}, got {tuple(F.shape)}")
        return F @ (self.scale_ * self.Lambda_).to(F).t()

    def _loss(
        self, Lambda: Tensor, x: _Images, groups: list[Tensor] | None, *, of_first: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(L, L_similarity, L_align)` of a projection `[dim, K]`; of all images, or the first."""
        h = x.F @ Lambda.t()
        similarity = similarity_loss(
            h,
            x.w,
            x.P,
            self.frame,
            include_self=self.include_self,
            normaliser=self.normaliser,
            weights_of=self.weights_of,
            strength_gradient=self.strength_gradient,
            matches=x.matches,
            backend=self.backend,
            groups=groups,
            of_first=of_first,
            lengths=x.lengths,
        )
        own = slice(0, 1) if of_first else slice(None)
        align = alignment_loss(h[own], x.w[own], x.g[own])
        lengths = None if x.lengths is None else x.lengths[own]
        prior = self.strength_prior * mean_of_regions(h.square().sum(-1)[own], lengths)
        return similarity + self.alpha * align + prior, similarity, align

    def _start(self, x: _Images) -> Tensor:
        """The least-squares map of pooled features to g, brought to a mean strength."""
        pooled = (x.w[..., None] * x.F).sum(1)
        Lambda = least_squares(pooled, x.g)
        strength = mean_of_regions((x.F @ Lambda.t()).norm(dim=-1), x.lengths)
        return Lambda * (START_STRENGTH / strength.clamp_min(1e-12))

    def _with_matches(self, x: _Images) -> _Images:
        """The same with the matches that are looked up once."""
        if self.matches == "projected" or x.v is None:
            return x
        return x._replace(matches=matches_of(x.F, x.v, self.weights_of, self.backend, x.lengths))

    def _deal(self, x: _Images, generator: torch.Generator) -> list[Tensor] | None:
        """Groups within which images are scored against each other; None: all of them."""
        if self.pairs is None or is_of_all(self.pairs, len(x.F)):
            return None
        return deal(len(x.F), self.pairs, generator)

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        # Before there were pairs, there were batches, of which little depends on what is loaded.
        parameters = {k: x for k, x in settings["parameters"].items() if k != "batch_size"}
        parameters = {"weights_of": "scored", **parameters}  # as it was before it could be chosen
        return super()._from_state(arrays, {**settings, "parameters": parameters})

    def _check(
        self,
        F: Tensor,
        w: Tensor,
        P: Similarity,
        g: Tensor,
        v: Tensor | None,
        lengths: Tensor | None,
    ) -> None:
        """Refuse what cannot be fitted, named."""
        if F.ndim != 3 or F.numel() == 0:
            raise ValueError(f"F must be [N, R, K], none of them 0, got {tuple(F.shape)}")
        N, R, K = F.shape
        dim = self.frame.dim
        if v is None and self.matches == "raw":
            raise ValueError(
                'v: matches = "raw" are looked up with it; give that of the importance'
            )
        for name, x, shape in (("w", w, (N, R)), ("g", g, (N, dim)), ("v", v, (N, K))):
            if x is not None and x.shape != shape:
                raise ValueError(
                    f"{name} must be {list(shape)} for F {list(F.shape)}, got {list(x.shape)}"
                )
        require_similarity(P, N, self.pairs)
        if dim > K:
            raise ValueError(f"F has K = {K} channels, fewer than the dim = {dim} of the frame")
        bad = (~torch.isfinite(F)).flatten(1).any(1)
        if bool(bad.any()):
            raise ValueError(f"F: image {int(bad.nonzero()[0])} is not finite; leave it out")
        require_finite(w=w, g=g)
        there = F if lengths is None else F[real_regions(lengths, F)]
        if bool((F[:1, :1] == there).all()):
            raise ValueError("F: the features of all regions are alike; is this the right layer?")


def _check_left_out(left_out: Tensor, N: int) -> None:
    """Refuse what are no indices of N images, or leave none to learn from."""
    if left_out.dtype not in (torch.int64, torch.int32, torch.bool):
        raise TypeError(f"left_out: expected indices of images, got {left_out.dtype}")
    if left_out.dtype == torch.bool:
        left_out = left_out.nonzero().flatten()
    if left_out.ndim != 1 or bool(((left_out < -N) | (left_out >= N)).any()):
        raise ValueError(
            f"left_out: expected indices of {N} images, [n], got {list(left_out.shape)} with "
            f"{left_out.max() if left_out.numel() else 'nothing'}"
        )
    if len(left_out.unique()) > N - 2:
        raise ValueError(f"left_out: {len(left_out)} of {N} images leave none to learn from")


class _Images(NamedTuple):
    """What one evaluation of the loss reads."""

    F: Tensor  # [N, R, K]
    w: Tensor  # [N, R]
    P: Similarity
    g: Tensor  # [N, dim]
    lengths: Tensor | None = None  # [N]
    v: Tensor | None = None  # [N, K]
    matches: Tensor | None = None  # [N, N, R]

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
        v = None if self.v is None else self.v[chosen]
        at = None if self.matches is None else self.matches[chosen][:, chosen]
        return _Images(F, self.w[chosen], P, self.g[chosen], lengths, v, at)


def normalise_strengths(
    projections: Mapping[str, RegionalProjection],
    features: Mapping[str, Tensor],
    to: StrengthScale = Settings.strength_scale,
    mask: Tensor | None = None,
) -> None:
    """Bring every layer's mean strength to that of the last layer, or to 1, so that layers compare.

    Sets `scale_` of the projections of one checkpoint, from clean images. A layer of no strength
    keeps its scale.

    Args:
        projections: layer name -> projection, in the order of depth.
        features: layer name -> regional features, `[N, R, K]`.
        to: "last layer", or "own mean": 1, as in the authors' code.
        mask: which regions count, `[N, R]` bool; None: all.

    Raises:
        ValueError: no layers, a layer without features, or another word.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import method
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> learned, features = run.learned(), run.features()
        >>> method.normalise_strengths(learned.regional, features.layers)
        >>> means = [
        ...     p.transform(features.layers[n]).norm(dim=-1).mean()
        ...     for n, p in learned.regional.items()
        ... ]
        >>> bool(torch.isclose(means[0], means[1]))
        True
    """
    require_kind(projections=(projections, Mapping), features=(features, Mapping))
    require_choice("to", to, StrengthScale)
    if not projections or projections.keys() - features.keys():
        raise ValueError(
            f"projections, features: expected both of the same layers, got {list(projections)} and "
            f"{list(features)}"
        )
    strengths = {}
    for name, projection in projections.items():
        projection.scale_ = 1.0
        each = torch.as_tensor(projection.transform(features[name])).norm(dim=-1)
        strengths[name] = float((each if mask is None else each[mask]).mean())
    wanted = strengths[list(projections)[-1]] if to == "last layer" else 1.0
    for name, projection in projections.items():
        if strengths[name] > 0:
            projection.scale_ = wanted / strengths[name]
