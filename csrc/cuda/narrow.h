// Rows of up to kNarrow channels: how candidates lie in shared memory, and their products.
#pragma once

#include "arithmetic.h"
#include "device.h"
#include "matching.h"

namespace emergence_ext::cuda {

template <typename scalar, int D>
struct alignas((D > 2 ? 16 : 8)) Candidate {
  scalar x[D <= 2 ? 2 : D <= 4 ? 4 : 8];
};

// Always the same operations in the same order.
template <typename scalar, int D>
__device__ __forceinline__ scalar product(const scalar (&q)[D], const Candidate<scalar, D>& d) {
  scalar sum = 0;
#pragma unroll
  for (int k = 0; k < D; ++k) sum = fma(q[k], d.x[k], sum);
  return sum;
}

// Candidate s from global memory.
template <typename scalar, int D>
__device__ __forceinline__ Candidate<scalar, D> candidate(const scalar* d, int s) {
  Candidate<scalar, D> found;
#pragma unroll
  for (int k = 0; k < D; ++k) found.x[k] = d[int64_t{s} * D + k];
  return found;
}

// The place of a maximum that is NaN: rarely asked for, so from global memory.
template <typename scalar, int D>
__device__ __forceinline__ int first_nan(const scalar (&q)[D], const scalar* d, int S) {
  int s = 0;
  for (; s < S - 1; ++s) {
    const scalar x = product<scalar, D>(q, candidate<scalar, D>(d, s));
    if (x != x) break;
  }
  return s;
}

// Calls run(Width<D>) with the width of narrow rows as a constant.
template <int D>
struct Width {
  static constexpr int value = D;
};

template <typename function>
int by_width(int64_t D, function&& run) {
  switch (D) {
    case 1:
      return run(Width<1>{});
    case 2:
      return run(Width<2>{});
    case 3:
      return run(Width<3>{});
    case 4:
      return run(Width<4>{});
    case 5:
      return run(Width<5>{});
    case 6:
      return run(Width<6>{});
    case 7:
      return run(Width<7>{});
    case 8:
      return run(Width<8>{});
  }
  static_assert(kNarrow == 8, "one case for each width");
  return cudaErrorInvalidValue;
}

}  // namespace emergence_ext::cuda
