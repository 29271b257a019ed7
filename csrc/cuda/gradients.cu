// Gradients from G = dL/dT and the matches. They touch one candidate for each region and pair, S
// times fewer than the forward pass. Each sum has one owner that adds in ascending order; nothing
// is added by atomics.

#include "arithmetic.h"
#include "matches.h"
#include "narrow.h"
#include "rows.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSlice = 2 * kWarp;  // channels that a warp works on, a pair in each lane
constexpr int kSetsOfSums = 4;     // warps that add up shares of dd of wide rows

cudaStream_t stream_of(const Device& on) { return static_cast<cudaStream_t>(on.stream); }

template <typename scalar>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const scalar* __restrict__ G, const SoftmaxRows rows, scalar* __restrict__ db) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= rows.columns) return;
  scalar sum = db[j];
#pragma unroll 8
  for (int64_t i = 0; i < rows.count; ++i) sum += G[i * rows.row + j * rows.column];
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

// Threads of a block that shares slices of d: as many as leave each the registers for its sums.
template <typename scalar>
constexpr int kSharing = 2048 / sizeof(scalar);

// Channels k0 to k0 + kSlice of candidates that follow one another, [candidates, kSlice]; zeros
// past the width. By copies that the caller waits for where `aligned`: rows begin at multiples of
// 16 bytes, and are of whole pieces of so many.
template <typename scalar, typename stored>
__device__ __forceinline__ void copy_slice(stored* shared, const stored* d, int candidates,
                                           int64_t width, int64_t k0, bool aligned) {
  constexpr int kOfPiece = 16 / sizeof(stored), kPieces = kSlice / kOfPiece;
  if (aligned) {
    for (int e = threadIdx.x; e < candidates * kPieces; e += kSharing<scalar>) {
      const int s = e / kPieces, k = e % kPieces * kOfPiece;
      const bool there = k0 + k < width;
      copy_async(shared + s * kSlice + k, d + s * width + (there ? k0 + k : 0), there);
    }
  } else {
    for (int e = threadIdx.x; e < candidates * kSlice; e += kSharing<scalar>) {
      const int64_t k = k0 + e % kSlice;
      shared[e] = k < width ? d[e / kSlice * width + k] : stored{};
    }
  }
}

// u += g d of a lane's pair of channels, for the rows whose matches the lanes of a warp have.
// kWhole: all of them are among the `here` candidates of the slice; else each of them is or is not.
template <bool kWhole, typename scalar, typename stored>
__device__ __forceinline__ void gather(scalar (&u)[kRowsOfPart][2], scalar g, int match, int here,
                                       const stored* of_lane) {
  static_assert(kRowsOfPart == kWarp, "a lane has the match of one row");
  const bool among = match >= 0 && match < here;
  const int offset = kWhole || among ? match * kSlice : -1;
#pragma unroll
  for (int r = 0; r < kRowsOfPart; ++r) {
    const int from = __shfl_sync(kFullWarp, offset, r);
    if (!kWhole && from < 0) continue;
    const auto x = read_pair(of_lane + from, true);
    u[r][0] = fma(g, x.x[0], u[r][0]);
    u[r][1] = fma(g, x.x[1], u[r][1]);
  }
}

// A warp for kRowsOfPart rows of an image and kSlice channels. kScale: the sums of a f u over the
// rows; else u itself. A row meets one candidate of each image, of which many rows share a block of
// threads: an image's slice is brought to shared memory once, while the one before it is gathered
// from. Rows run fastest, so that all blocks of threads meet the same slices at the same time.
template <typename scalar, typename stored, bool kScale>
__global__ void __launch_bounds__(kSharing<scalar>, 1)
    scored_wide_kernel(const Problem<scalar> p, const Rows<stored> of, const scalar* __restrict__ G,
                       const Matches matches, const unsigned parts, const int at_once,
                       scalar* __restrict__ out) {
  constexpr int kRows = kRowsOfPart;
  stored* const slices = reinterpret_cast<stored*>(shared_memory());  // [2, at_once, kSlice]
  const int lane = threadIdx.x % kWarp, S = static_cast<int>(p.S);
  const int64_t task = int64_t{blockIdx.x} * (kSharing<scalar> / kWarp) + threadIdx.x / kWarp;
  const bool there = task < p.N * parts;  // the others help to copy
  const int64_t j = there ? task / parts : 0, part = task % parts, r0 = part * kRows;
  const int count = there ? static_cast<int>(smaller(kRows, p.R - r0)) : 0;
  const int64_t rows = p.N * p.R, row = j * p.R + r0;
  const int64_t k0 = int64_t{blockIdx.y} * kSlice, k = k0 + 2 * lane;
  const bool first = k < p.D, second = k + 1 < p.D;

  scalar u[kRows][2] = {}, sum[2] = {}, weight = 1;
  scalar* const total = out + (part * p.N + j) * p.D + k;
  if constexpr (kScale) {
    if (there && first) sum[0] = total[0];
    if (there && second) sum[1] = total[1];
    if (p.a && lane < count) weight = p.a[row + lane];
  } else {
    const scalar* const at = out + row * p.D + k;
    const int across = unforeseen(static_cast<int>(p.D));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) break;
      if (first) u[r][0] = at[int64_t{r} * across];
      if (second) u[r][1] = at[int64_t{r} * across + 1];
    }
  }
  const bool aligned =
      sizeof(stored) == 2 || (reinterpret_cast<uintptr_t>(of.d) % 16 == 0 &&
                              of.width * static_cast<int64_t>(sizeof(stored)) % 16 == 0);
  const auto copy = [&](int64_t i, int s0, int buffer) {
    if (i < p.B)
      copy_slice<scalar>(slices + buffer * at_once * kSlice, of.d + (i * S + s0) * of.width,
                         static_cast<int>(smaller(at_once, S - s0)), of.width, k0, aligned);
    copy_async_commit();
  };
  const auto weight_of = [&](int64_t i) { return there && i < p.B ? G[i * p.N + j] : 0; };
  const auto match_of = [&](int64_t i) {
    return lane < count && i < p.B ? read_match(matches, i * rows + row + lane) : 0;
  };
  int buffer = 0;
  copy(0, 0, buffer);
  scalar next_g = weight_of(0);
  int next_match = match_of(0);
  for (int64_t i = 0; i < p.B; ++i) {
    const scalar g = next_g;
    const int match = next_match;
    next_g = weight_of(i + 1), next_match = match_of(i + 1);  // on their way while this is gathered
    for (int s0 = 0; s0 < S; s0 += at_once) {
      copy_async_wait<0>();
      __syncthreads();  // this slice is there, and the other one has been gathered from
      const bool last = s0 + at_once >= S;
      copy(last ? i + 1 : i, last ? 0 : s0 + at_once, 1 - buffer);
      const stored* const of_lane = slices + buffer * at_once * kSlice + 2 * lane;
      buffer = 1 - buffer;
      if (at_once == S)
        gather<true>(u, g, match, S, of_lane);
      else
        gather<false>(u, g, match - s0, static_cast<int>(smaller(at_once, S - s0)), of_lane);
    }
    if constexpr (kScale) {
      if ((i + 1) % kImagesOfGroup > 0 && i + 1 < p.B) continue;
      const stored* const f = of.q + row * of.width + (first ? k : 0);
      const int width = unforeseen(static_cast<int>(of.width));
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const scalar a = __shfl_sync(kFullWarp, weight, r);
        if (r < count) {
          const auto of_row = read_pair(f + int64_t{r} * width, second);
          sum[0] = fma(a * of_row.x[0], u[r][0], sum[0]);
          sum[1] = fma(a * of_row.x[1], u[r][1], sum[1]);
        }
        u[r][0] = u[r][1] = 0;
      }
    }
  }
  if constexpr (kScale) {
    if (there && first) total[0] = sum[0];
    if (there && second) total[1] = sum[1];
  } else {
    scalar* const at = out + row * p.D + k;
    const int across = unforeseen(static_cast<int>(p.D));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) break;
      if (first) at[int64_t{r} * across] = u[r][0];
      if (second) at[int64_t{r} * across + 1] = u[r][1];
    }
  }
}

// x[(t + by) % kCount] becomes x[t].
template <int kCount, typename T>
__device__ __forceinline__ void rotate(T (&x)[kCount], int by) {
#pragma unroll
  for (int bit = 1; bit < kCount; bit *= 2) {
    T old[kCount];
#pragma unroll
    for (int t = 0; t < kCount; ++t) old[t] = x[t];
#pragma unroll
    for (int t = 0; t < kCount; ++t)
      if (by & bit) x[t] = old[(t + bit) % kCount];
  }
}

// sums[s] += x, for lanes whose s is not negative. Lanes that meet at one candidate take turns, the
// lowest first; where all that still wait meet at one, they add up among themselves. `owners` is
// kWarp before and after.
template <typename scalar, int D>
__device__ __forceinline__ void add_in_turns(scalar* sums, int* owners, int s,
                                             const scalar (&x)[D]) {
  const int lane = threadIdx.x % kWarp;
  bool waits = s >= 0;
  while (const unsigned waiting = __ballot_sync(kFullWarp, waits)) {
    const int one = __shfl_sync(kFullWarp, s, __ffs(static_cast<int>(waiting)) - 1);
    if (__all_sync(kFullWarp, !waits || s == one)) {
#pragma unroll
      for (int k = 0; k < D; ++k) {
        scalar sum = waits ? x[k] : 0;
#pragma unroll
        for (int apart = kWarp / 2; apart > 0; apart /= 2)
          sum += __shfl_xor_sync(kFullWarp, sum, apart);
        if (lane == 0) sums[one * D + k] += sum;
      }
      waits = false;
    } else {
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
    }
    __syncwarp();
  }
}

// A block of threads for a conditioning image, every warp with sums of its own for a contiguous
// share of `rows_at_once` rows, which then go to dd. Neighbouring rows often match the same
// candidate, so that lanes with rows next to one another would wait for one another: a warp reads
// kTogether times kWarp rows, and a lane adds those that it read in an order of its own, so that
// rows of neighbouring lanes are kWarp apart.
template <typename scalar, int D>
__global__ void __launch_bounds__(kThreads, 8 / sizeof(scalar))
    conditioning_narrow_kernel(const Problem<scalar> p, const scalar* __restrict__ G,
                               const Matches matches, const int64_t rows_at_once, const int at_once,
                               scalar* __restrict__ dd) {
  constexpr int kTogether = 4;
  scalar* const all_sums = reinterpret_cast<scalar*>(shared_memory());  // [kWarps, at_once, D]
  int* const all_owners = reinterpret_cast<int*>(all_sums + kWarps * at_once * D);
  const int64_t i = blockIdx.x, rows = p.N * p.R;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  scalar* const sums = all_sums + warp * at_once * D;
  int* const owners = all_owners + warp * at_once;
  for (int64_t row0 = 0; row0 < rows; row0 += rows_at_once) {
    const int64_t past = smaller(row0 + rows_at_once, rows);
    const int64_t share = round_up(ceil_div(past - row0, kWarps), kWarp);
    const int64_t begin = row0 + warp * share, end = smaller(begin + share, past);
    for (int s0 = 0; s0 < p.S; s0 += at_once) {
      const int here = static_cast<int>(smaller(at_once, p.S - s0));
      for (int e = lane; e < here * D; e += kWarp) sums[e] = 0;
      for (int e = lane; e < here; e += kWarp) owners[e] = kWarp;
      __syncwarp();
      // The image of a lane's row, and which row of it that is, without a division for each.
      const int64_t R = larger(1, p.R);  // there may be none
      int64_t row = begin + lane, j = row / R, r = row % R;
      const int64_t images = kWarp / R, rest = kWarp % R;
      for (int64_t first = begin; first < end; first += kWarp * kTogether) {
        int s[kTogether];
        scalar x[D][kTogether] = {};
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          s[t] = row < end ? read_match(matches, i * rows + row) - s0 : -1;
          if (s[t] >= here) s[t] = -1;
          if (s[t] >= 0) {
            scalar weight = G[i * p.N + j];
            if (p.a) weight *= p.a[row];
#pragma unroll
            for (int k = 0; k < D; ++k) x[k][t] = weight * p.q[row * D + k];
          }
          row += kWarp, j += images, r += rest;
          if (r >= R) r -= R, ++j;
        }
        rotate(s, lane);
#pragma unroll
        for (int k = 0; k < D; ++k) rotate(x[k], lane);
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          scalar of_row[D];
#pragma unroll
          for (int k = 0; k < D; ++k) of_row[k] = x[k][t];
          add_in_turns<scalar, D>(sums, owners, s[t], of_row);
        }
      }
      __syncthreads();
      for (int e = threadIdx.x; e < here * D; e += kThreads) {
        scalar sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += all_sums[w * at_once * D + e];
        dd[(i * p.S + s0) * D + e] += sum;
      }
      __syncthreads();
    }
  }
}

// A lane's pair of channels: neighbours where one load brings both, else a warp apart, so that each
// of two loads is of neighbours across the warp.
template <typename stored>
__device__ __forceinline__ int64_t channel_of(int lane, int c) {
  return sizeof(stored) == 2 ? 2 * lane + c : lane + c * kWarp;
}

// A block of threads for a conditioning image and kSlice channels, two to a lane. Every warp has
// sums of its own for a contiguous share of the rows: nobody meets. Images run fastest, so that the
// slice of all rows stays in the L2 cache.
template <typename scalar, typename stored>
__global__ void __launch_bounds__(kSetsOfSums* kWarp, 1)
    conditioning_wide_kernel(const Problem<scalar> p, const Rows<stored> of,
                             const scalar* __restrict__ G, const Matches matches,
                             const int64_t rows_at_once, const int at_once,
                             scalar* __restrict__ dd) {
  constexpr int kAhead = 64 / sizeof(Packed<stored>) * 2;  // rows of q on their way
  constexpr int kTogether = 4;  // rows whose sums are read before any is written
  static_assert(kWarp % kAhead == 0 && kAhead % kTogether == 0, "whole pieces");
  // [kSetsOfSums, at_once + 1, kWarp]; what goes nowhere goes to the last.
  auto* const all_sums = reinterpret_cast<Pair<scalar>*>(shared_memory());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t i = blockIdx.x, rows = p.N * p.R, k0 = int64_t{blockIdx.y} * kSlice;
  // What is past the last channel is read and not written.
  constexpr int kOfLoad = sizeof(stored) == 2 ? 2 : 1;
  const int64_t column = smaller(k0 + channel_of<stored>(lane, 0), of.width - kOfLoad);
  const auto apart =
      static_cast<int>(smaller(k0 + channel_of<stored>(lane, 1), of.width - 1) - column);
  Pair<scalar>* const mine = all_sums + warp * (at_once + 1) * kWarp + lane;
  for (int64_t row0 = 0; row0 < rows; row0 += rows_at_once) {
    const int64_t past = smaller(row0 + rows_at_once, rows);
    const int64_t share = round_up(ceil_div(past - row0, kSetsOfSums), kWarp);
    const int64_t begin = row0 + warp * share, end = smaller(begin + share, past);
    for (int s0 = 0; s0 < p.S; s0 += at_once) {
      const int here = static_cast<int>(smaller(at_once, p.S - s0));
      for (int s = 0; s <= at_once; ++s) mine[s * kWarp] = {};
      // Where a lane's row goes, as an offset from `mine`, and with what weight.
      const auto aim = [&](int64_t row, int& to, scalar& weight) {
        to = at_once * kWarp, weight = 0;
        if (row >= end) return;
        const int place = read_match(matches, i * rows + row) - s0;
        if (place >= 0 && place < here) to = place * kWarp;
        weight = G[i * p.N + row / p.R];
        if (p.a) weight *= p.a[row];
      };
      // Row x of those from `base` on, of which there are `left`.
      const auto fetch = [&](const stored* base, int width, int x, int left) -> Packed<stored> {
        if (x >= left) return {};
        const stored* const from = base + int64_t{x} * width;
        if constexpr (sizeof(stored) == 2)
          return *reinterpret_cast<const uint32_t*>(from);
        else
          return {from[0], from[apart]};
      };
      // A row of q is asked for as soon as the one that is kAhead before it has been added.
      Packed<stored> q[kAhead];
      int to, next_to;
      scalar weight, next_weight;
      aim(begin + lane, to, weight);
      const stored* base = of.q + begin * of.width + column;
      int left = static_cast<int>(smaller(end - begin, 2 * kWarp));
      int width = unforeseen(static_cast<int>(of.width));
#pragma unroll
      for (int x = 0; x < kAhead; ++x) q[x] = fetch(base, width, x, left);
      for (int64_t first = begin; first < end; first += kWarp) {
        left = static_cast<int>(smaller(end - first, 2 * kWarp));
        width = unforeseen(width);
        aim(first + kWarp + lane, next_to, next_weight);
#pragma unroll
        for (int x = 0; x < kWarp; x += kTogether) {
          // Sums are read together, so that a row need not wait until the one before it is written;
          // where they meet at one candidate, the later one goes on from the earlier one's sum.
          int place[kTogether];
          Pair<scalar> sum[kTogether];
#pragma unroll
          for (int y = 0; y < kTogether; ++y) {
            place[y] = __shfl_sync(kFullWarp, to, x + y);
            sum[y] = mine[place[y]];
          }
#pragma unroll
          for (int y = 0; y < kTogether; ++y) {
            const scalar factor = __shfl_sync(kFullWarp, weight, x + y);
            const auto of_q = unpack<stored>(q[(x + y) % kAhead]);
#pragma unroll
            for (int z = 0; z < y; ++z)
              if (place[z] == place[y]) sum[y] = sum[z];
            sum[y].x[0] = fma(factor, of_q.x[0], sum[y].x[0]);
            sum[y].x[1] = fma(factor, of_q.x[1], sum[y].x[1]);
            q[(x + y) % kAhead] = fetch(base, width, x + y + kAhead, left);
          }
#pragma unroll
          for (int y = 0; y < kTogether; ++y) mine[place[y]] = sum[y];
        }
        to = next_to, weight = next_weight;
        base += kWarp * of.width;
      }
      __syncthreads();
      for (int e = threadIdx.x; e < here * kSlice; e += kSetsOfSums * kWarp) {
        const int s = e / kSlice, of_lane = e % kSlice / 2, c = e % 2;
        scalar sum = 0;
        for (int w = 0; w < kSetsOfSums; ++w)
          sum += all_sums[(w * (at_once + 1) + s) * kWarp + of_lane].x[c];
        const int64_t channel = k0 + channel_of<stored>(of_lane, c);
        if (channel < p.D) dd[(i * p.S + s0 + s) * p.D + channel] += sum;
      }
      __syncthreads();
    }
  }
}

template <bool kScale, typename scalar>
int scored_wide(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* out,
                const Device& on) {
  if (p.N * p.R == 0 || p.B == 0) return cudaSuccess;
  const int64_t parts = ceil_div(p.R, kRowsOfPart);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N * parts, kSharing<scalar> / kWarp)),
                  static_cast<unsigned>(ceil_div(p.D, kSlice)));
  return by_stored(p, [&](const auto& of) {
    using stored = stored_of<decltype(of)>;
    constexpr int64_t each = 2 * kSlice * sizeof(stored);
    const int at_once = static_cast<int>(smaller(p.S, on.shared / each));
    return launch(scored_wide_kernel<scalar, stored, kScale>, grid, kSharing<scalar>,
                  static_cast<size_t>(at_once * each), stream_of(on), p, of, G, matches,
                  static_cast<unsigned>(parts), at_once, out);
  });
}

}  // namespace

template <typename scalar>
int add_bias_gradient(const scalar* G, const SoftmaxRows& rows, scalar* db, const Device& on) {
  if (rows.columns == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(rows.columns, kThreads)));
  return launch(bias_kernel<scalar>, grid, kThreads, 0, stream_of(on), G, rows, db);
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
int add_conditioning(const Problem<scalar>& p, const scalar* G, Matches matches,
                     int64_t scored_at_once, scalar* dd, const Device& on) {
  if (p.B == 0 || p.N * p.R == 0) return cudaSuccess;
  const int64_t rows_at_once = scored_at_once * p.R;
  const auto images = static_cast<unsigned>(p.B);
  if (p.D <= kNarrow) {
    const int64_t each = kWarps * (p.D * sizeof(scalar) + sizeof(int));
    const int at_once = static_cast<int>(smaller(p.S, on.shared / each));
    return by_width(p.D, [&](auto width) {
      return launch(conditioning_narrow_kernel<scalar, width.value>, dim3(images), kThreads,
                    static_cast<size_t>(at_once * each), stream_of(on), p, G, matches, rows_at_once,
                    at_once, dd);
    });
  }
  constexpr int64_t each = kSetsOfSums * kSlice * sizeof(scalar);
  const int at_once = static_cast<int>(smaller(p.S, on.shared / each - 1));
  const dim3 grid(images, static_cast<unsigned>(ceil_div(p.D, kSlice)));
  return by_stored(p, [&](const auto& of) {
    return launch(conditioning_wide_kernel<scalar, stored_of<decltype(of)>>, grid,
                  kSetsOfSums * kWarp, static_cast<size_t>((at_once + 1) * each), stream_of(on), p,
                  of, G, matches, rows_at_once, at_once, dd);
  });
}

#define EMERGENCE_INSTANTIATE(scalar)                                                              \
  template int add_bias_gradient(const scalar*, const SoftmaxRows&, scalar*, const Device&);       \
  template int add_weight_gradient(const Problem<scalar>&, const scalar*, const scalar*, scalar*,  \
                                   const Device&);                                                 \
  template int add_scored_narrow(const Problem<scalar>&, const scalar*, Matches, scalar*, scalar*, \
                                 const Device&);                                                   \
  template int add_scored_wide(const Problem<scalar>&, const scalar*, Matches, scalar*,            \
                               const Device&);                                                     \
  template int add_scale_gradient(const Problem<scalar>&, const scalar*, Matches, scalar*,         \
                                  const Device&);                                                  \
  template int add_conditioning(const Problem<scalar>&, const scalar*, Matches, int64_t, scalar*,  \
                                const Device&);
EMERGENCE_INSTANTIATE(float)
EMERGENCE_INSTANTIATE(double)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cuda
