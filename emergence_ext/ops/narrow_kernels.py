"""Triton kernels of the matching, for rows of up to eight channels in float32.

Importing this imports triton. `N` scored images j with `R` regions each are `N R` rows one after
another; of the conditioning images i of a block there are `n`, each with `S` candidates of D
channels. Offsets are of 64 bits wherever images are multiplied.

Each number has one owner, which adds in one order, whatever the block and whichever program runs
first: there are no atomics, and nothing is specialised on what differs between blocks.
"""
# mypy: ignore-errors
# The language is Triton's, of which mypy knows nothing.
# ruff: noqa: RUF005 (the compiler of older tritons knows no unpacking)

from __future__ import annotations

import triton
import triton.language as tl

_kernel = triton.jit(
    do_not_specialize=("n", "pairs", "begin", "end"),
    do_not_specialize_on_alignment=(
        *("d_ptr", "place_ptr", "T_ptr", "P_ptr", "exclude_ptr", "loss_ptr", "dd_ptr"),
    ),
)


@triton.jit
def _load_rows(rows_ptr, at, there, D: tl.constexpr):
    """Give the channels of rows, a vector over the rows for each."""
    channels = ()
    for k in tl.static_range(D):
        channels = channels + (tl.load(rows_ptr + at * D + k, mask=there, other=0.0),)
    return channels


@triton.jit
def _store_rows(rows_ptr, at, there, channels, D: tl.constexpr):
    for k in tl.static_range(D):
        tl.store(rows_ptr + at * D + k, channels[k], mask=there)


@triton.jit
def _product(q, d_ptr, D: tl.constexpr):
    """Multiply rows with the candidate at `d_ptr`, or with one each: always the same operations."""
    x = tl.fma(q[0], tl.load(d_ptr), 0.0)
    for k in tl.static_range(1, D):
        x = tl.fma(q[k], tl.load(d_ptr + k), x)
    return x


@_kernel
def match(
    q_ptr,
    v_ptr,
    d_ptr,
    value_ptr,
    place_ptr,
    rows,
    R,
    n,
    S,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    RUN: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Write the best product of every row with every image, `[n, rows]`, and its place.

    Only the maximum of each run of RUN candidates is compared, and the winning run is searched
    again by the same products bit for bit. S is a multiple of RUN: the last candidate, repeated,
    fills up the last run, and cannot win a tie against itself. Rows are v f where there is a v.
    """
    tiles = tl.cdiv(tl.cast(rows, tl.int64), ROWS)
    tile, group = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    at = tile * ROWS + tl.arange(0, ROWS)
    there = at < rows
    q = _load_rows(q_ptr, at, there, D)
    if v_ptr is not None:
        v = _load_rows(v_ptr, at // R, there, D)
        scaled = ()
        for k in tl.static_range(D):
            scaled = scaled + (q[k] * v[k],)
        q = scaled
    for i in range(group * IMAGES, tl.minimum(group * IMAGES + IMAGES, n)):
        d = d_ptr + tl.cast(i, tl.int64) * S * D
        best = tl.full([ROWS], float("-inf"), tl.float32)
        run = tl.zeros([ROWS], tl.int32)
        for s0 in range(0, S, RUN):
            top = best
            for c in tl.static_range(RUN):
                x = _product(q, d + s0 * D + c * D, D)
                top = tl.maximum(top, x, propagate_nan=tl.PropagateNan.ALL)
            first_nan = (top != top) & (best == best)
            run = tl.where((top > best) | first_nan, s0, run)
            best = top
        out = tl.cast(i, tl.int64) * rows + at
        tl.store(value_ptr + out, best, mask=there)
        if place_ptr is not None:
            place = tl.zeros([ROWS], tl.int32)
            for back in tl.static_range(RUN):
                s = run + (RUN - 1 - back)
                x = _product(q, d + s * D, D)
                place = tl.where((x == best) | (x != x), s, place)
            tl.store(place_ptr + out, place.to(place_ptr.dtype.element_ty), mask=there)


@_kernel
def weigh(value_ptr, a_ptr, T_ptr, pairs, N, R, PAIRS: tl.constexpr, REGIONS: tl.constexpr):
    """Sum the products of each pair (i, j), weighed by a where there is one: `T [n, N]`."""
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    j = pair % N
    total = tl.zeros([PAIRS, REGIONS], tl.float32)
    for r0 in range(0, R, REGIONS):
        r = r0 + tl.arange(0, REGIONS)
        there = (pair < pairs)[:, None] & (r < R)[None, :]
        x = tl.load(value_ptr + (pair * R)[:, None] + r[None, :], mask=there, other=0.0)
        if a_ptr is not None:
            weight = tl.load(a_ptr + (j * R)[:, None] + r[None, :], mask=there, other=0.0)
            total = tl.fma(weight, x, total)
        else:
            total += x
    tl.store(T_ptr + pair, tl.sum(total, axis=1), mask=pair < pairs)


@triton.jit
def _logits(T_ptr, b_ptr, P_ptr, column, j, N, excluded):
    """Give T + b and P of a piece of a row in float64, and which columns are in it."""
    kept = (j < N) & (j != excluded)
    x = tl.load(T_ptr + tl.cast(j, tl.int64) * column, mask=kept, other=float("-inf"))
    x = x.to(tl.float64) + tl.load(b_ptr + j, mask=kept, other=0.0).to(tl.float64)
    return x, tl.load(P_ptr + j, mask=kept, other=0.0).to(tl.float64), kept


@_kernel
def kl(T_ptr, b_ptr, P_ptr, exclude_ptr, loss_ptr, row, column, N, B, COLUMNS: tl.constexpr):
    """Write KL(P[i] || softmax_j (T + b)[i]) of each row, and dloss/dT over its T.

    Rows of T lie `row` apart and its columns `column`, P is of B rows and N columns.
    """
    i = tl.program_id(0)
    T_ptr += i.to(tl.int64) * row
    P_ptr += i.to(tl.int64) * N
    excluded = tl.full([], -1, tl.int64)
    if exclude_ptr is not None:
        excluded = tl.load(exclude_ptr + i)
    at = tl.arange(0, COLUMNS)
    tops = tl.full([COLUMNS], float("-inf"), tl.float64)
    for j0 in range(0, N, COLUMNS):
        x, p, kept = _logits(T_ptr, b_ptr, P_ptr, column, j0 + at, N, excluded)
        tops = tl.maximum(tops, x)
    top = tl.max(tops, axis=0)
    sums = tl.zeros([COLUMNS], tl.float64)
    masses = tl.zeros([COLUMNS], tl.float64)
    losses = tl.zeros([COLUMNS], tl.float64)
    for j0 in range(0, N, COLUMNS):
        x, p, kept = _logits(T_ptr, b_ptr, P_ptr, column, j0 + at, N, excluded)
        sums += tl.where(kept, tl.exp(x - top), 0.0)
        masses += p
        losses += tl.where(p != 0, p * (tl.log(tl.where(p != 0, p, 1.0)) - (x - top)), 0.0)
    total, mass = tl.sum(sums, axis=0), tl.sum(masses, axis=0)
    # A row whose columns are all excluded adds nothing.
    empty = tl.where((excluded >= 0) & (excluded < N), 1, 0) == N
    loss = tl.sum(losses, axis=0) + mass * tl.log(tl.where(empty, 1.0, total))
    tl.store(loss_ptr + i, tl.where(empty, 0.0, loss))
    for j0 in range(0, N, COLUMNS):
        x, p, kept = _logits(T_ptr, b_ptr, P_ptr, column, j0 + at, N, excluded)
        G = tl.where(kept, (tl.exp(x - top) / total * mass - p) / B, 0.0)
        to = T_ptr + tl.cast(j0 + at, tl.int64) * column
        tl.store(to, G.to(tl.float32), mask=j0 + at < N)


@_kernel
def add_bias(G_ptr, db_ptr, row, column, N, n, COLUMNS: tl.constexpr):
    """Add the sum of the n rows of G to db; strides as in `kl`."""
    j = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    db = tl.load(db_ptr + j, mask=j < N, other=0.0)
    for i in range(n):
        db += tl.load(G_ptr + tl.cast(i, tl.int64) * row + j * column, mask=j < N, other=0.0)
    tl.store(db_ptr + j, db, mask=j < N)


@_kernel
def add_scored(
    d_ptr, G_ptr, place_ptr, u_ptr, rows, R, N, n, S, D: tl.constexpr, ROWS: tl.constexpr
):
    """Add `sum_i G[i, j] d[i, place]` to u, images in ascending order."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = at < rows
    j = at // R
    u = _load_rows(u_ptr, at, there, D)
    for i in range(n):
        image = tl.cast(i, tl.int64)
        g = tl.load(G_ptr + image * N + j, mask=there, other=0.0)
        s = tl.load(place_ptr + image * rows + at, mask=there, other=0).to(tl.int64)
        d = _load_rows(d_ptr, image * S + s, there, D)
        added = ()
        for k in tl.static_range(D):
            added = added + (tl.fma(g, d[k], u[k]),)
        u = added
    _store_rows(u_ptr, at, there, u, D)


@_kernel
def conditioning(
    q_ptr,
    a_ptr,
    G_ptr,
    place_ptr,
    dd_ptr,
    rows,
    R,
    begin,
    end,
    N,
    S,
    D: tl.constexpr,
    CANDIDATES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Add to `dd[i, s]` the sum of `G[i, j] a[j, r] q[j, r]` over the rows whose match is s.

    A program for CANDIDATES of an image meets the rows from `begin`, the first of an image of q, to
    `end`, ROWS at a time, each with sums of its own.
    """
    tiles = tl.cdiv(S, CANDIDATES)
    i = (tl.program_id(0) // tiles).to(tl.int64)
    s = tl.program_id(0) % tiles * CANDIDATES + tl.arange(0, CANDIDATES)
    sums = ()
    for _ in tl.static_range(D):
        sums = sums + (tl.zeros([CANDIDATES, ROWS], tl.float32),)
    lane = tl.arange(0, ROWS)
    j, r = begin // R + lane // R, lane % R
    for first in range(tl.cast(begin, tl.int64), end, ROWS):
        at = first + lane
        there = at < end
        place = tl.load(place_ptr + i * rows + at, mask=there, other=0).to(tl.int32)
        hit = s[:, None] == tl.where(there, place, -1)[None, :]
        weight = tl.load(G_ptr + i * N + j, mask=there, other=0.0)
        if a_ptr is not None:
            weight *= tl.load(a_ptr + at, mask=there, other=0.0)
        q = _load_rows(q_ptr, at, there, D)
        added = ()
        for k in tl.static_range(D):
            added = added + (tl.where(hit, sums[k] + (weight * q[k])[None, :], sums[k]),)
        sums = added
        r += ROWS
        j += r // R
        r = r % R
    before = _load_rows(dd_ptr, i * S + s, s < S, D)
    totals = ()
    for k in tl.static_range(D):
        totals = totals + (before[k] + tl.sum(sums[k], axis=1),)
    _store_rows(dd_ptr, i * S + s, s < S, totals, D)
