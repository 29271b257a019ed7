// maxsim for any GPU: one block of threads per pair of images, one thread per region. Written for
// its plainness; it has never run on a GPU and is off by default.

#include <cuda_runtime.h>
#include <math_constants.h>

#include "maxsim.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 128;
static_assert((kThreads & (kThreads - 1)) == 0, "the sum over threads halves their number");
constexpr int64_t kMaxBlocks = int64_t{1} << 30;

template <typename scalar>
__device__ scalar minus_infinity() {
  return -static_cast<scalar>(CUDART_INF_F);
}

template <typename scalar, typename index>
__global__ void __launch_bounds__(kThreads)
    maxsim_kernel(const MaxSim<scalar> in, scalar* __restrict__ T, index* __restrict__ argmax) {
  __shared__ scalar partial[kThreads];
  for (int64_t p = blockIdx.x; p < in.N * in.B; p += gridDim.x) {
    const int64_t i = p / in.N, j = p % in.N;
    scalar score = 0;
    for (int64_t r = threadIdx.x; r < in.R; r += kThreads) {
      const scalar* q = in.q + (j * in.R + r) * in.D;
      scalar best = minus_infinity<scalar>();
      int64_t where = 0;
      for (int64_t s = 0; s < in.S; ++s) {
        const scalar* d = in.d + (i * in.S + s) * in.D;
        scalar sum = 0;
        for (int64_t k = 0; k < in.D; ++k) sum += q[k] * d[k];
        // Once the maximum is NaN it stays; until then a NaN is taken like a larger value.
        if (!(sum <= best) && best == best) {
          best = sum;
          where = s;
        }
      }
      score += in.a ? in.a[j * in.R + r] * best : best;
      if (argmax) argmax[p * in.R + r] = static_cast<index>(where);
    }
    partial[threadIdx.x] = score;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) T[p] = partial[0];
    __syncthreads();
  }
}

}  // namespace

template <typename scalar, typename index>
int maxsim_portable(const MaxSim<scalar>& in, scalar* T, index* argmax, void* stream) {
  const int64_t pairs = in.N * in.B;
  if (pairs == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(pairs < kMaxBlocks ? pairs : kMaxBlocks);
  maxsim_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(in, T, argmax);
  return cudaGetLastError();
}

#define EMERGENCE_INSTANTIATE(scalar, index) \
  template int maxsim_portable(const MaxSim<scalar>&, scalar*, index*, void*);
EMERGENCE_INSTANTIATE(float, uint8_t)
EMERGENCE_INSTANTIATE(float, int32_t)
EMERGENCE_INSTANTIATE(double, uint8_t)
EMERGENCE_INSTANTIATE(double, int32_t)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cuda
