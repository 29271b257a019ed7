// One register of numbers, at the level of the file that includes this: the few operations that the
// kernels need. Everything has internal linkage, so that no function compiled for one instruction
// set can stand in for another's.
//
// `take` keeps the larger of `x` and `best` and where it was found; ties keep what was there.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(EMERGENCE_AVX512) || defined(EMERGENCE_AVX2)
#include <immintrin.h>
#endif

namespace emergence_ext::cpu {
namespace {

// 16 bytes, which every machine has: the generic level's register, and at every level the one for
// gradients of narrow rows. A NaN is taken and stays, so that no sum it touches looks plausible.
template <typename scalar_t>
struct Narrow;

template <typename scalar_t, typename reg_t, typename bits_t>
struct NarrowRegister {
  using scalar = scalar_t;
  using reg = reg_t;
  static constexpr int lanes = sizeof(reg) / sizeof(scalar);

  static reg load(const scalar* p) {
    reg x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
  static void store(scalar* p, reg x) { std::memcpy(p, &x, sizeof(x)); }
  static reg load_first(const scalar* p, int n) {
    reg x{};
    for (int lane = 0; lane < n; ++lane) x[lane] = p[lane];
    return x;
  }
  static void store_first(scalar* p, reg x, int n) {
    for (int lane = 0; lane < n; ++lane) p[lane] = x[lane];
  }
  static reg fill(scalar x) { return x - reg{}; }
  static reg multiply_add(reg x, reg y, reg z) { return x * y + z; }
  static reg multiply(reg x, reg y) { return x * y; }
  static reg add(reg x, reg y) { return x + y; }
  static void take(reg x, reg place, reg& best, reg& where) {
    const bits_t larger = (x > best) | ((x != x) & (best == best));
    best = larger ? x : best;
    where = larger ? place : where;
  }
};

typedef float floats __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(16)));
typedef int32_t float_bits __attribute__((vector_size(16)));
typedef int64_t double_bits __attribute__((vector_size(16)));
template <>
struct Narrow<float> : NarrowRegister<float, floats, float_bits> {};
template <>
struct Narrow<double> : NarrowRegister<double, doubles, double_bits> {};

// Wide<scalar>: the level's own register. `kVectors` of them make the rows of a tile, `kParts` the
// columns of a gradient, as many as the level has names for.
template <typename scalar>
struct Wide : Narrow<scalar> {};

#if defined(EMERGENCE_AVX512)

constexpr int kVectors = 4;
constexpr int kParts = 8;

template <>
struct Wide<float> {
  using scalar = float;
  using reg = __m512;
  static constexpr int lanes = 16;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg x) { _mm512_storeu_ps(p, x); }
  static reg load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, reg x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static reg fill(float x) { return _mm512_set1_ps(x); }
  static reg multiply_add(reg x, reg y, reg z) { return _mm512_fmadd_ps(x, y, z); }
  static reg multiply(reg x, reg y) { return _mm512_mul_ps(x, y); }
  static reg add(reg x, reg y) { return _mm512_add_ps(x, y); }
  static void take(reg x, reg place, reg& best, reg& where) {
    const __mmask16 larger = _mm512_cmp_ps_mask(x, best, _CMP_GT_OQ);
    best = _mm512_max_ps(x, best);
    where = _mm512_mask_mov_ps(where, larger, place);
  }
};

#elif defined(EMERGENCE_AVX2)

constexpr int kVectors = 2;
constexpr int kParts = 4;

template <>
struct Wide<float> {
  using scalar = float;
  using reg = __m256;
  static constexpr int lanes = 8;

  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg x) { _mm256_storeu_ps(p, x); }
  static reg load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, reg x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static reg fill(float x) { return _mm256_set1_ps(x); }
  static reg multiply_add(reg x, reg y, reg z) { return _mm256_fmadd_ps(x, y, z); }
  static reg multiply(reg x, reg y) { return _mm256_mul_ps(x, y); }
  static reg add(reg x, reg y) { return _mm256_add_ps(x, y); }
  static void take(reg x, reg place, reg& best, reg& where) {
    where = _mm256_blendv_ps(where, place, _mm256_cmp_ps(x, best, _CMP_GT_OQ));
    best = _mm256_max_ps(x, best);
  }
};

#else

constexpr int kVectors = 2;
constexpr int kParts = 4;

#endif

}  // namespace
}  // namespace emergence_ext::cpu
