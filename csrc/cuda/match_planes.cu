// Wide rows on tensor cores, by mma.sync: a matrix product of 16-bit entries whose tile of
// candidates is one image or a part of it, and the maximum taken from the sums in registers.
//
// Tiles come by asynchronous copies, several steps ahead; a step is 64 channels. Where they fit,
// the rows of q stay in shared memory while the images pass by. Two planes of bfloat16 stand for
// float32 rows: high high + high low + low high, three products in a row.

#include "arithmetic.h"
#include "matches.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStep = 64;             // channels of a step
constexpr int kRowBytes = 2 * kStep;  // of a row of a tile in shared memory
constexpr int kPieces = kRowBytes / 16;
constexpr int kWarpRows = 32;    // rows of q of a warp
constexpr int kMostOthers = 32;  // conditioning images that one block of threads meets
constexpr int kWaves = 8;        // blocks of threads wanted for each multiprocessor

// Warps lie kDown x kAcross over the tile, each with kWarpRows rows and 8 kTiles candidates.
template <int kAcross_, int kTiles_>
struct Tile {
  static constexpr int kAcross = kAcross_, kTiles = kTiles_, kDown = kWarps / kAcross;
  static constexpr int kRows = kDown * kWarpRows, kColumns = kAcross * kTiles * 8;
  static constexpr int kRowsBytes = kRows * kRowBytes, kColumnsBytes = kColumns * kRowBytes;
  static constexpr int kExchange = kAcross > 1 ? kRows * 8 : 0;
};

struct Work {
  unsigned tiles;  // of rows
  int others;      // conditioning images of a block of threads
  int parts;       // tiles of candidates of an image
  int products;    // of planes, for each tile
  int steps;       // of one product
  bool resident;   // rows of q are loaded once
};

// Where a block of threads is: counted upwards, since to divide for it costs more than the copies.
template <int kStages>
struct Position {
  int64_t image;
  int part = 0, product = 0, step = 0, stage = 0;

  __device__ int q_plane() const { return product == 2; }
  __device__ int d_plane() const { return product == 1; }
  __device__ bool ends_tile(const Work& work) const {
    return step + 1 == work.steps && product + 1 == work.products;
  }
  __device__ void next(const Work& work) {
    if (++stage == kStages) stage = 0;
    if (++step < work.steps) return;
    step = 0;
    if (++product < work.products) return;
    product = 0;
    if (++part < work.parts) return;
    part = 0;
    ++image;
  }
};

// Rows that follow one another from `from` on, of which there are `left`: their pieces of a step,
// of whose channels there are `channels`. A thread has the same piece of every kStride-th row.
template <int kRows>
__device__ __forceinline__ void copy_rows(char* shared, const uint16_t* from, int64_t left,
                                          int64_t stride, int64_t channels) {
  constexpr int kStride = kThreads / kPieces;
  static_assert(kStride % 8 == 0, "rows of a thread are swizzled alike");
  const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
  if (piece * 8 >= channels) return;  // nobody reads it
  const int there = static_cast<int>(smaller(kRows, left)) - row;
  char* const to = shared + row * kRowBytes + swizzled(row, piece) * 16;
  from += (there > 0 ? row * stride : 0) + piece * 8;
#pragma unroll
  for (int first = 0; first < kRows; first += kStride) {
    if (first + kStride > kRows && first + row >= kRows) break;
    copy_async(to + first * kRowBytes, from + (first < there ? first * stride : 0), first < there);
  }
}

template <bool kFloat16>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  if constexpr (kFloat16)
    multiply_float16(c, a, b0, b1);
  else
    multiply_bfloat16(c, a, b0, b1);
}

template <typename T, int kStages, bool kFloat16>
__global__ void __launch_bounds__(kThreads, 1)
    match_kernel(const Planes p, const Work work, float* __restrict__ value,
                 const Matches matches) {
  constexpr int kTiles = T::kTiles;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int down = warp % T::kDown, across = warp / T::kDown;
  const int64_t row0 = int64_t{blockIdx.x % work.tiles} * T::kRows;
  const int64_t i0 = int64_t{blockIdx.x / work.tiles} * work.others;
  const int64_t i1 = smaller(i0 + work.others, p.B), stride = p.planes * p.width;
  const int S = static_cast<int>(p.S);

  char* const of_d = shared_memory();
  char* const of_q = of_d + kStages * T::kColumnsBytes;
  const int slots = work.resident ? work.steps * p.planes : kStages;
  float* const other_value = reinterpret_cast<float*>(of_q + slots * T::kRowsBytes);
  int* const other_place = reinterpret_cast<int*>(other_value + T::kRows);

  const auto slot_of_q = [&](const Position<kStages>& at) {
    return of_q + (work.resident ? at.q_plane() * work.steps + at.step : at.stage) * T::kRowsBytes;
  };
  Position<kStages> ahead{i0}, now{i0};
  const auto load = [&] {
    if (ahead.image < i1) {
      const int s0 = ahead.part * T::kColumns;
      const int64_t column = int64_t{ahead.step} * kStep, channels = p.width - column;
      copy_rows<T::kColumns>(
          of_d + ahead.stage * T::kColumnsBytes,
          p.d + (ahead.image * S + s0) * stride + ahead.d_plane() * p.width + column, S - s0,
          stride, channels);
      if (!work.resident || (ahead.image == i0 && ahead.part == 0 && ahead.d_plane() == 0))
        copy_rows<T::kRows>(slot_of_q(ahead),
                            p.q + row0 * stride + ahead.q_plane() * p.width + column, p.rows - row0,
                            stride, channels);
      ahead.next(work);
    }
    copy_async_commit();
  };

  float sum[2][kTiles][4] = {};
  Best<float> best[4];
#pragma unroll 1
  for (int step = 0; step < kStages - 1; ++step) load();
  for (; now.image < i1; now.next(work)) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    load();

    const char* const q = slot_of_q(now);
    const char* const d = of_d + now.stage * T::kColumnsBytes;
    const int channels = static_cast<int>(p.width) - now.step * kStep;
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      if (k * 16 >= channels) break;
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int row = down * kWarpRows + m * 16 + lane % 16;
        load_matrices(a[m], q + row * kRowBytes + swizzled(row, 2 * k + lane / 16) * 16);
      }
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        uint32_t b[4];
        const int wanted = n * 8 + lane / 16 * 8 + lane % 8;
        const int of_warp = wanted < kTiles * 8 ? wanted : kTiles * 8 - 1;  // where kTiles is odd
        const int row = across * kTiles * 8 + of_warp;
        load_matrices(b, d + row * kRowBytes + swizzled(row, 2 * k + lane / 8 % 2) * 16);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply<kFloat16>(sum[m][n], a[m], b[0], b[1]);
          if (n + 1 < kTiles)
            multiply<kFloat16>(sum[m][n + 1 < kTiles ? n + 1 : n], a[m], b[2], b[3]);
        }
      }
    }
    if (!now.ends_tile(work)) continue;

    const int s0 = now.part * T::kColumns;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int s = s0 + (across * kTiles + n) * 8 + lane % 4 * 2 + c % 2;
          if (s < S) best[2 * m + c / 2].follow(sum[m][n][c], s);
          sum[m][n][c] = 0;
        }
    if (now.part + 1 < work.parts) continue;

#pragma unroll
    for (int x = 0; x < 4; ++x)
#pragma unroll
      for (int apart = 1; apart < 4; apart *= 2) {
        const float y = __shfl_xor_sync(kFullWarp, best[x].value, apart);
        const int s = __shfl_xor_sync(kFullWarp, best[x].place, apart);
        best[x].join(y, s);
      }
    const int first = down * kWarpRows + lane / 4;  // of the rows of this lane, eight apart
    if constexpr (T::kAcross > 1) {
      static_assert(T::kAcross == 2, "one warp hands over to the other");
      if (across == 1 && lane % 4 == 0) {
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          other_value[first + 8 * x] = best[x].value;
          other_place[first + 8 * x] = best[x].place;
        }
      }
      __syncthreads();
      if (across == 0 && lane % 4 == 0) {
#pragma unroll
        for (int x = 0; x < 4; ++x)
          best[x].join(other_value[first + 8 * x], other_place[first + 8 * x]);
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int64_t row = row0 + first + 8 * x;
      if (across == 0 && lane % 4 == 0 && row < p.rows) {
        value[now.image * p.rows + row] = best[x].value;
        if (matches.data) write_match(matches, now.image * p.rows + row, best[x].place);
      }
      best[x] = Best<float>();
    }
  }
}

template <typename T, int kStages>
int run(const Planes& p, float* value, Matches matches, const Device& on, bool resident) {
  Work work;
  work.tiles = static_cast<unsigned>(ceil_div(p.rows, T::kRows));
  work.parts = static_cast<int>(ceil_div(p.S, T::kColumns));
  work.products = p.planes == 2 ? 3 : 1;
  work.steps = static_cast<int>(ceil_div(p.width, kStep));
  work.resident = resident;
  work.others = images_in_turn(work.tiles, p.B, int64_t{on.multiprocessors} * kWaves, kMostOthers);
  const int64_t slots = resident ? work.steps * p.planes : kStages;
  const int64_t shared = kStages * T::kColumnsBytes + slots * T::kRowsBytes + T::kExchange;
  const dim3 grid(static_cast<unsigned>(work.tiles * ceil_div(p.B, work.others)));
  const auto kernel = p.float16 ? match_kernel<T, kStages, true> : match_kernel<T, kStages, false>;
  return launch(kernel, grid, kThreads, static_cast<size_t>(shared),
                static_cast<cudaStream_t>(on.stream), p, work, value, matches);
}

// Three stages with all of q where that fits, else three or two that bring q as well.
template <typename T>
int run(const Planes& p, float* value, Matches matches, const Device& on) {
  const int64_t stage = T::kColumnsBytes + T::kRowsBytes;
  const int64_t all_of_q = ceil_div(p.width, kStep) * p.planes * T::kRowsBytes;
  if (3 * T::kColumnsBytes + all_of_q + T::kExchange <= on.shared)
    return run<T, 3>(p, value, matches, on, true);
  if (3 * stage + T::kExchange <= on.shared) return run<T, 3>(p, value, matches, on, false);
  static_assert(2 * stage + T::kExchange <= kLeastShared);
  return run<T, 2>(p, value, matches, on, false);
}

}  // namespace

int match_planes(const Planes& p, float* value, Matches matches, const Device& on) {
  if (p.rows == 0 || p.B == 0) return cudaSuccess;
  // The tile that leaves the fewest candidates empty.
  using Whole = Tile<2, 13>;
  using Half = Tile<1, 13>;
  using Quarter = Tile<1, 7>;
  const int64_t whole = round_up(p.S, Whole::kColumns), half = round_up(p.S, Half::kColumns);
  const int64_t quarter = round_up(p.S, Quarter::kColumns);
  if (whole <= half && whole <= quarter) return run<Whole>(p, value, matches, on);
  if (half <= quarter) return run<Half>(p, value, matches, on);
  return run<Quarter>(p, value, matches, on);
}

}  // namespace emergence_ext::cuda
