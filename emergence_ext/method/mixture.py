"""The mixture that reads projected sample features: its likelihood, EM step and divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emergence_ext.method.frame import Frame, polar, unit_rows
from emergence_ext.method.vmf import log_mode_density


def em_step(g: Tensor, frame: Frame, responsibilities: Tensor | None = None) -> Frame:
    """One step of expectation-maximisation for priors and directions, strengths given (Eq. 15).

    Args:
        g: projected sample features, `[N, dim]`.
        frame: the mixture before the step.
        responsibilities: `[N, C]`, rows sum to 1; the mixture's posterior when left out, and only
            then the likelihood of the mixture cannot fall.
    """
    r = frame.posterior(g) if responsibilities is None else responsibilities
    strength, orientation = polar(g)
    sums = (r * frame.kappa(strength)[:, None]).t() @ orientation  # [C, dim]
    # A category that no image is responsible for keeps its direction.
    directions = torch.where(
        sums.norm(dim=1, keepdim=True) > 1e-12, unit_rows(sums), frame.directions
    )
    priors = r.mean(0).clamp_min(1e-12)
    return replace(frame, priors=priors / priors.sum(), directions=directions)


def divergence(g: Tensor, P: Tensor, frame: Frame) -> Tensor:
    """`mean_i KL[P_i || Q_M(.|x_i)]` (Eq. 6) of `g [N, dim]` and `P [N, C]`, a scalar.

    Differentiable once, in g alone.
    """
    result: Tensor = torch.xlogy(P, P).sum(1).mean() + cross_entropy(g, P, frame)
    return result


def cross_entropy(g: Tensor, P: Tensor, frame: Frame) -> Tensor:
    """`-mean_i sum_y P_i log Q_M(y|x_i)`: of `divergence` what depends on g, a scalar."""
    result: Tensor = _CrossEntropy.apply(g, P, frame)
    return result


def moving_cross_entropy(g: Tensor, responsibilities: Tensor, P: Tensor, frame: Frame) -> Tensor:
    """`cross_entropy` in the frame that an EM step makes of g, whose directions have a gradient.

    As in the authors' code strengths are numbers, in the concentrations as in the cosines.

    Args:
        g: projected sample features, `[N, dim]`.
        responsibilities: `[N, C]`, rows sum to 1.
        P: of the network, `[N, C]`.
        frame: gives the concentration of a strength.
    """
    strength = g.detach().norm(dim=1)
    orientation = g / torch.where(strength == 0, 1, strength)[:, None]
    kappa = frame.kappa.with_slope(strength)[0][:, None]
    directions = unit_rows((responsibilities * kappa).t() @ orientation)
    priors = responsibilities.mean(0).clamp_min(1e-12).log()
    log_Q = torch.log_softmax(priors + kappa * (orientation @ directions.t()), dim=1)
    return -(P * log_Q).sum(1).mean()


class _CrossEntropy(torch.autograd.Function):
    """The gradient in closed form: a fit takes thousands of evaluations, of little each."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, P: Tensor, frame: Frame) -> Tensor:
        strength, orientation = polar(g)
        kappa, slope = frame.kappa.with_slope(strength)
        directions = frame.directions.to(g)
        cosine = orientation @ directions.t()
        log_Q = torch.log_softmax(frame.priors.to(g).log() + kappa[:, None] * cosine, dim=1)
        ctx.save_for_backward(log_Q, P, cosine, kappa, slope, strength, orientation, directions)
        return -(P * log_Q).sum(1).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_Q, P, cosine, kappa, slope, strength, orientation, directions = ctx.saved_tensors
        residual = (log_Q.exp() * P.sum(1, keepdim=True) - P) / len(P)
        along = (residual * cosine).sum(1)  # d / d kappa
        turned = residual @ directions
        turned -= along[:, None] * orientation  # what is left across g
        across = torch.where(strength == 0, 0, kappa / strength.clamp_min(1e-38))
        gradient = (along * slope)[:, None] * orientation + across[:, None] * turned
        return grads[0] * gradient, None, None


def mixture_log_likelihood(g: Tensor, frame: Frame) -> float:
    """`sum_i log p(o_i | l_i)` of the mixture, for features `g [N, dim]` (Eq. 1-3)."""
    strength, orientation = polar(g)
    kappa = frame.kappa(strength)[:, None]
    exponent = kappa * (orientation @ frame.directions.to(g).t() - 1)
    log_p = torch.logsumexp(frame.priors.to(g).log() + exponent, dim=1)
    return float((log_p + log_mode_density(kappa[:, 0], frame.dim)).sum())


def mean_cosine(directions: Tensor) -> float:
    """Mean cosine over all pairs of different directions `[C, dim]`; near 1 they have collapsed."""
    cosines = directions @ directions.t()
    C = len(directions)
    return float((cosines.sum() - cosines.trace()) / (C * (C - 1)))


def spread_directions(
    f: Tensor, P: Tensor, dim: int, generator: torch.Generator | None = None
) -> Tensor:
    """Well-spread unit directions `[C, dim]`, similar categories near each other.

    The P-weighted class means of f, embedded by their principal axes (a generator gives random ones
    instead), then pushed apart on the sphere like charges.
    """
    C = P.shape[1]
    if generator is None:
        means = (P / P.sum(0).clamp_min(1e-12)).t() @ unit_rows(f - f.mean(0))
        U, s, _ = torch.linalg.svd(means - means.mean(0), full_matrices=False)
        x = torch.zeros(C, dim)
        x[:, : min(dim, len(s))] = (U * s)[:, :dim]
        x = x / x.norm() + 1e-3 * torch.eye(C, dim)
    else:
        x = torch.randn(C, dim, generator=generator)
    x = unit_rows(x)
    for _ in range(100):
        difference = x[:, None] - x[None]
        force = difference / (difference.square().sum(-1, keepdim=True) + 1e-2)
        x = unit_rows(x + 0.1 * force.sum(1) / C)
    return x
