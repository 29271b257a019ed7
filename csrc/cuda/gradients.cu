// Gradients from G = dL/dT and the matches. They touch one candidate for each region and pair, S
// times fewer than the forward pass. Each sum has one owner that adds in ascending order; nothing
// is added by atomics.

#include "arithmetic.h"
#include "matches.h"
#include "narrow.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kColumns = 2;  // channels of a lane

cudaStream_t stream_of(const Device& on) { return static_cast<cudaStream_t>(on.stream); }

template <typename scalar>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const scalar* __restrict__ G, const int64_t N, const int64_t B,
                scalar* __restrict__ db) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= N) return;
  scalar sum = db[j];
#pragma unroll 8
  for (int64_t i = 0; i < B; ++i) sum += G[i * N + j];
  db[j] = sum;
}

template <typename scalar>
__global__ void __launch_bounds__(kThreads)
    weight_kernel(const scalar* __restrict__ G, const scalar* __restrict__ value, const int64_t N,
                  const int64_t R, const int64_t B, scalar* __restrict__ da) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= N * R) return;
  const int64_t j = row / R;
  scalar sum = da[row];
#pragma unroll 8
  for (int64_t i = 0; i < B; ++i) sum = fma(G[i * N + j], value[i * N * R + row], sum);
  da[row] = sum;
}

// A thread for a row.
template <typename scalar, int D>
__global__ void __launch_bounds__(kThreads)
    scored_narrow_kernel(const Problem<scalar> p, const scalar* __restrict__ G,
                         const Matches matches, scalar* __restrict__ u, scalar* __restrict__ da) {
  const int64_t rows = p.N * p.R, row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int64_t j = row / p.R;
  scalar q[D], sum[D], of_a = da ? da[row] : 0;
#pragma unroll
  for (int k = 0; k < D; ++k) {
    q[k] = p.q[row * D + k];
    if (p.v) q[k] *= p.v[j * D + k];
    sum[k] = u ? u[row * D + k] : 0;
  }
#pragma unroll 4
  for (int64_t i = 0; i < p.B; ++i) {
    const scalar g = G[i * p.N + j];
    const scalar* const d = p.d + (i * p.S + read_match(matches, i * rows + row)) * D;
    scalar product = 0;
#pragma unroll
    for (int k = 0; k < D; ++k) {
      const scalar x = d[k];
      sum[k] = fma(g, x, sum[k]);
      product = fma(q[k], x, product);
    }
    of_a = fma(g, product, of_a);
  }
  if (da) da[row] = of_a;
  if (!u) return;
#pragma unroll
  for (int k = 0; k < D; ++k) u[row * D + k] = sum[k];
}

// A warp for kRowsOfPart rows of an image and kColumns channels of each lane. kScale: the sums of
// a f u over the rows; else u itself.
template <typename scalar, bool kScale>
__global__ void __launch_bounds__(kThreads, 1)
    scored_wide_kernel(const Problem<scalar> p, const scalar* __restrict__ G, const Matches matches,
                       const unsigned parts, scalar* __restrict__ out) {
  constexpr int kRows = kRowsOfPart;
  static_assert(kRows <= kWarp, "a lane reads the match of one row");
  const int lane = threadIdx.x % kWarp;
  const int64_t task = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t j = task / parts, part = task % parts, r0 = part * kRows;
  if (j >= p.N) return;  // all lanes of a warp together
  const int count = static_cast<int>(smaller(kRows, p.R - r0));
  const int64_t rows = p.N * p.R, row = j * p.R + r0;
  const int64_t k0 = int64_t{blockIdx.y} * kColumns * kWarp + lane;

  scalar u[kRows][kColumns] = {}, factor[kScale ? kRows : 1][kColumns] = {};
  scalar sum[kColumns] = {};
  int64_t column[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int64_t k = k0 + c * kWarp;
    column[c] = smaller(k, p.D - 1);  // what is past the last channel is read and not written
    if constexpr (kScale) sum[c] = out[(part * p.N + j) * p.D + column[c]];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const int64_t at = (row + r) * p.D + column[c];
      if constexpr (kScale)
        factor[r][c] = p.a ? p.a[row + r] * p.q[at] : p.q[at];
      else
        u[r][c] = out[at];
    }
  }
  for (int64_t i0 = 0; i0 < p.B; i0 += kImagesOfGroup) {
    const int64_t i1 = smaller(i0 + kImagesOfGroup, p.B);
    for (int64_t i = i0; i < i1; ++i) {
      const scalar g = G[i * p.N + j];
      const int match = lane < count ? read_match(matches, i * rows + row + lane) : 0;
      const scalar* const d = p.d + i * p.S * p.D;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t s = __shfl_sync(kFullWarp, match, r);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) u[r][c] = fma(g, d[s * p.D + column[c]], u[r][c]);
      }
    }
    if constexpr (kScale) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          if (r < count) sum[c] = fma(factor[r][c], u[r][c], sum[c]);
          u[r][c] = 0;
        }
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (k0 + c * kWarp >= p.D) continue;
    if constexpr (kScale) {
      out[(part * p.N + j) * p.D + column[c]] = sum[c];
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (r < count) out[(row + r) * p.D + column[c]] = u[r][c];
    }
  }
}

// A block of threads for a conditioning image, every warp with sums of its own for a contiguous
// share of the rows. Lanes that meet at one candidate add one after another, the lowest first.
template <typename scalar, int D>
__global__ void __launch_bounds__(kThreads)
    conditioning_narrow_kernel(const Problem<scalar> p, const scalar* __restrict__ G,
                               const Matches matches, const int at_once, scalar* __restrict__ dd) {
  scalar* const all_sums = reinterpret_cast<scalar*>(shared_memory());  // [kWarps, at_once, D]
  int* const all_owners = reinterpret_cast<int*>(all_sums + kWarps * at_once * D);
  const int64_t i = blockIdx.x, rows = p.N * p.R;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  scalar* const sums = all_sums + warp * at_once * D;
  int* const owners = all_owners + warp * at_once;
  const int64_t share = round_up(ceil_div(rows, kWarps), kWarp);
  const int64_t begin = warp * share, end = smaller(begin + share, rows);
  for (int s0 = 0; s0 < p.S; s0 += at_once) {
    const int here = static_cast<int>(smaller(at_once, p.S - s0));
    for (int e = lane; e < here * D; e += kWarp) sums[e] = 0;
    for (int e = lane; e < here; e += kWarp) owners[e] = kWarp;
    __syncwarp();
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t row = first + lane;
      bool waits = row < end;
      int s = 0;
      scalar x[D] = {};
      if (waits) {
        s = read_match(matches, i * rows + row) - s0;
        waits = s >= 0 && s < here;
      }
      if (waits) {
        scalar weight = G[i * p.N + row / p.R];
        if (p.a) weight *= p.a[row];
#pragma unroll
        for (int k = 0; k < D; ++k) x[k] = weight * p.q[row * D + k];
      }
      while (__any_sync(kFullWarp, waits)) {
        if (waits) atomicMin(&owners[s], lane);
        __syncwarp();
        const bool turn = waits && owners[s] == lane;
        if (turn) {
#pragma unroll
          for (int k = 0; k < D; ++k) sums[s * D + k] += x[k];
        }
        __syncwarp();
        if (turn) owners[s] = kWarp;
        waits = waits && !turn;
        __syncwarp();
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < here * D; e += kThreads) {
      scalar sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += all_sums[w * at_once * D + e];
      dd[(i * p.S + s0) * D + e] = sum;
    }
    __syncthreads();
  }
}

// A block of threads for a conditioning image and kWarp channels, one to a lane. Every warp has
// sums of its own for a contiguous share of the rows: nobody meets.
template <typename scalar>
__global__ void __launch_bounds__(kThreads, 2)
    conditioning_wide_kernel(const Problem<scalar> p, const scalar* __restrict__ G,
                             const Matches matches, const int at_once, scalar* __restrict__ dd) {
  constexpr int kAhead = 16;  // rows of q on their way at once
  static_assert(kWarp % kAhead == 0, "a warp takes its rows in whole pieces");
  scalar* const all_sums = reinterpret_cast<scalar*>(shared_memory());  // [kWarps, at_once, kWarp]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t i = blockIdx.x, rows = p.N * p.R;
  const int64_t k = int64_t{blockIdx.y} * kWarp + lane, column = smaller(k, p.D - 1);
  scalar* const mine = all_sums + warp * at_once * kWarp + lane;
  const int64_t share = round_up(ceil_div(rows, kWarps), kWarp);
  const int64_t begin = warp * share, end = smaller(begin + share, rows);
  for (int s0 = 0; s0 < p.S; s0 += at_once) {
    const int here = static_cast<int>(smaller(at_once, p.S - s0));
    for (int s = 0; s < here; ++s) mine[s * kWarp] = 0;
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t row = smaller(first + lane, end - 1);
      // Rows past the end, and those that match elsewhere, go nowhere.
      int place = first + lane < end ? read_match(matches, i * rows + row) - s0 : -1;
      if (place >= here) place = -1;
      scalar weight = G[i * p.N + row / p.R];
      if (p.a) weight *= p.a[row];
#pragma unroll
      for (int x0 = 0; x0 < kWarp; x0 += kAhead) {
        scalar q[kAhead];
        int s[kAhead];
#pragma unroll
        for (int x = 0; x < kAhead; ++x) {
          s[x] = __shfl_sync(kFullWarp, place, x0 + x);
          q[x] = s[x] >= 0 ? p.q[(first + x0 + x) * p.D + column] : 0;
        }
#pragma unroll
        for (int x = 0; x < kAhead; ++x) {
          const scalar factor = __shfl_sync(kFullWarp, weight, x0 + x);
          if (s[x] >= 0) mine[s[x] * kWarp] = fma(factor, q[x], mine[s[x] * kWarp]);
        }
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < here * kWarp; e += kThreads) {
      scalar sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += all_sums[w * at_once * kWarp + e];
      const int64_t channel = int64_t{blockIdx.y} * kWarp + e % kWarp;
      if (channel < p.D) dd[(i * p.S + s0 + e / kWarp) * p.D + channel] = sum;
    }
    __syncthreads();
  }
}

template <bool kScale, typename scalar>
int scored_wide(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* out,
                const Device& on) {
  if (p.N * p.R == 0 || p.B == 0) return cudaSuccess;
  const int64_t parts = ceil_div(p.R, kRowsOfPart);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N * parts, kWarps)),
                  static_cast<unsigned>(ceil_div(p.D, kColumns * kWarp)));
  return launch(scored_wide_kernel<scalar, kScale>, grid, kThreads, 0, stream_of(on), p, G, matches,
                static_cast<unsigned>(parts), out);
}

}  // namespace

template <typename scalar>
int add_bias_gradient(const scalar* G, int64_t N, int64_t B, scalar* db, const Device& on) {
  if (N == 0) return cudaSuccess;
  return launch(bias_kernel<scalar>, dim3(static_cast<unsigned>(ceil_div(N, kThreads))), kThreads,
                0, stream_of(on), G, N, B, db);
}

template <typename scalar>
int add_weight_gradient(const Problem<scalar>& p, const scalar* G, const scalar* value, scalar* da,
                        const Device& on) {
  if (p.N * p.R == 0) return cudaSuccess;
  return launch(weight_kernel<scalar>, dim3(static_cast<unsigned>(ceil_div(p.N * p.R, kThreads))),
                kThreads, 0, stream_of(on), G, value, p.N, p.R, p.B, da);
}

template <typename scalar>
int add_scored_narrow(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* u,
                      scalar* da, const Device& on) {
  if (p.N * p.R == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N * p.R, kThreads)));
  return by_width(p.D, [&](auto width) {
    return launch(scored_narrow_kernel<scalar, width.value>, grid, kThreads, 0, stream_of(on), p, G,
                  matches, u, da);
  });
}

template <typename scalar>
int add_scored_wide(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* u,
                    const Device& on) {
  return scored_wide<false>(p, G, matches, u, on);
}

template <typename scalar>
int add_scale_gradient(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* parts,
                       const Device& on) {
  return scored_wide<true>(p, G, matches, parts, on);
}

template <typename scalar>
int conditioning_gradient(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* dd,
                          const Device& on) {
  if (p.B == 0) return cudaSuccess;
  const auto images = static_cast<unsigned>(p.B);
  if (p.D <= kNarrow) {
    const int64_t each = kWarps * (p.D * sizeof(scalar) + sizeof(int));
    const int at_once = static_cast<int>(smaller(p.S, on.shared / each));
    return by_width(p.D, [&](auto width) {
      return launch(conditioning_narrow_kernel<scalar, width.value>, dim3(images), kThreads,
                    static_cast<size_t>(at_once * each), stream_of(on), p, G, matches, at_once, dd);
    });
  }
  const int64_t each = kThreads * sizeof(scalar);
  const int at_once = static_cast<int>(smaller(p.S, on.shared / each));
  const dim3 grid(images, static_cast<unsigned>(ceil_div(p.D, kWarp)));
  return launch(conditioning_wide_kernel<scalar>, grid, kThreads,
                static_cast<size_t>(at_once * each), stream_of(on), p, G, matches, at_once, dd);
}

#define EMERGENCE_INSTANTIATE(scalar)                                                              \
  template int add_bias_gradient(const scalar*, int64_t, int64_t, scalar*, const Device&);         \
  template int add_weight_gradient(const Problem<scalar>&, const scalar*, const scalar*, scalar*,  \
                                   const Device&);                                                 \
  template int add_scored_narrow(const Problem<scalar>&, const scalar*, Matches, scalar*, scalar*, \
                                 const Device&);                                                   \
  template int add_scored_wide(const Problem<scalar>&, const scalar*, Matches, scalar*,            \
                               const Device&);                                                     \
  template int add_scale_gradient(const Problem<scalar>&, const scalar*, Matches, scalar*,         \
                                  const Device&);                                                  \
  template int conditioning_gradient(const Problem<scalar>&, const scalar*, Matches, scalar*,      \
                                     const Device&);
EMERGENCE_INSTANTIATE(float)
EMERGENCE_INSTANTIATE(double)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cuda
