"""The ops as loops over Python floats, for tiny inputs: nothing here is fast or shared."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.cases import LossInputs


def maxsim(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    q_lengths: Tensor | None = None,
    d_lengths: Tensor | None = None,
    empty_score: float = -1e9,
) -> tuple[list[list[float]], list]:
    """T `[B][N]` and the matches `[B][N][R]`, 0 for rows that are not there."""
    images, others = q.double().tolist(), d.double().tolist()
    weights = None if a is None else a.double().tolist()
    scores: list[list[float]] = []
    matches: list[list[list[int]]] = []
    for i, other in enumerate(others):
        there = other if d_lengths is None else other[: int(d_lengths[i])]
        scores.append([])
        matches.append([])
        for j, image in enumerate(images):
            total, winners = 0.0, [0] * len(image)
            for r in range(len(image) if q_lengths is None else int(q_lengths[j])):
                if not there:
                    break
                products = [math.fsum(map(float.__mul__, image[r], target)) for target in there]
                top = max(products)
                winners[r] = products.index(top)
                total += top if weights is None else weights[j][r] * top
            scores[-1].append(total if there else empty_score)
            matches[-1].append(winners)
    return scores, matches


def match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    *,
    over: str = "q",
    **ragged: Any,
) -> float:
    """mean_i KL(P[i] || softmax_j (T + b)[i]), column exclude[i] left out of row i.

    Over "d" T is transposed: a row for each image of q.
    """
    scores, _ = maxsim(q, d, a, **ragged)
    if over == "d":
        scores = [[row[j] for row in scores] for j in range(len(q))]
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
    **options: Any,
) -> float:
    """`match_kl` of q[j, r] = v[j] * f[j, r]."""
    return match_kl(f.double() * v.double().unsqueeze(1), d, a, b, P, exclude, **options)


def assert_scores(
    q: Tensor,
    d: Tensor,
    a: Tensor | None,
    T: Tensor,
    argmax: Tensor,
    truth: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Hold T and argmax against the loops, within the error that rounding can explain.

    A sum of n rounded products misses by at most n u sum |terms| (u half an eps, to first order); a
    matched region may therefore lie below the best one by twice that, and no further. `truth`, T
    and argmax in float64, stands in for the loops where these take too long.
    """
    if truth is None:
        rows, winners = maxsim(q, d, a)
        truth = torch.tensor(rows, dtype=torch.float64), torch.tensor(winners)
    scores, matches = truth
    eps = torch.finfo(T.dtype).eps
    D, R = q.shape[2], q.shape[1]
    values, magnitude = _products(q, d)
    weights = torch.ones(q.shape[:2], dtype=torch.float64) if a is None else a.double()
    slack = (weights.abs() * magnitude.amax(-1)).sum(-1) * (D + R) * eps
    wrong = (T.double() - scores).abs() > slack
    assert not wrong.any(), f"{int(wrong.sum())} scores of {wrong.numel()} outside rounding"
    chosen = values.gather(-1, argmax.unsqueeze(-1)).squeeze(-1)
    best = values.gather(-1, matches.view(argmax.shape).unsqueeze(-1)).squeeze(-1)
    assert (chosen >= best - 2 * D * eps * magnitude.amax(-1)).all()


def rounding_of_gradients(q: Tensor, d: Tensor, a: Tensor, G: Tensor) -> dict[str, Tensor]:
    """What rounding to float32 can do to the gradients of maxsim, from G = dL/dT `[B, N]`.

    A sum of n rounded products misses by at most n u sum |terms|. Where rounding changes a match
    the gradients jump: the inputs must have no two regions that near.
    """
    (N, R, D), B = q.shape, len(d)
    return _gradients(q, d, a, (B + N * R + D) * torch.finfo(torch.float32).eps * G.double().abs())


def rounding_of_match_kl(
    q: Tensor,
    d: Tensor,
    a: Tensor,
    b: Tensor,
    P: Tensor,
    exclude: Tensor | None = None,
    v: Tensor | None = None,
    over: str = "q",
) -> dict[str, Tensor]:
    """What rounding to float32 can do to the loss and to each gradient, by their names.

    To first order: scores miss as `assert_scores` says; a softmax whose logits miss by x misses by
    its own size times exp(2 x) - 1; gradients as `rounding_of_gradients` says.
    """
    a, b, P = (x.double() for x in (a, b, P))
    f, q = q, q.double() if v is None else q.double() * v.double().unsqueeze(1)
    (N, R, D), B = q.shape, len(d)
    eps = torch.finfo(torch.float32).eps
    values, magnitude = _products(q, d)
    T = (a * values.amax(-1)).sum(-1)
    missed = (a.abs() * magnitude.amax(-1)).sum(-1) * (D + R + 1) * eps
    if over == "d":
        T, missed = T.t(), missed.t()
    T, missed = T + b, missed + b.abs() * eps
    if exclude is not None:
        out = exclude.unsqueeze(1) == torch.arange(T.shape[1])
        T, P, missed = (x.masked_fill(out, y) for x, y in ((T, -torch.inf), (P, 0), (missed, 0)))
    log_Q = torch.log_softmax(T, 1)
    Q = log_Q.exp().nan_to_num()
    missed, mass = missed.amax(1, keepdim=True), P.sum(1, keepdim=True)
    terms = torch.xlogy(P, P).abs() + torch.where(P > 0, P * log_Q, 0).abs()
    G = (Q * mass * torch.expm1(2 * missed) + (B + N * R + D) * eps * (Q * mass + P)) / len(T)
    grads = _gradients(q, d, a, G if over == "q" else G.t())
    return grads | {
        "loss": (2 * missed * mass + 4 * eps * terms.sum(1, keepdim=True)).mean(),
        "b": G.sum(0),
        "v": (f.double().abs() * grads["q"]).sum(1),
    }


def assert_loss(
    x: LossInputs, op: str, found: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Hold loss and gradients in float32 or less against those in float64 of the same numbers."""
    v = x.v if op == "match_kl_scaled" else None
    slack = rounding_of_match_kl(x.q, x.d, x.a, x.b, x.P, x.exclude, v, x.over)
    for name, mine in found.items():
        # A gradient is rounded once more where its input is narrower than float32.
        rounded = torch.finfo(mine.dtype).eps * (
            expected[name].abs() + torch.finfo(mine.dtype).tiny
        )
        missed = (mine.double() - expected[name]).abs()
        assert (missed <= slack[name] + rounded).all(), name


def _gradients(q: Tensor, d: Tensor, a: Tensor, G: Tensor) -> dict[str, Tensor]:
    """The gradients of maxsim where every term counts by its magnitude."""
    matched = torch.nn.functional.one_hot(_products(q, d)[0].argmax(-1), d.shape[1]).double()
    q, d, a = (x.double().abs() for x in (q, d, a))
    u = torch.einsum("bn,bnrs,bsk->nrk", G, matched, d)
    dd = torch.einsum("bn,nr,bnrs,nrk->bsk", G, a, matched, q)
    return {"q": a.unsqueeze(2) * u, "d": dd, "a": (q * u).sum(2)}


def _products(q: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """<q[j, r], d[i, s]> as `[B, N, R, S]` in float64, and the sums of the terms' magnitudes."""
    q, d = q.double(), d.double()
    form = "nrk,bsk->bnrs"
    return torch.einsum(form, q, d), torch.einsum(form, q.abs(), d.abs())
