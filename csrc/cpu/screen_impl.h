// Screening, written once for the numbers that a machine multiplies several at a time: scored rows
// lie in the lanes, a word of four bytes holds neighbouring columns of a row.
//
// P says what a word holds: the type of sums, `begin(packed)` of a register of rows whose words
// begin behind `kHead` others, `add(sum, q, d)`, and `worth(sum, scale, s)` of candidate s.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace emergence_ext::cpu {
namespace {

constexpr int kVectors = 4, kLanes = 16, kTile = kVectors * kLanes;
constexpr int kCandidates = 6;  // kVectors x kCandidates sums stay in registers
static_assert(kTile == kLargestTile, "the tile of avx512_float32");

using word = uint32_t __attribute__((aligned(1), may_alias));  // rows begin where they begin

__mmask16 first(int64_t n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

// The first `vectors` registers of a tile times `count` candidates from s on.
template <typename P, int vectors, int count>
void match_tile(const uint32_t* packed, const word* d, int64_t words, const float* scale, int64_t s,
                float* value, float* place) {
  typename P::Sum sum[vectors][count];
  for (int v = 0; v < vectors; ++v) {
    const auto begin = P::begin(packed + v * kLanes);
    for (int c = 0; c < count; ++c) sum[v][c] = begin;
  }
  packed += P::kHead * kTile;
  d += s * words;
  for (int64_t w = 0; w < words; ++w) {
    __m512i q[vectors];
    for (int v = 0; v < vectors; ++v) q[v] = _mm512_loadu_si512(packed + w * kTile + v * kLanes);
    for (int c = 0; c < count; ++c) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(d[c * words + w]));
      for (int v = 0; v < vectors; ++v) sum[v][c] = P::add(sum[v][c], q[v], x);
    }
  }
  for (int v = 0; v < vectors; ++v) {
    __m512 best = _mm512_loadu_ps(value + v * kLanes), where = _mm512_loadu_ps(place + v * kLanes);
    for (int c = 0; c < count; ++c) {
      const __m512 found = P::worth(sum[v][c], scale, s + c);
      const __mmask16 larger = _mm512_cmp_ps_mask(found, best, _CMP_GT_OQ);
      best = _mm512_max_ps(found, best);
      where = _mm512_mask_mov_ps(where, larger, _mm512_set1_ps(static_cast<float>(s + c)));
    }
    _mm512_storeu_ps(value + v * kLanes, best);
    _mm512_storeu_ps(place + v * kLanes, where);
  }
}

template <typename P, int vectors, int count>
void match_tiles(const uint32_t* packed, int64_t n, const word* d, int64_t words,
                 const float* scale, int64_t s, float* value, float* place) {
  for (int64_t x = 0; x < n; x += kTile)
    match_tile<P, vectors, count>(packed + x * (P::kHead + words), d, words, scale, s, value + x,
                                  place + x);
}

// All candidates from s on, `count` at a time, then those that are left.
template <typename P, int vectors, int count>
void match_candidates(const uint32_t* packed, int64_t n, const word* d, int64_t S, int64_t words,
                      const float* scale, int64_t s, float* value, float* place) {
  for (; s + count <= S; s += count)
    match_tiles<P, vectors, count>(packed, n, d, words, scale, s, value, place);
  if constexpr (count > 1)
    if (s < S)
      match_candidates<P, vectors, count - 1>(packed, n, d, S, words, scale, s, value, place);
}

// A last tile that is at most half full takes half as many rows by twice as many candidates.
template <typename P>
void match(const uint32_t* packed, int64_t n, const void* d, const float* scale, int64_t S,
           int64_t D, float* value, float* place) {
  const word* const candidates = static_cast<const word*>(d);
  const int64_t words = P::words(D);
  for (int64_t x = 0; x < (n + kTile - 1) / kTile * kTile; ++x) {
    value[x] = -__builtin_inff();
    place[x] = 0;
  }
  const int64_t rest = n % kTile, whole = rest <= kTile / 2 ? n - rest : n;
  if (whole > 0)
    match_candidates<P, kVectors, kCandidates>(packed, whole, candidates, S, words, scale, 0, value,
                                               place);
  if (whole < n)
    match_candidates<P, kVectors / 2, 2 * kCandidates>(packed + whole * (P::kHead + words), rest,
                                                       candidates, S, words, scale, 0,
                                                       value + whole, place + whole);
}

// In the order of `dot` of avx512_float32, so that the same numbers give the same bits however they
// are stored. `P::widened(stored, k, there)`: 16 columns from k on in float32.
template <typename P>
float dot(const float* q, const void* stored, int64_t D) {
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  const auto add = [&](int half, int64_t k, __mmask16 there) {
    const __m512 x = _mm512_maskz_loadu_ps(there, q + k);
    sum[half] = _mm512_fmadd_ps(x, P::widened(stored, k, there), sum[half]);
  };
  int64_t k = 0;
  for (; k + 2 * kLanes <= D; k += 2 * kLanes)
    for (int half = 0; half < 2; ++half) add(half, k + half * kLanes, 0xffff);
  for (; k < D; k += kLanes) add(0, k, first(D - k));
  return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

template <typename P>
int64_t packed_words(int64_t D) {
  return P::kHead + P::words(D);
}

}  // namespace
}  // namespace emergence_ext::cpu
