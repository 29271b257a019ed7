// The kernels, written once for every level: rows of scored regions lie in the lanes, a tile of
// them in registers, and each candidate region is broadcast to all.
//
// The sum of a product runs over columns in ascending order whatever the block, the tile or the
// thread, so that the same row and candidate give the same bits wherever they stand.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace emergence_ext::cpu {
namespace {

constexpr int kCandidates = 6;  // kVectors x kCandidates sums stay in registers

template <typename scalar>
constexpr int kTile = kVectors * Wide<scalar>::lanes;

template <typename scalar>
void pack(const scalar* rows, int64_t stride, int64_t n, int64_t D, scalar* packed) {
  constexpr int64_t tile = kTile<scalar>;
  constexpr int64_t columns = 64 / sizeof(scalar);  // a line of the cache is read once
  for (int64_t x = 0; x < n; x += tile, packed += D * tile) {
    const int64_t here = n - x < tile ? n - x : tile;
    for (int64_t k0 = 0; k0 < D; k0 += columns) {
      const int64_t k1 = k0 + columns < D ? k0 + columns : D;
      for (int64_t lane = 0; lane < here; ++lane)
        for (int64_t k = k0; k < k1; ++k) packed[k * tile + lane] = rows[(x + lane) * stride + k];
      for (int64_t lane = here; lane < tile; ++lane)
        for (int64_t k = k0; k < k1; ++k) packed[k * tile + lane] = 0;
    }
  }
}

// Narrow rows: the whole tile stays in registers while every candidate passes by.
template <typename V, int D>
void match_narrow(const typename V::scalar* packed, int64_t n, const typename V::scalar* d,
                  int64_t d_stride, int64_t S, typename V::scalar* value,
                  typename V::scalar* place) {
  using scalar = typename V::scalar;
  using reg = typename V::reg;
  constexpr int64_t tile = kTile<scalar>;
  const reg one = V::fill(1);
  for (int64_t x = 0; x < n; x += tile, packed += D * tile) {
    reg q[D][kVectors], best[kVectors], where[kVectors];
    for (int k = 0; k < D; ++k)
      for (int v = 0; v < kVectors; ++v) q[k][v] = V::load(packed + k * tile + v * V::lanes);
    for (int v = 0; v < kVectors; ++v) {
      best[v] = V::fill(-__builtin_inff());
      where[v] = V::fill(0);
    }
    reg at = V::fill(0);
    for (int64_t s = 0; s < S; ++s) {
      const scalar* candidate = d + s * d_stride;
      reg sum[kVectors];
      reg x0 = V::fill(candidate[0]);
      for (int v = 0; v < kVectors; ++v) sum[v] = V::multiply(q[0][v], x0);
      for (int k = 1; k < D; ++k) {
        x0 = V::fill(candidate[k]);
        for (int v = 0; v < kVectors; ++v) sum[v] = V::multiply_add(q[k][v], x0, sum[v]);
      }
      for (int v = 0; v < kVectors; ++v) V::take(sum[v], at, best[v], where[v]);
      at = V::add(at, one);
    }
    for (int v = 0; v < kVectors; ++v) {
      V::store(value + x + v * V::lanes, best[v]);
      V::store(place + x + v * V::lanes, where[v]);
    }
  }
}

// Wide rows: the first `vectors` registers of a tile times `count` candidates, then the larger of
// that and what was there.
template <typename V, int vectors, int count>
void match_tile(const typename V::scalar* packed, const typename V::scalar* d, int64_t d_stride,
                int64_t D, int64_t s, typename V::scalar* value, typename V::scalar* place) {
  using scalar = typename V::scalar;
  using reg = typename V::reg;
  constexpr int64_t tile = kTile<scalar>;
  reg sum[vectors][count];
  for (int v = 0; v < vectors; ++v)
    for (int c = 0; c < count; ++c) sum[v][c] = V::fill(0);
  for (int64_t k = 0; k < D; ++k) {
    reg q[vectors];
    for (int v = 0; v < vectors; ++v) q[v] = V::load(packed + k * tile + v * V::lanes);
    for (int c = 0; c < count; ++c) {
      const reg x = V::fill(d[c * d_stride + k]);
      for (int v = 0; v < vectors; ++v) sum[v][c] = V::multiply_add(q[v], x, sum[v][c]);
    }
  }
  for (int v = 0; v < vectors; ++v) {
    reg best = V::load(value + v * V::lanes), where = V::load(place + v * V::lanes);
    for (int c = 0; c < count; ++c)
      V::take(sum[v][c], V::fill(static_cast<scalar>(s + c)), best, where);
    V::store(value + v * V::lanes, best);
    V::store(place + v * V::lanes, where);
  }
}

template <typename V, int vectors, int count>
void match_tiles(const typename V::scalar* packed, int64_t n, const typename V::scalar* d,
                 int64_t d_stride, int64_t D, int64_t s, typename V::scalar* value,
                 typename V::scalar* place) {
  constexpr int64_t tile = kTile<typename V::scalar>;
  for (int64_t x = 0; x < n; x += tile)
    match_tile<V, vectors, count>(packed + x * D, d + s * d_stride, d_stride, D, s, value + x,
                                  place + x);
}

// The candidates that are left, fewer than `count`.
template <typename V, int vectors, int count>
void match_rest(int64_t left, const typename V::scalar* packed, int64_t n,
                const typename V::scalar* d, int64_t d_stride, int64_t D, int64_t s,
                typename V::scalar* value, typename V::scalar* place) {
  if constexpr (count > 1) {
    if (left == count - 1)
      match_tiles<V, vectors, count - 1>(packed, n, d, d_stride, D, s, value, place);
    else
      match_rest<V, vectors, count - 1>(left, packed, n, d, d_stride, D, s, value, place);
  }
}

// All candidates, as many at a time as there are registers for sums.
template <typename V, int vectors>
void match_candidates(const typename V::scalar* packed, int64_t n, const typename V::scalar* d,
                      int64_t d_stride, int64_t S, int64_t D, typename V::scalar* value,
                      typename V::scalar* place) {
  constexpr int count = kCandidates * kVectors / vectors;
  int64_t s = 0;
  for (; s + count <= S; s += count)
    match_tiles<V, vectors, count>(packed, n, d, d_stride, D, s, value, place);
  match_rest<V, vectors, count>(S - s, packed, n, d, d_stride, D, s, value, place);
}

// A last tile that is at most half full (all there is of a short query) takes half as many rows by
// twice as many candidates.
template <typename V>
void match_wide(const typename V::scalar* packed, int64_t n, const typename V::scalar* d,
                int64_t d_stride, int64_t S, int64_t D, typename V::scalar* value,
                typename V::scalar* place) {
  constexpr int64_t tile = kTile<typename V::scalar>;
  for (int64_t x = 0; x < (n + tile - 1) / tile * tile; ++x) {
    value[x] = -__builtin_inff();
    place[x] = 0;
  }
  const int64_t rest = n % tile, whole = rest <= tile / 2 ? n - rest : n;
  if (whole > 0) match_candidates<V, kVectors>(packed, whole, d, d_stride, S, D, value, place);
  if (whole < n)
    match_candidates<V, kVectors / 2>(packed + whole * D, rest, d, d_stride, S, D, value + whole,
                                      place + whole);
}

template <typename scalar>
void match(const scalar* packed, int64_t n, const scalar* d, int64_t d_stride, int64_t S, int64_t D,
           scalar* value, scalar* place) {
  using V = Wide<scalar>;
  switch (D) {
    case 1:
      return match_narrow<V, 1>(packed, n, d, d_stride, S, value, place);
    case 2:
      return match_narrow<V, 2>(packed, n, d, d_stride, S, value, place);
    case 3:
      return match_narrow<V, 3>(packed, n, d, d_stride, S, value, place);
    case 4:
      return match_narrow<V, 4>(packed, n, d, d_stride, S, value, place);
    case 5:
      return match_narrow<V, 5>(packed, n, d, d_stride, S, value, place);
    case 6:
      return match_narrow<V, 6>(packed, n, d, d_stride, S, value, place);
    case 7:
      return match_narrow<V, 7>(packed, n, d, d_stride, S, value, place);
    case 8:
      return match_narrow<V, 8>(packed, n, d, d_stride, S, value, place);
    default:
      return match_wide<V>(packed, n, d, d_stride, S, D, value, place);
  }
}

// Magnitudes are in the order of their bits without the sign, infinity and NaN above all others;
// the maximum of integers is one that every compiler vectorises.
template <typename scalar, typename bits>
scalar largest(const scalar* rows, int64_t stride, int64_t n, int64_t D) {
  constexpr bits unsigned_bits = static_cast<bits>(~(bits{1} << (8 * sizeof(bits) - 1)));
  if (stride == D) {
    D *= n;
    n = 1;
  }
  bits most = 0;
  for (int64_t x = 0; x < n; ++x, rows += stride)
    for (int64_t k = 0; k < D; ++k) {
      bits magnitude;
      std::memcpy(&magnitude, rows + k, sizeof(scalar));
      magnitude &= unsigned_bits;
      most = magnitude > most ? magnitude : most;
    }
  scalar found;
  std::memcpy(&found, &most, sizeof(scalar));
  return found;
}

template <typename scalar, typename index>
void copy_places(const scalar* place, int64_t n, void* argmax) {
  index* out = static_cast<index*>(argmax);
  // By way of int32, which every level converts to and from a register at a time.
  for (int64_t x = 0; x < n; ++x) out[x] = static_cast<index>(static_cast<int32_t>(place[x]));
}

template <typename scalar>
void store_places(const scalar* place, int64_t n, void* argmax, int size) {
  switch (size) {
    case 1:
      return copy_places<scalar, uint8_t>(place, n, argmax);
    case 4:
      return copy_places<scalar, int32_t>(place, n, argmax);
    default:
      return copy_places<scalar, int64_t>(place, n, argmax);
  }
}

#if defined(EMERGENCE_AVX512) || defined(EMERGENCE_AVX2)
// In registers that every level above the generic one has.
void widen_halves(const void* halves, int64_t n, float* out) {
  constexpr int lanes = 8;
  const auto* half = static_cast<const uint16_t*>(halves);
  int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const auto* const from = reinterpret_cast<const __m128i*>(half + k);
    _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128(from)));
  }
  if (k == n) return;
  uint16_t last[lanes] = {};
  float widened[lanes];
  std::memcpy(last, half + k, (n - k) * sizeof(uint16_t));
  _mm256_storeu_ps(widened, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i*>(last))));
  std::memcpy(out + k, widened, (n - k) * sizeof(float));
}
#endif

template <typename scalar>
constexpr void (*widen())(const void*, int64_t, scalar*) {
#if defined(EMERGENCE_AVX512) || defined(EMERGENCE_AVX2)
  if constexpr (sizeof(scalar) == sizeof(float)) return widen_halves;
#endif
  return nullptr;
}

// Halves are added to halves, in the same order at any width.
template <typename V>
typename V::scalar sum_lanes(typename V::reg x) {
  typename V::scalar lane[V::lanes];
  V::store(lane, x);
  for (int half = V::lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

template <typename scalar>
scalar dot(const scalar* x, const scalar* y, int64_t n) {
  using V = Wide<scalar>;
  typename V::reg sum[2] = {V::fill(0), V::fill(0)};
  int64_t k = 0;
  for (; k + 2 * V::lanes <= n; k += 2 * V::lanes)
    for (int half = 0; half < 2; ++half)
      sum[half] = V::multiply_add(V::load(x + k + half * V::lanes),
                                  V::load(y + k + half * V::lanes), sum[half]);
  for (; k < n; k += V::lanes) {
    const int here = static_cast<int>(n - k < V::lanes ? n - k : V::lanes);
    sum[0] = V::multiply_add(V::load_first(x + k, here), V::load_first(y + k, here), sum[0]);
  }
  return sum_lanes<V>(V::add(sum[0], sum[1]));
}

// `parts` registers hold the columns of a row. Rows of d and dd are scratch, filled up to whole
// registers; the caller's own rows end where they end.
struct ScoredRows {
  template <typename V, int parts, typename index>
  static void run(const ScoredGradient<typename V::scalar>& g) {
    using scalar = typename V::scalar;
    using reg = typename V::reg;
    const int tail = g.width - (parts - 1) * V::lanes;
    const auto load = [&](const scalar* p, int part) {
      p += part * V::lanes;
      return part + 1 < parts || tail == V::lanes ? V::load(p) : V::load_first(p, tail);
    };
    const auto store = [&](scalar* p, int part, reg x) {
      p += part * V::lanes;
      if (part + 1 < parts || tail == V::lanes)
        V::store(p, x);
      else
        V::store_first(p, x, tail);
    };
    reg G[kGroup], dv[parts], v[parts];
    for (int i = 0; i < kGroup; ++i) G[i] = V::fill(*g.G[i]);
    const index* argmax[kGroup];
    for (int i = 0; i < kGroup; ++i) argmax[i] = static_cast<const index*>(g.argmax[i]);
    for (int part = 0; part < parts; ++part) {
      v[part] = g.v ? load(g.v, part) : V::fill(1);
      dv[part] = V::fill(0);
    }
    for (int64_t r = 0; r < g.R; ++r) {
      reg u[parts];
      for (int part = 0; part < parts; ++part) u[part] = V::fill(0);
      for (int i = 0; i < kGroup; ++i) {
        const int64_t s = argmax[i][r];
        const scalar* d = g.d + (i * g.S + s) * g.d_stride;
        for (int part = 0; part < parts; ++part)
          u[part] = V::multiply_add(G[i], V::load(d + part * V::lanes), u[part]);
      }
      const reg a = V::fill(g.a[r]);
      if (g.dq) {
        scalar* dq = g.dq + r * g.dq_stride;
        for (int part = 0; part < parts; ++part)
          store(dq, part, V::multiply_add(a, u[part], load(dq, part)));
      }
      if (!g.da && !g.dv) continue;
      reg product = V::fill(0);
      for (int part = 0; part < parts; ++part) {
        const reg qu = V::multiply(load(g.q + r * g.q_stride, part), u[part]);
        dv[part] = V::multiply_add(a, qu, dv[part]);
        product = V::multiply_add(v[part], qu, product);
      }
      if (g.da) g.da[r] += sum_lanes<V>(product);
    }
    if (g.dv)
      for (int part = 0; part < parts; ++part)
        store(g.dv, part, V::add(dv[part], load(g.dv, part)));
  }
};

struct ConditioningRows {
  template <typename V, int parts, typename index>
  static void run(const ConditioningGradient<typename V::scalar>& g) {
    g.n == kGroup ? rows<V, parts, index, kGroup>(g) : rows<V, parts, index, 0>(g);
  }

  // `fixed` images, or g.n where that is 0.
  template <typename V, int parts, typename index, int fixed>
  static void rows(const ConditioningGradient<typename V::scalar>& g) {
    using reg = typename V::reg;
    const int n = fixed ? fixed : g.n;
    const int tail = g.width - (parts - 1) * V::lanes;
    reg G[kGroup];
    const index* argmax[kGroup];
    for (int i = 0; i < n; ++i) {
      G[i] = V::fill(*g.G[i]);
      argmax[i] = static_cast<const index*>(g.argmax[i]);
    }
    for (int64_t r = 0; r < g.R; ++r) {
      const auto* q = g.q + r * g.q_stride;
      const reg a = V::fill(g.a[r]);
      reg weighted[parts];
      for (int part = 0; part < parts; ++part, q += V::lanes)
        weighted[part] = V::multiply(
            a, part + 1 < parts || tail == V::lanes ? V::load(q) : V::load_first(q, tail));
      for (int i = 0; i < n; ++i) {
        auto* dd = g.dd + (i * g.S + argmax[i][r]) * g.dd_stride;
        for (int part = 0; part < parts; ++part, dd += V::lanes)
          V::store(dd, V::multiply_add(G[i], weighted[part], V::load(dd)));
      }
    }
  }
};

template <typename Rows, typename V, int parts, typename gradient>
void by_parts(const gradient& g, int wanted) {
  if (wanted == parts)
    g.compact ? Rows::template run<V, parts, uint8_t>(g) : Rows::template run<V, parts, int32_t>(g);
  else if constexpr (parts > 1)
    by_parts<Rows, V, parts - 1>(g, wanted);
}

// Narrow rows take the few narrow registers that hold them, wide ones a column block of wide ones.
template <typename Rows, typename scalar, typename gradient>
void by_width(const gradient& g) {
  using N = Narrow<scalar>;
  using W = Wide<scalar>;
  if (g.width <= kNarrow)
    by_parts<Rows, N, kNarrow / N::lanes>(g, (g.width + N::lanes - 1) / N::lanes);
  else
    by_parts<Rows, W, kParts>(g, (g.width + W::lanes - 1) / W::lanes);
}

template <typename scalar>
struct Bits {
  using type = int32_t;
};
template <>
struct Bits<double> {
  using type = int64_t;
};
template <typename scalar>
using bits_of = typename Bits<scalar>::type;

template <typename scalar>
constexpr Kernels<scalar> make_kernels() {
  return {Wide<scalar>::lanes,
          static_cast<int>(kTile<scalar>),
          kParts * Wide<scalar>::lanes,
          pack<scalar>,
          match<scalar>,
          largest<scalar, bits_of<scalar>>,
          store_places<scalar>,
          widen<scalar>(),
          dot<scalar>,
          by_width<ScoredRows, scalar, ScoredGradient<scalar>>,
          by_width<ConditioningRows, scalar, ConditioningGradient<scalar>>};
}

}  // namespace
}  // namespace emergence_ext::cpu
