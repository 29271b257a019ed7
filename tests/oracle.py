"""The ops as loops over Python floats, for tiny inputs: nothing here is fast or shared."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def maxsim(q: Tensor, d: Tensor, a: Tensor | None) -> tuple[list[list[float]], list]:
    """T `[B][N]` and the matches `[B][N][R]`."""
    images, others = q.double().tolist(), d.double().tolist()
    weights = None if a is None else a.double().tolist()
    scores: list[list[float]] = []
    matches: list[list[list[int]]] = []
    for other in others:
        scores.append([])
        matches.append([])
        for j, image in enumerate(images):
            total, winners = 0.0, []
            for r, region in enumerate(image):
                products = [math.fsum(map(float.__mul__, region, target)) for target in other]
                top = max(products)
                winners.append(products.index(top))
                total += top if weights is None else weights[j][r] * top
            scores[-1].append(total)
            matches[-1].append(winners)
    return scores, matches


def match_kl(
    q: Tensor, d: Tensor, a: Tensor, b: Tensor, P: Tensor, exclude: Tensor | None = None
) -> float:
    """mean_i KL(P[i] || softmax_j (T + b)[i]), column exclude[i] left out of row i."""
    scores, _ = maxsim(q, d, a)
    bias, target = b.double().tolist(), P.double().tolist()
    losses = []
    for i, row in enumerate(scores):
        out = -1 if exclude is None else int(exclude[i])
        kept = {j: score + bias[j] for j, score in enumerate(row) if j != out}
        top = max(kept.values())
        log_sum = top + math.log(math.fsum(math.exp(x - top) for x in kept.values()))
        loss = 0.0
        for j, logit in kept.items():
            p = target[i][j]
            if p > 0:
                loss += p * (math.log(p) - (logit - log_sum))
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def match_kl_scaled(
    f: Tensor,
    v: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
) -> float:
    """`match_kl` of q[j, r] = v[j] * f[j, r]."""
    return match_kl(f.double() * v.double().unsqueeze(1), d, a, b, P, exclude)


def assert_scores(q: Tensor, d: Tensor, a: Tensor | None, T: Tensor, argmax: Tensor) -> None:
    """Hold T and argmax against the loops, within the error that rounding can explain.

    A sum of n rounded products misses by at most n u sum |terms| (u half an eps, to first order); a
    matched region may therefore lie below the best one by twice that, and no further.
    """
    scores, matches = maxsim(q, d, a)
    eps = torch.finfo(T.dtype).eps
    D, R = q.shape[2], q.shape[1]
    magnitude = torch.einsum("nrk,bsk->bnrs", q.double().abs(), d.double().abs())
    weights = torch.ones(q.shape[:2], dtype=torch.float64) if a is None else a.double()
    slack = (weights.abs() * magnitude.amax(-1)).sum(-1) * (D + R) * eps
    wrong = (T.double() - torch.tensor(scores, dtype=torch.float64)).abs() > slack
    assert not wrong.any(), f"{int(wrong.sum())} scores of {wrong.numel()} outside rounding"
    values = torch.einsum("nrk,bsk->bnrs", q.double(), d.double())
    chosen = values.gather(-1, argmax.unsqueeze(-1)).squeeze(-1)
    best = values.gather(-1, torch.tensor(matches).view(argmax.shape).unsqueeze(-1)).squeeze(-1)
    assert (chosen >= best - 2 * D * eps * magnitude.amax(-1)).all()
