// Rows of up to eight channels. A thread keeps several rows of q in registers while every candidate
// of an image passes by, broadcast from shared memory: D multiply-adds and a maximum for each
// product. The place costs next to nothing: only the maximum of a block of candidates is compared,
// and the winning block is searched again, by the same products bit for bit.

#include "arithmetic.h"
#include "matches.h"
#include "narrow.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStagedBlocks = 64;  // blocks of candidates in shared memory at once
constexpr int kMostOthers = 16;    // conditioning images that one block of threads meets
constexpr int kWaves = 32;         // blocks of threads wanted for each multiprocessor

struct Cut {
  int images;     // scored images of a block of threads
  int others;     // conditioning images
  unsigned sets;  // blocks of threads that share conditioning images
};

template <typename scalar, int D, int kRows, int kLength>
__global__ void __launch_bounds__(kThreads, 2)
    match_kernel(const Problem<scalar> p, const Cut cut, scalar* __restrict__ T,
                 const Matches matches) {
  constexpr int kSlots = kThreads * kRows;
  constexpr int kStride = kLength | 1;  // odd, so that searching again spreads over the banks
  constexpr int kStaged = kStagedBlocks * kLength;
  static_assert(kSlots % kWarp == 0, "sums go by lanes in the same order for any cut");
  using Row = Candidate<scalar, D>;
  Row* const staged = reinterpret_cast<Row*>(shared_memory());
  const int S = static_cast<int>(p.S), in_shared = S < kStaged ? S : kStaged;
  scalar* const values =
      reinterpret_cast<scalar*>(staged + (in_shared + kLength - 1) / kLength * kStride);

  const int64_t j0 = int64_t{blockIdx.x % cut.sets} * cut.images;
  const int64_t i0 = int64_t{blockIdx.x / cut.sets} * cut.others;
  const int64_t i1 = smaller(i0 + cut.others, p.B);
  const int images = static_cast<int>(smaller(cut.images, p.N - j0));
  const int R = static_cast<int>(p.R), rows = images * R;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  scalar q[kRows][D];
  for (int64_t i = i0; i < i1; ++i) {
    scalar sum = 0;  // of an image that is longer than the slots
    for (int first = 0; first < rows; first += kSlots) {
      if (i == i0 || rows > kSlots) {
#pragma unroll
        for (int x = 0; x < kRows; ++x) {
          const int slot = first + x * kThreads + static_cast<int>(threadIdx.x);
          const int64_t row = j0 * R + slot;
          const bool there = slot < rows;
#pragma unroll
          for (int k = 0; k < D; ++k) {
            q[x][k] = there ? p.q[row * D + k] : 0;
            if (there && p.v) q[x][k] *= p.v[(j0 + slot / R) * D + k];
          }
        }
      }
      scalar best[kRows];
      int place[kRows];
#pragma unroll
      for (int x = 0; x < kRows; ++x) {
        best[x] = kLowest<scalar>;
        place[x] = 0;
      }
      for (int s0 = 0; s0 < S; s0 += kStaged) {
        const int count = S - s0 < kStaged ? S - s0 : kStaged;
        const int blocks = (count + kLength - 1) / kLength;
        if (first == 0 || S > kStaged) {
          __syncthreads();
          const scalar* const d = p.d + (i * S + s0) * D;
          // The last candidate fills up the last block: it cannot win a tie against itself.
          for (int e = threadIdx.x; e < blocks * kLength * D; e += kThreads) {
            const int c = e / D, from = c < count ? c : count - 1;
            staged[c / kLength * kStride + c % kLength].x[e % D] = d[from * D + e % D];
          }
          __syncthreads();
        }
        for (int block = 0; block < blocks; ++block) {
          scalar top[kRows];
#pragma unroll
          for (int x = 0; x < kRows; ++x) top[x] = best[x];
#pragma unroll
          for (int c = 0; c < kLength; ++c) {
            const Row d = staged[block * kStride + c];
#pragma unroll
            for (int x = 0; x < kRows; ++x) top[x] = max_nan(top[x], product<scalar, D>(q[x], d));
          }
#pragma unroll
          for (int x = 0; x < kRows; ++x) {
            if (top[x] > best[x]) place[x] = ~block;  // negative: to be searched again
            best[x] = top[x];
          }
        }
        if (!matches.data) continue;
#pragma unroll
        for (int x = 0; x < kRows; ++x) {
          if (place[x] >= 0) continue;
          const int block = ~place[x];
          int first_equal = 0;
#pragma unroll
          for (int c = kLength - 1; c >= 0; --c)
            if (product<scalar, D>(q[x], staged[block * kStride + c]) == best[x]) first_equal = c;
          place[x] = s0 + block * kLength + first_equal;
        }
      }
#pragma unroll
      for (int x = 0; x < kRows; ++x) {
        const int slot = first + x * kThreads + static_cast<int>(threadIdx.x);
        if (slot >= rows) continue;
        values[x * kThreads + threadIdx.x] = p.a ? p.a[j0 * R + slot] * best[x] : best[x];
        if (!matches.data) continue;
        if (best[x] != best[x]) place[x] = first_nan<scalar, D>(q[x], p.d + i * p.S * D, S);
        write_match(matches, (i * p.N + j0) * R + slot, place[x]);
      }
      __syncthreads();
      const int here = rows - first < kSlots ? rows - first : kSlots;
      for (int j = warp; j < images; j += kThreads / kWarp) {
        if (rows <= kSlots) sum = 0;
        const int begin = rows <= kSlots ? j * R : 0;
        const int end = rows <= kSlots ? begin + R : here;
        for (int r = begin + lane; r < end; r += kWarp) sum += values[r];
        if (rows > kSlots && first + kSlots < rows) continue;
        scalar total = sum;
        for (int apart = kWarp / 2; apart > 0; apart /= 2)
          total += __shfl_xor_sync(kFullWarp, total, apart);
        if (lane == 0) T[i * p.N + j0 + j] = total;
      }
      if (rows > kSlots) __syncthreads();
    }
    for (int j = threadIdx.x; j < images && rows == 0; j += kThreads) T[i * p.N + j0 + j] = 0;
  }
}

template <typename scalar, int D, int kLength>
int run(const Problem<scalar>& p, scalar* T, Matches matches, const Device& on) {
  constexpr int kRows = (D <= 4 ? 8 : 4) / (sizeof(scalar) / sizeof(float));
  constexpr int64_t kSlots = kThreads * kRows;
  // Whole images, at most as many as there are threads, evenly.
  const int64_t most = larger(1, smaller(kThreads, kSlots / larger(1, p.R)));
  Cut cut;
  cut.images = static_cast<int>(ceil_div(p.N, ceil_div(p.N, most)));
  cut.sets = static_cast<unsigned>(ceil_div(p.N, cut.images));
  cut.others = images_in_turn(cut.sets, p.B, int64_t{on.multiprocessors} * kWaves, kMostOthers);
  const int64_t in_shared = smaller(ceil_div(p.S, kLength), kStagedBlocks) * (kLength | 1);
  const size_t shared = in_shared * sizeof(Candidate<scalar, D>) + kSlots * sizeof(scalar);
  const auto blocks = static_cast<unsigned>(cut.sets * ceil_div(p.B, cut.others));
  return launch(match_kernel<scalar, D, kRows, kLength>, dim3(blocks), kThreads, shared,
                static_cast<cudaStream_t>(on.stream), p, cut, T, matches);
}

}  // namespace

template <typename scalar>
int match_narrow(const Problem<scalar>& p, scalar* T, Matches matches, const Device& on) {
  if (p.N == 0 || p.B == 0) return cudaSuccess;
  return by_width(p.D, [&](auto width) {
    return block_length(p.S) == 7 ? run<scalar, width.value, 7>(p, T, matches, on)
                                  : run<scalar, width.value, 14>(p, T, matches, on);
  });
}

template int match_narrow(const Problem<float>&, float*, Matches, const Device&);
template int match_narrow(const Problem<double>&, double*, Matches, const Device&);

}  // namespace emergence_ext::cuda
