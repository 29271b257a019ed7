"""Images with different numbers of regions: what is no region changes nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.method import RegionalProjection, RegionImportance, SampleProjection
from emergence_ext.method.similarity import image_similarity
from tests.planted import planted

DATA = planted(16)
N, R, K = DATA.F.shape
P = image_similarity(DATA.z, 8.0)
LENGTHS = torch.randint(2, R + 1, (N,), generator=torch.Generator().manual_seed(0))

either = pytest.mark.parametrize(
    ("weights_of", "backend", "pairs"),
    [("scored", "auto", 5), ("conditioning", "auto", None), ("conditioning", "reference", 5)],
)


def filled(lengths: Tensor, room: float) -> Tensor:
    """Features with `room` wherever there is no region."""
    padding = torch.arange(R) >= lengths[:, None]
    return DATA.F.masked_fill(padding[..., None], room)


def importance(F: Tensor, lengths: Tensor | None, **options: Any) -> RegionImportance:
    return RegionImportance(max_evals=4, **options).fit(F, P, lengths=lengths)


@cache
def sample_projection() -> SampleProjection:
    return SampleProjection().fit(DATA.f, DATA.z)


def projection(F: Tensor, w: Tensor, lengths: Tensor | None, **options: Any) -> RegionalProjection:
    samples = sample_projection()
    fit = RegionalProjection(samples.frame_, max_evals=4, **options)
    return fit.fit(
        F, w, P, samples.transform(DATA.f), left_out=torch.tensor([3, 7]), lengths=lengths
    )


@either
def test_room_may_hold_anything(pairs: int | None, backend: str, weights_of: str) -> None:
    options = {"weights_of": weights_of, "backend": backend, "pairs": pairs}
    fits = [importance(filled(LENGTHS, room), LENGTHS, **options) for room in (0, torch.nan)]
    assert torch.equal(fits[0].w_, fits[1].w_) and torch.equal(fits[0].v_, fits[1].v_)
    padding = torch.arange(R) >= LENGTHS[:, None]
    assert not fits[0].w_[padding].any() and (fits[0].w_[~padding] > 0).float().mean() > 0.9
    torch.testing.assert_close(fits[0].w_.sum(1), torch.ones(N))
    assert fits[0].stats_.losses[-1] < fits[0].stats_.losses[0]
    w = fits[0].w_
    found = [
        projection(filled(LENGTHS, room), w.masked_fill(padding, room), LENGTHS, **options)
        for room in (0, torch.nan)
    ]
    assert torch.equal(found[0].Lambda_, found[1].Lambda_)
    assert found[0].stats_.terms == found[1].stats_.terms


@either
def test_equal_lengths_are_smaller_images(pairs: int | None, backend: str, weights_of: str) -> None:
    options = {"weights_of": weights_of, "backend": backend, "pairs": pairs}
    L = R - 1
    equal = torch.full((N,), L, dtype=torch.int32)
    mine = importance(filled(equal, torch.nan), equal, **options)
    alone = importance(DATA.F[:, :L], None, **options)
    torch.testing.assert_close(mine.w_[:, :L], alone.w_, rtol=1e-3, atol=1e-5)
    w = alone.w_.new_zeros(N, R)
    w[:, :L] = alone.w_
    found = projection(filled(equal, torch.nan), w, equal, **options)
    expected = projection(DATA.F[:, :L], alone.w_, None, **options)
    torch.testing.assert_close(found.Lambda_, expected.Lambda_, rtol=1e-3, atol=1e-5)
    assert found.stats_.terms == pytest.approx(expected.stats_.terms, rel=1e-3)


def test_a_mask_says_it_of_rows_in_any_order() -> None:
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(R, generator=generator) for _ in range(N)])
    real = torch.arange(R) < LENGTHS[:, None]
    back = order.argsort(1)  # row r of an image is at back[r]; those that count keep their order
    mask = torch.zeros_like(real)
    for i, n in enumerate(LENGTHS.tolist()):
        places = back[i, :n].sort().values
        back[i, :n], back[i, n:] = places, back[i, n:]
        mask[i, places] = True
    F = torch.full_like(DATA.F, torch.nan)
    F.scatter_(1, back[..., None].expand_as(F), filled(LENGTHS, torch.nan))
    front, spread = importance(DATA.F, LENGTHS), RegionImportance(max_evals=4).fit(F, P, mask=mask)
    assert torch.equal(spread.w_.gather(1, back), front.w_) and torch.equal(spread.v_, front.v_)
    g, frame = sample_projection().transform(DATA.f), sample_projection().frame_
    found = RegionalProjection(frame, max_evals=4).fit(F, spread.w_, P, g, mask=mask)
    expected = RegionalProjection(frame, max_evals=4).fit(DATA.F, front.w_, P, g, lengths=LENGTHS)
    assert torch.equal(found.Lambda_, expected.Lambda_)
    for wrong, kind, says in (
        (mask.float(), TypeError, "mask must be bool on cpu, got torch.float32"),
        (mask[:, 1:], ValueError, rf"mask must be \[{N}, {R}\]"),
        (mask & (torch.arange(N) != 2)[:, None], ValueError, "no region of image 2 counts"),
    ):
        with pytest.raises(kind, match=says):
            RegionImportance().fit(F, P, mask=wrong)
    with pytest.raises(ValueError, match="either lengths or a mask"):
        RegionImportance().fit(F, P, lengths=LENGTHS, mask=mask)


@pytest.mark.parametrize(
    ("lengths", "kind", "says"),
    [
        (torch.ones(N), TypeError, "lengths must be int64 or int32 on cpu"),
        (torch.ones(N - 1, dtype=torch.int64), ValueError, rf"lengths must be \[{N}\]"),
        (
            torch.zeros(N, dtype=torch.int64),
            ValueError,
            rf"lengths must lie in \[1, {R}\].* from 0",
        ),
        (torch.full((N,), R + 1), ValueError, rf"lengths must lie in \[1, {R}\].* to {R + 1}"),
    ],
    ids=["float", "few", "none", "many"],
)
def test_wrong_lengths_are_named(lengths: Tensor, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        importance(DATA.F, lengths)
    with pytest.raises(kind, match=says):
        projection(DATA.F, torch.full((N, R), 1 / R), lengths)
