// Between the matches and the gradients: the products of the matches, scores, softmax and loss.

#include "arithmetic.h"
#include "matches.h"
#include "rows.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kImagesOfWarp = 8;  // conditioning images that a row of q is read for once
constexpr int kPairs = 4;         // pairs of channels of q that a lane keeps

cudaStream_t stream_of(const Device& on) { return static_cast<cudaStream_t>(on.stream); }

template <typename scalar>
__device__ __forceinline__ scalar sum_of_warp(scalar x) {
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(kFullWarp, x, apart);
  return x;
}

// A warp for a row of q and several images. Rows run fastest: the few images that all of them meet
// at a time stay in the L2 cache, where all images would not.
template <typename scalar, typename stored>
__global__ void __launch_bounds__(kThreads, 2)
    score_kernel(const Problem<scalar> p, const Rows<stored> of, const Matches matches,
                 const unsigned sets, scalar* __restrict__ value) {
  const int lane = threadIdx.x % kWarp;
  const int64_t rows = p.N * p.R, row = int64_t{blockIdx.x % sets} * kWarps + threadIdx.x / kWarp;
  const int64_t i0 = int64_t{blockIdx.x / sets} * kImagesOfWarp;
  if (row >= rows) return;  // all lanes of a warp together
  const int images = static_cast<int>(smaller(kImagesOfWarp, p.B - i0));
  scalar sum[kImagesOfWarp] = {};
  const stored* d[kImagesOfWarp];
#pragma unroll
  for (int x = 0; x < kImagesOfWarp; ++x) {
    const int64_t i = i0 + (x < images ? x : 0);
    d[x] = of.d + (i * p.S + read_match(matches, i * rows + row)) * of.width;
  }
  const scalar* const scale = p.v ? p.v + row / p.R * p.D : nullptr;
  for (int64_t k0 = 0; k0 < p.D; k0 += 2 * kWarp * kPairs) {
    Pair<scalar> q[kPairs];
#pragma unroll
    for (int c = 0; c < kPairs; ++c) {
      const int64_t k = k0 + 2 * (c * kWarp + lane);
      if (k >= p.D) continue;
      const bool second = k + 1 < p.D;
      q[c] = read_pair(of.q + row * of.width + k, second);
      if (!scale) continue;
      q[c].x[0] *= scale[k];
      q[c].x[1] *= second ? scale[k + 1] : 0;
    }
#pragma unroll
    for (int x = 0; x < kImagesOfWarp; ++x)
#pragma unroll
      for (int c = 0; c < kPairs; ++c) {
        const int64_t k = k0 + 2 * (c * kWarp + lane);
        if (k >= p.D) continue;
        const Pair<scalar> y = read_pair(d[x] + k, k + 1 < p.D);
        sum[x] = fma(q[c].x[0], y.x[0], sum[x]);
        sum[x] = fma(q[c].x[1], y.x[1], sum[x]);
      }
  }
#pragma unroll
  for (int x = 0; x < kImagesOfWarp; ++x) {
    const scalar total = sum_of_warp(sum[x]);
    if (lane == 0 && x < images) value[(i0 + x) * rows + row] = total;
  }
}

// A warp for a pair of images.
template <typename scalar>
__global__ void __launch_bounds__(kThreads, 2)
    weigh_kernel(const Problem<scalar> p, const scalar* __restrict__ value,
                 scalar* __restrict__ T) {
  const int64_t pair = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (pair >= p.N * p.B) return;
  const int64_t j = pair % p.N;
  const int lane = threadIdx.x % kWarp;
  scalar sum = 0;
  for (int64_t r = lane; r < p.R; r += kWarp) {
    const scalar x = value[pair * p.R + r];
    sum += p.a ? p.a[j * p.R + r] * x : x;
  }
  sum = sum_of_warp(sum);
  if (lane == 0) T[pair] = sum;
}

struct Sum {
  __device__ static double of(double x, double y) { return x + y; }
};
struct Largest {
  __device__ static double of(double x, double y) { return max_nan(x, y); }
};

// Over all threads, the same for each of them. `shared` is [kThreads].
template <typename Fold>
__device__ double fold(double x, double* shared) {
  __syncthreads();
  shared[threadIdx.x] = x;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] = Fold::of(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  return shared[0];
}

// A block of threads for a row of the softmax, in double.
template <typename scalar>
__global__ void __launch_bounds__(kThreads, 2)
    kl_kernel(const Targets<scalar> targets, const SoftmaxRows rows, scalar* __restrict__ T,
              double* __restrict__ losses) {
  double* const shared = reinterpret_cast<double*>(shared_memory());
  const int64_t i = blockIdx.x, N = rows.columns, apart = rows.column;
  scalar* const row = T + i * rows.row;
  const scalar* const P = targets.P + i * N;
  const int64_t excluded = targets.exclude ? targets.exclude[i] : -1;
  double top = kLowest<double>;
  for (int64_t j = threadIdx.x; j < N; j += kThreads)
    if (j != excluded) top = max_nan(top, static_cast<double>(row[j * apart]) + targets.b[j]);
  top = fold<Largest>(top, shared);
  double sum = 0, mass = 0, loss = 0;
  for (int64_t j = threadIdx.x; j < N; j += kThreads) {
    if (j == excluded) continue;
    const double x = static_cast<double>(row[j * apart]) + targets.b[j] - top, p = P[j];
    sum += exp(x);
    mass += p;
    if (p != 0) loss += p * (log(p) - x);
  }
  sum = fold<Sum>(sum, shared);
  mass = fold<Sum>(mass, shared);
  loss = fold<Sum>(loss, shared);
  for (int64_t j = threadIdx.x; j < N; j += kThreads) {
    const double x = static_cast<double>(row[j * apart]) + targets.b[j] - top;
    const double G = (exp(x) / sum * mass - P[j]) * targets.scale;
    row[j * apart] = j == excluded ? 0 : static_cast<scalar>(G);
  }
  // A row whose columns are all excluded adds nothing.
  const bool empty = N == (excluded >= 0 && excluded < N ? 1 : 0);
  if (threadIdx.x == 0) losses[i] = empty ? 0 : loss + mass * log(sum);
}

template <typename stored>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const stored* __restrict__ rows, const int64_t stride, const float* __restrict__ v,
                const int64_t rows_of_v, const int64_t count, const int64_t D, const int64_t width,
                const int planes, uint16_t* __restrict__ packed) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < count * width; at += step) {
    const int64_t row = at / width, k = at % width;
    float x = k < D ? number(rows[row * stride + k]) : 0;
    if (v && k < D) x *= v[row / rows_of_v * D + k];
    const uint16_t high = bits_to_finite_bfloat16(__float_as_uint(x));
    uint16_t* const out = packed + row * planes * width + k;
    out[0] = high;
    if (planes < 2) continue;
    const float rest = x - __uint_as_float(static_cast<uint32_t>(high) << 16);
    // What is infinite already has no rest.
    out[width] = rest == rest ? bits_to_bfloat16(__float_as_uint(rest)) : 0;
  }
}

template <typename stored>
int pack(const stored* rows, int64_t stride, const float* v, int64_t count, const Problem<float>& p,
         int64_t width, int planes, uint16_t* packed, const Device& on) {
  if (count == 0) return cudaSuccess;
  const int64_t most = int64_t{on.multiprocessors} * 64;
  const int64_t blocks = smaller(most, ceil_div(count * width, kThreads));
  return launch(pack_kernel<stored>, dim3(static_cast<unsigned>(blocks)), kThreads, 0,
                stream_of(on), rows, stride, v, p.R, count, p.D, width, planes, packed);
}

}  // namespace

template <typename scalar>
int score_matches(const Problem<scalar>& p, Matches matches, scalar* value, const Device& on) {
  const int64_t rows = p.N * p.R;
  if (rows == 0 || p.B == 0) return cudaSuccess;
  const auto sets = static_cast<unsigned>(ceil_div(rows, kWarps));
  const dim3 grid(static_cast<unsigned>(sets * ceil_div(p.B, kImagesOfWarp)));
  return by_stored(p, [&](const auto& of) {
    return launch(score_kernel<scalar, stored_of<decltype(of)>>, grid, kThreads, 0, stream_of(on),
                  p, of, matches, sets, value);
  });
}

template <typename scalar>
int weigh(const Problem<scalar>& p, const scalar* value, scalar* T, const Device& on) {
  if (p.N == 0 || p.B == 0) return cudaSuccess;
  return launch(weigh_kernel<scalar>, dim3(static_cast<unsigned>(ceil_div(p.N * p.B, kWarps))),
                kThreads, 0, stream_of(on), p, value, T);
}

template <typename scalar>
int kl_rows(const Targets<scalar>& targets, const SoftmaxRows& rows, scalar* T, double* losses,
            const Device& on) {
  if (rows.count == 0) return cudaSuccess;
  return launch(kl_kernel<scalar>, dim3(static_cast<unsigned>(rows.count)), kThreads,
                kThreads * sizeof(double), stream_of(on), targets, rows, T, losses);
}

int pack_q(const Problem<float>& p, int64_t width, int planes, uint16_t* packed, const Device& on) {
  return by_stored(p, [&](const auto& of) {
    return pack(of.q, of.width, p.v, p.N * p.R, p, width, planes, packed, on);
  });
}

int pack_d(const Problem<float>& p, int64_t width, int planes, uint16_t* packed, const Device& on) {
  return by_stored(p, [&](const auto& of) {
    return pack(of.d, of.width, static_cast<const float*>(nullptr), p.B * p.S, p, width, planes,
                packed, on);
  });
}

#define EMERGENCE_INSTANTIATE(scalar)                                                  \
  template int score_matches(const Problem<scalar>&, Matches, scalar*, const Device&); \
  template int weigh(const Problem<scalar>&, const scalar*, scalar*, const Device&);   \
  template int kl_rows(const Targets<scalar>&, const SoftmaxRows&, scalar*, double*, const Device&);
EMERGENCE_INSTANTIATE(float)
EMERGENCE_INSTANTIATE(double)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cuda
