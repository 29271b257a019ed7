// Wider rows in the arithmetic of their own type: a matrix product in tiles whose sums stay in
// registers, with the maximum taken from there.

#include "arithmetic.h"
#include "matches.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kSide = 16;  // threads along rows and along candidates
constexpr int kThreads = kSide * kSide;
constexpr int kTileColumns = 128;  // of candidates, at most
constexpr int kDepth = 8;          // channels in shared memory at once
constexpr int kMostOthers = 16;    // conditioning images that one block of threads meets
constexpr int kWaves = 8;          // blocks of threads wanted for each multiprocessor

// kDepth channels of kCount rows from global memory, by way of registers, transposed.
template <typename scalar, int kCount>
class Slice {
  static constexpr int kEach = kCount * kDepth / kThreads;  // entries of a thread
  static constexpr int kAcross = kDepth / kEach;            // threads along a row
  static_assert(kEach * kThreads == kCount * kDepth && kAcross * kEach == kDepth);

 public:
  static constexpr int kStride = kCount + 16 / sizeof(scalar);  // rows stay aligned

  // `row` is this thread's, null past the last; `scale` has a factor for each channel, or is null.
  __device__ static int row_of_thread() { return threadIdx.x / kAcross; }

  __device__ void load(const scalar* row, const scalar* scale, int64_t k0, int64_t D) {
    const int64_t first = k0 + threadIdx.x % kAcross * kEach;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t k = first + e;
      x[e] = row && k < D ? row[k] : 0;
      if (row && k < D && scale) x[e] *= scale[k];
    }
  }

  __device__ void store(scalar* shared) const {
    const int first = threadIdx.x % kAcross * kEach;
#pragma unroll
    for (int e = 0; e < kEach; ++e) shared[(first + e) * kStride + row_of_thread()] = x[e];
  }

 private:
  scalar x[kEach];
};

// A thread has rows of q that follow one another, and candidates kSide apart.
template <typename scalar, int kRows, int kColumns>
__global__ void __launch_bounds__(kThreads, 2)
    match_kernel(const Problem<scalar> p, const unsigned tiles, const int others,
                 scalar* __restrict__ value, const Matches matches) {
  constexpr int kTileRows = kRows * kSide;
  static_assert(kColumns * kSide <= kTileColumns, "candidates are loaded as for a whole tile");
  using SliceOfQ = Slice<scalar, kTileRows>;
  using SliceOfD = Slice<scalar, kTileColumns>;
  scalar* const q = reinterpret_cast<scalar*>(shared_memory());
  scalar* const d = q + kDepth * SliceOfQ::kStride;

  const int64_t row0 = int64_t{blockIdx.x % tiles} * kTileRows, rows = p.N * p.R;
  const int64_t i0 = int64_t{blockIdx.x / tiles} * others, i1 = smaller(i0 + others, p.B);
  const int down = threadIdx.x / kSide, across = threadIdx.x % kSide;
  const int S = static_cast<int>(p.S);

  const int64_t mine = row0 + SliceOfQ::row_of_thread();
  const scalar* const q_row = mine < rows ? p.q + mine * p.D : nullptr;
  const scalar* const scale = p.v && mine < rows ? p.v + mine / p.R * p.D : nullptr;

  for (int64_t i = i0; i < i1; ++i) {
    Best<scalar> best[kRows];
    for (int s0 = 0; s0 < S; s0 += kColumns * kSide) {
      const int column = s0 + SliceOfD::row_of_thread();
      const bool there = column < S && column < s0 + kColumns * kSide;
      const scalar* const d_row = there ? p.d + (i * S + column) * p.D : nullptr;
      scalar sum[kRows][kColumns] = {};
      SliceOfQ q_next;
      SliceOfD d_next;
      q_next.load(q_row, scale, 0, p.D);
      d_next.load(d_row, nullptr, 0, p.D);
      for (int64_t k0 = 0; k0 < p.D; k0 += kDepth) {
        __syncthreads();
        q_next.store(q);
        d_next.store(d);
        __syncthreads();
        q_next.load(q_row, scale, k0 + kDepth, p.D);
        d_next.load(d_row, nullptr, k0 + kDepth, p.D);
#pragma unroll
        for (int k = 0; k < kDepth; ++k) {
          scalar x[kRows], y[kColumns];
#pragma unroll
          for (int r = 0; r < kRows; ++r) x[r] = q[k * SliceOfQ::kStride + down * kRows + r];
#pragma unroll
          for (int c = 0; c < kColumns; ++c) y[c] = d[k * SliceOfD::kStride + c * kSide + across];
#pragma unroll
          for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int c = 0; c < kColumns; ++c) sum[r][c] = fma(x[r], y[c], sum[r][c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int s = s0 + c * kSide + across;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          if (s < S) best[r].follow(sum[r][c], s);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int apart = kSide / 2; apart > 0; apart /= 2) {
        const scalar x = __shfl_xor_sync(kFullWarp, best[r].value, apart);
        const int s = __shfl_xor_sync(kFullWarp, best[r].place, apart);
        best[r].join(x, s);
      }
      const int64_t row = row0 + down * kRows + r;
      if (across > 0 || row >= rows) continue;
      value[i * rows + row] = best[r].value;
      if (matches.data) write_match(matches, i * rows + row, best[r].place);
    }
  }
}

template <typename scalar, int kRows, int kColumns>
int run(const Problem<scalar>& p, scalar* value, Matches matches, const Device& on) {
  const int64_t tiles = ceil_div(p.N * p.R, kRows * kSide);
  const int64_t wanted = int64_t{on.multiprocessors} * kWaves;
  const int others = images_in_turn(tiles, p.B, wanted, kMostOthers);
  const size_t shared =
      kDepth * (Slice<scalar, kRows * kSide>::kStride + Slice<scalar, kTileColumns>::kStride) *
      sizeof(scalar);
  return launch(match_kernel<scalar, kRows, kColumns>,
                dim3(static_cast<unsigned>(tiles * ceil_div(p.B, others))), kThreads, shared,
                static_cast<cudaStream_t>(on.stream), p, static_cast<unsigned>(tiles), others,
                value, matches);
}

}  // namespace

template <typename scalar>
int match_wide(const Problem<scalar>& p, scalar* value, Matches matches, const Device& on) {
  if (p.N * p.R == 0 || p.B == 0) return cudaSuccess;
  constexpr int kRows = sizeof(scalar) == sizeof(float) ? 8 : 4;
  // The tile that leaves fewer candidates empty.
  return round_up(p.S, 7 * kSide) < round_up(p.S, 4 * kSide)
             ? run<scalar, kRows, 7>(p, value, matches, on)
             : run<scalar, kRows, 4>(p, value, matches, on);
}

template int match_wide(const Problem<float>&, float*, Matches, const Device&);
template int match_wide(const Problem<double>&, double*, Matches, const Device&);

}  // namespace emergence_ext::cuda
