// Screening by products of bytes (AVX512_VNNI), four to a lane, summed in int32.
//
// The instruction multiplies unsigned bytes by signed ones. Stored candidates become unsigned by
// 128 more, which adds 128 times the sum of a scored row to all of its products: a row's sums begin
// with what takes that away.

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
// The undefined registers of its own header, GCC bug 105593.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "screen_impl.h"

namespace emergence_ext::cpu {
namespace {

constexpr float kLeast = 1e-36f;  // a row of smaller entries counts as zeros: 127 / x stays finite

// Not __m512i, of eight numbers: GCC 12 then keeps all sums in memory.
typedef int32_t integers __attribute__((vector_size(64)));

struct Bytes {
  using Sum = integers;
  static constexpr int kHead = 1;
  static int64_t words(int64_t D) { return (D + 3) / 4; }
  static Sum begin(const uint32_t* packed) {
    return reinterpret_cast<Sum>(_mm512_loadu_si512(packed));
  }
  static Sum add(Sum sum, __m512i q, __m512i d) {
    return reinterpret_cast<Sum>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), d, q));
  }
  static __m512 worth(Sum sum, const float* scale, int64_t s) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum)),
                         _mm512_set1_ps(scale[s]));
  }
  static __m512 widened(const void* stored, int64_t k, __mmask16 there) {
    const __m128i entry = _mm_maskz_loadu_epi8(there, static_cast<const int8_t*>(stored) + k);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(entry));
  }
};

// Every row is scaled so that its largest magnitude is 127, and rounded to nearest even. Which
// scale it is changes no choice among candidates.
void pack(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* packed) {
  const int64_t words = Bytes::words(D);
  for (int64_t x = 0; x < n; x += kTile, packed += (1 + words) * kTile)
    for (int64_t lane = 0; lane < kTile; ++lane) {
      uint32_t* out = packed + lane;
      if (x + lane >= n) {
        for (int64_t w = 0; w <= words; ++w) out[w * kTile] = 0;
        continue;
      }
      const float* const row = rows + (x + lane) * stride;
      __m512 most = _mm512_setzero_ps();
      for (int64_t k = 0; k < D; k += kLanes)
        most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(first(D - k), row + k)));
      const float largest = _mm512_reduce_max_ps(most);
      const __m512 scale = _mm512_set1_ps(largest > kLeast ? 127 / largest : 0);
      __m512i sum = _mm512_setzero_si512();
      for (int64_t k = 0, w = 1; k < D; k += kLanes) {
        const __m512i entry =
            _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(first(D - k), row + k), scale));
        sum = _mm512_add_epi32(sum, entry);
        uint32_t word[4];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(word), _mm512_cvtepi32_epi8(entry));
        for (int64_t here = 0; here < 4 && w <= words; ++here, ++w) out[w * kTile] = word[here];
      }
      out[0] = static_cast<uint32_t>(-128 * _mm512_reduce_add_epi32(sum));
    }
}

const void* prepare(const void* stored, int64_t n, int64_t D, uint32_t* out) {
  const auto* row = static_cast<const char*>(stored);
  auto* byte = reinterpret_cast<char*>(out);
  const __m512i more = _mm512_set1_epi8(static_cast<char>(128));
  const auto bytes = [](int64_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; };
  const int64_t width = 4 * Bytes::words(D);
  if (width == D) {  // one row after the other, without room between them
    D *= n;
    n = 1;
  }
  for (int64_t x = 0; x < n; ++x, row += D, byte += width)
    for (int64_t k = 0; k < D; k += 64) {
      const __m512i found = _mm512_maskz_loadu_epi8(bytes(D - k), row + k);
      _mm512_mask_storeu_epi8(byte + k, bytes((D - k + 3) / 4 * 4), _mm512_xor_si512(found, more));
    }
  return out;
}

float largest(const void*, int64_t, int64_t) { return 128; }

constexpr Screen screen = {Bytes::words, packed_words<Bytes>, pack,    nullptr,
                           prepare,      match<Bytes>,        largest, dot<Bytes>};

}  // namespace

const Screen* avx512_bytes() { return &screen; }

}  // namespace emergence_ext::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace emergence_ext::cpu {
const Screen* avx512_bytes() { return nullptr; }
}  // namespace emergence_ext::cpu
#endif
