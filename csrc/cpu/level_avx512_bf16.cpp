// Screening by products of bfloat16 pairs (AVX512_BF16), two to a lane, summed in float32.

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
#include "screen_impl.h"

namespace emergence_ext::cpu {
namespace {

struct Pairs {
  using Sum = __m512;
  static constexpr int kHead = 0;
  static int64_t words(int64_t D) { return (D + 1) / 2; }
  static Sum begin(const uint32_t*) { return _mm512_setzero_ps(); }
  static Sum add(Sum sum, __m512i q, __m512i d) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(q), reinterpret_cast<__m512bh>(d));
  }
  static __m512 worth(Sum sum, const float*, int64_t) { return sum; }
  static __m512 widened(const void* stored, int64_t k, __mmask16 there) {
    const auto* const columns = static_cast<const uint16_t*>(stored) + k;
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, columns));
    return _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
  }
};

// Up to 16 pairs of columns of a row, rounded to nearest even; zeros past the end.
__m512i rounded(const float* row, int64_t columns) {
  const __m512 low = _mm512_maskz_loadu_ps(first(columns), row);
  const __m512 high = _mm512_maskz_loadu_ps(first(columns - kLanes), row + kLanes);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

void round_rows(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* out) {
  const int64_t pairs = Pairs::words(D);
  for (int64_t x = 0; x < n; ++x, out += pairs)
    for (int64_t p = 0; p < pairs; p += kLanes)
      _mm512_mask_storeu_epi32(out + p, first(pairs - p),
                               rounded(rows + x * stride + 2 * p, D - 2 * p));
}

void pack(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* packed) {
  const int64_t pairs = Pairs::words(D);
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

// Stored pairs of an even width are words already.
const void* prepare(const void* stored, int64_t n, int64_t D, uint32_t* out) {
  if (D % 2 == 0) return stored;
  const auto* row = static_cast<const uint16_t*>(stored);
  const int64_t pairs = Pairs::words(D);
  for (int64_t x = 0; x < n; ++x, row += D)
    for (int64_t p = 0; p < pairs; ++p) {
      const uint32_t second = 2 * p + 1 < D ? row[2 * p + 1] : 0;
      *out++ = row[2 * p] | second << 16;
    }
  return out - n * pairs;
}

// As magnitudes of 16 bits, whose order is that of the integers.
float largest(const void* stored, int64_t n, int64_t D) {
  constexpr int64_t numbers = 32;  // of a register
  const auto* column = static_cast<const uint16_t*>(stored);
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  __m512i most = _mm512_setzero_si512();
  const auto take = [&](__m512i found) {
    most = _mm512_max_epu16(most, _mm512_and_si512(found, magnitude));
  };
  int64_t k = 0;
  for (; k + numbers <= n * D; k += numbers) take(_mm512_loadu_si512(column + k));
  if (k < n * D) take(_mm512_maskz_loadu_epi16((__mmask32{1} << (n * D - k)) - 1, column + k));
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(most));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(most, 1));
  const uint32_t bits = _mm512_reduce_max_epu32(_mm512_max_epu32(low, high)) << 16;
  float found;
  __builtin_memcpy(&found, &bits, sizeof(found));
  return found;
}

constexpr Screen screen = {Pairs::words, packed_words<Pairs>, pack,    round_rows,
                           prepare,      match<Pairs>,        largest, dot<Pairs>};

}  // namespace

const Screen* avx512_pairs() { return &screen; }

}  // namespace emergence_ext::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace emergence_ext::cpu {
const Screen* avx512_pairs() { return nullptr; }
}  // namespace emergence_ext::cpu
#endif
