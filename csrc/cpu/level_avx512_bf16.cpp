// Matching by products of bfloat16 pairs (AVX512_BF16), two to a lane.

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
// The undefined registers of its own header, GCC bug 105593.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace emergence_ext::cpu {
namespace {

constexpr int kVectors = 4, kCandidates = 6, kLanes = 16, kTile = kVectors * kLanes;
static_assert(kTile == kLargestTile, "the tile of avx512_float32");

__mmask16 first(int64_t n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

// Up to 16 pairs of columns of a row, rounded to nearest even; zeros past the end.
__m512i rounded(const float* row, int64_t columns) {
  const __m512 low = _mm512_maskz_loadu_ps(first(columns), row);
  const __m512 high = _mm512_maskz_loadu_ps(first(columns - kLanes), row + kLanes);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

void round_rows(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* out) {
  const int64_t pairs = (D + 1) / 2;
  for (int64_t x = 0; x < n; ++x, out += pairs)
    for (int64_t p = 0; p < pairs; p += kLanes)
      _mm512_mask_storeu_epi32(out + p, first(pairs - p),
                               rounded(rows + x * stride + 2 * p, D - 2 * p));
}

void pack(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* packed) {
  const int64_t pairs = (D + 1) / 2;
  for (int64_t x = 0; x < n; x += kTile, packed += pairs * kTile)
    for (int64_t p = 0; p < pairs; p += kLanes) {
      const int64_t here = pairs - p < kLanes ? pairs - p : kLanes;
      for (int64_t lane = 0; lane < kTile; ++lane) {
        uint32_t pair[kLanes];
        const bool inside = x + lane < n;
        _mm512_storeu_si512(pair, inside ? rounded(rows + (x + lane) * stride + 2 * p, D - 2 * p)
                                         : _mm512_setzero_si512());
        for (int64_t k = 0; k < here; ++k) packed[(p + k) * kTile + lane] = pair[k];
      }
    }
}

template <int count>
void match_tile(const uint32_t* packed, const uint32_t* d, int64_t pairs, int64_t s, float* value,
                float* place) {
  __m512 sum[kVectors][count];
  for (int v = 0; v < kVectors; ++v)
    for (int c = 0; c < count; ++c) sum[v][c] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh q[kVectors];
    for (int v = 0; v < kVectors; ++v)
      q[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(packed + p * kTile + v * kLanes));
    for (int c = 0; c < count; ++c) {
      const auto x =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(d[c * pairs + p])));
      for (int v = 0; v < kVectors; ++v) sum[v][c] = _mm512_dpbf16_ps(sum[v][c], q[v], x);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    __m512 best = _mm512_loadu_ps(value + v * kLanes), where = _mm512_loadu_ps(place + v * kLanes);
    for (int c = 0; c < count; ++c) {
      const __mmask16 larger = _mm512_cmp_ps_mask(sum[v][c], best, _CMP_GT_OQ);
      best = _mm512_max_ps(sum[v][c], best);
      where = _mm512_mask_mov_ps(where, larger, _mm512_set1_ps(static_cast<float>(s + c)));
    }
    _mm512_storeu_ps(value + v * kLanes, best);
    _mm512_storeu_ps(place + v * kLanes, where);
  }
}

template <int count>
void match_tiles(const uint32_t* packed, int64_t n, const uint32_t* d, int64_t pairs, int64_t s,
                 float* value, float* place) {
  for (int64_t x = 0; x < n; x += kTile)
    match_tile<count>(packed + x * pairs, d + s * pairs, pairs, s, value + x, place + x);
}

void match(const uint32_t* packed, int64_t n, const uint32_t* d, int64_t S, int64_t D, float* value,
           float* place) {
  const int64_t pairs = (D + 1) / 2;
  for (int64_t x = 0; x < (n + kTile - 1) / kTile * kTile; ++x) {
    value[x] = -__builtin_inff();
    place[x] = 0;
  }
  int64_t s = 0;
  for (; s + kCandidates <= S; s += kCandidates)
    match_tiles<kCandidates>(packed, n, d, pairs, s, value, place);
  for (; s < S; ++s) match_tiles<1>(packed, n, d, pairs, s, value, place);
}

constexpr PairKernels kernels = {pack, round_rows, match};

}  // namespace

const PairKernels* avx512_pairs() { return &kernels; }

}  // namespace emergence_ext::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace emergence_ext::cpu {
const PairKernels* avx512_pairs() { return nullptr; }
}  // namespace emergence_ext::cpu
#endif
