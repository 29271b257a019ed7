// float32 rows of up to eight channels on tensor cores. Each number is split into the sum of two of
// float16, and the products of the parts of up to four channels fill the sixteen places of one
// mma.sync: high high, high low, low high, low low. What limits it is the maximum alone.
//
// Sums select among candidates to about 2^-20 of the largest product that the row and the image
// could have; the winner's run of candidates is then scored in float32, where the lowest of equal
// ones wins. Rows of q and images of d are scaled by powers of two into the range of float16.

#include "arithmetic.h"
#include "matches.h"
#include "narrow.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTilesOfWarp = 4;  // of 16 rows of q
constexpr int kRowsOfLane = 2 * kTilesOfWarp;
constexpr int kSlots = kWarps * kTilesOfWarp * 16;  // rows of q at once
constexpr int kMostImages = 16;  // scored images of a block of threads, where they fill its slots
constexpr int kMostOthers = 16;  // conditioning images of a block of threads
constexpr int kWaves = 32;       // blocks of threads wanted for each multiprocessor
constexpr int kMostRows = 7168;  // of an image of q
constexpr int kMostCandidates = 1024;
constexpr int kNoRun = 0x7fffffff;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kTilesOfGroup = 5;         // tiles of eight candidates whose maximum is compared once
constexpr int kRun = 2 * kTilesOfGroup;  // candidates of a group that a lane sees
// Of runs in shared memory, in candidates: odd, so that lanes that score runs of their own spread
// over all banks. Ten would leave half of them idle.
constexpr int kRunStride = kRun + 1;

EMERGENCE_ANYWHERE constexpr int parts_of(int64_t D) { return D <= 4 ? 1 : 2; }

// 2^-exponent of x, so that x times it lies in [1, 2); for what is too small or too large the
// nearest factor there is.
__device__ __forceinline__ float unit_factor(float x) {
  const int exponent = static_cast<int>(__float_as_uint(x) >> 23 & 0xffu);
  const int wanted = 254 - exponent;
  return __uint_as_float(wanted > 0 ? static_cast<uint32_t>(wanted) << 23 : 0x00400000u);
}

// One part of a row: words of high channels 0 and 1, high 2 and 3, low 0 and 1, low 2 and 3.
__device__ __forceinline__ uint4 split(const float (&x)[4], float factor) {
  uint32_t high[4], low[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float scaled = x[k] * factor;
    high[k] = to_float16(scaled);
    low[k] = to_float16(scaled - from_float16(static_cast<uint16_t>(high[k])));
  }
  return make_uint4(high[0] | high[1] << 16, high[2] | high[3] << 16, low[0] | low[1] << 16,
                    low[2] | low[3] << 16);
}

// Rows that share a factor, one block of threads for each set: rows of q alone, those of an image
// of d together.
template <int D>
__global__ void __launch_bounds__(kThreads, 4)
    split_kernel(const float* __restrict__ rows, const float* __restrict__ v,
                 const int64_t rows_of_v, const int64_t sets, const int64_t rows_of_set,
                 uint4* __restrict__ out) {
  constexpr int kParts = parts_of(D);
  unsigned* const largest = reinterpret_cast<unsigned*>(shared_memory());
  // A set of one row belongs to a thread, a larger one to the block of threads.
  const bool single = rows_of_set == 1;
  const int64_t step = single ? int64_t{gridDim.x} * kThreads : gridDim.x;
  int64_t set = single ? int64_t{blockIdx.x} * kThreads + threadIdx.x : blockIdx.x;
  const auto read = [&](int64_t row, int k) {
    if (k >= D) return 0.0f;
    return v ? rows[row * D + k] * v[row / rows_of_v * D + k] : rows[row * D + k];
  };
  const auto magnitude = [&](int64_t row) {
    unsigned most = 0;
    for (int k = 0; k < D; ++k) {
      const unsigned bits = __float_as_uint(read(row, k)) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    return most;
  };
  for (; set < sets; set += step) {
    unsigned most = 0;
    if (single) {
      most = magnitude(set);
    } else {
      __syncthreads();
      if (threadIdx.x == 0) *largest = 0;
      __syncthreads();
      for (int64_t r = threadIdx.x; r < rows_of_set; r += kThreads)
        atomicMax(largest, magnitude(set * rows_of_set + r));
      __syncthreads();
      most = *largest;
    }
    const float factor = unit_factor(__uint_as_float(most));
    for (int64_t r = single ? 0 : threadIdx.x; r < rows_of_set; r += single ? 1 : kThreads) {
      const int64_t row = set * rows_of_set + r;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float x[4] = {read(row, 4 * part), read(row, 4 * part + 1), read(row, 4 * part + 2),
                            read(row, 4 * part + 3)};
        out[row * kParts + part] = split(x, factor);
      }
    }
  }
}

struct Work {
  int images;     // scored ones of a block of threads
  int others;     // conditioning ones
  unsigned sets;  // blocks of threads that share conditioning images
  int tiles;      // of eight candidates
};

EMERGENCE_ANYWHERE constexpr int groups_of(int tiles) {
  return (tiles + kTilesOfGroup - 1) / kTilesOfGroup;
}

// What a lane sees of a group of tiles is a run of neighbours. Four lanes share a group, so that
// the runs in ascending order hold all candidates in ascending order.
struct Run {
  int first, length;  // shorter in the last group, where that has fewer tiles

  __device__ __forceinline__ Run(int run, int tiles) {
    const int group = run / 4, left = tiles - group * kTilesOfGroup;
    length = 2 * (left < kTilesOfGroup ? left : kTilesOfGroup);
    first = group * 4 * kRun + run % 4 * length;
  }
};

// The candidates of image i: their parts in the order of tiles, and in float32 run by run. What is
// past the end of a run or of the image is the last one: it cannot win a tie against itself.
template <int D>
__device__ __forceinline__ void stage(const Problem<float>& p, const uint4* __restrict__ d_split,
                                      int tiles, int64_t i, uint4* words,
                                      Candidate<float, D>* staged) {
  constexpr int kParts = parts_of(D);
  const int S = static_cast<int>(p.S), padded = 8 * tiles, all = groups_of(tiles) * 4 * kRun;
  for (int at = threadIdx.x; at < all; at += kThreads) {
    const int of = at / kRun, e = at % kRun;
    const Run run(of, tiles);
    const int s = run.first + (e < run.length ? e : run.length - 1);
    const int64_t from = i * S + (s < S ? s : S - 1);
#pragma unroll
    for (int k = 0; k < D; ++k) staged[of * kRunStride + e].x[k] = p.d[from * D + k];
    if (e >= run.length) continue;
    const int word = (of / 4 * kTilesOfGroup + e / 2) * 8 + of % 4 * 2 + e % 2;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      words[part * padded + word] = d_split[from * kParts + part];
  }
}

// Rows of q of a block of threads: images j0, j0 + 1, ... one after another.
struct Rows {
  int64_t j0;
  int R, count;

  // What is past the last one is the last one, and not written.
  __device__ __forceinline__ int64_t of_slot(int slot) const {
    return j0 * R + (slot < count ? slot : count - 1);
  }
};

template <int kParts>
__device__ __forceinline__ void load_rows(uint32_t (&a)[kTilesOfWarp][kParts][4],
                                          const uint4* __restrict__ q_split, const Rows& rows,
                                          int row_of_tile, int place_of_lane, int first) {
#pragma unroll
  for (int m = 0; m < kTilesOfWarp; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = rows.of_slot(first + m * 16 + half * 8 + row_of_tile);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint4 x = q_split[row * kParts + part];
        a[m][part][half] = place_of_lane % 2 ? x.y : x.x;
        a[m][part][2 + half] = place_of_lane % 2 ? x.w : x.z;
      }
    }
}

// The largest sum of a lane in each of its rows, and the group of tiles that has it.
template <int kParts>
__device__ __forceinline__ void find_groups(const uint32_t (&a)[kTilesOfWarp][kParts][4],
                                            const uint4* words, int tiles, int row_of_tile,
                                            int place_of_lane, float (&best)[kRowsOfLane],
                                            int (&winner)[kRowsOfLane]) {
  const int groups = groups_of(tiles), padded = 8 * tiles;
#pragma unroll
  for (int x = 0; x < kRowsOfLane; ++x) {
    best[x] = kLowest<float>;
    winner[x] = 0;
  }
  const uint32_t* const of_lane =
      reinterpret_cast<const uint32_t*>(words) + 4 * row_of_tile + place_of_lane;
  for (int group = 0; group < groups; ++group) {
    float top[kRowsOfLane];
#pragma unroll
    for (int x = 0; x < kRowsOfLane; ++x) top[x] = best[x];
#pragma unroll
    for (int tile = 0; tile < kTilesOfGroup; ++tile) {
      if (group * kTilesOfGroup + tile >= tiles) break;
      uint32_t b[kParts];
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        b[part] = of_lane[4 * (part * padded + (group * kTilesOfGroup + tile) * 8)];
#pragma unroll
      for (int m = 0; m < kTilesOfWarp; ++m) {
        float sum[4];
        product_float16(sum, a[m][0], b[0], b[0]);
        if constexpr (kParts > 1) multiply_float16(sum, a[m][1], b[1], b[1]);
#pragma unroll
        for (int c = 0; c < 4; ++c) top[2 * m + c / 2] = max_nan(top[2 * m + c / 2], sum[c]);
      }
    }
#pragma unroll
    for (int x = 0; x < kRowsOfLane; ++x) {
      if (top[x] > best[x]) winner[x] = group;
      best[x] = top[x];
    }
  }
}

// Lanes l and l ^ apart have the same rows: each hands half of them over and keeps the other half,
// with the larger sum of both and its run, the lower of equal ones; kNoRun where a sum was NaN.
template <int kKept>
__device__ __forceinline__ void share_rows(float (&best)[kRowsOfLane], int (&run)[kRowsOfLane],
                                           int apart, bool upper) {
#pragma unroll
  for (int x = 0; x < kKept; ++x) {
    const float mine = upper ? best[kKept + x] : best[x];
    const int of_mine = upper ? run[kKept + x] : run[x];
    const float other = __shfl_xor_sync(kFullWarp, upper ? best[x] : best[kKept + x], apart);
    const int of_other = __shfl_xor_sync(kFullWarp, upper ? run[x] : run[kKept + x], apart);
    best[x] = max_nan(mine, other);
    const int a = mine == best[x] ? of_mine : kNoRun, b = other == best[x] ? of_other : kNoRun;
    run[x] = a < b ? a : b;
  }
}

// The best candidate of a run: the lowest of equal ones. None of the products is NaN.
template <int D>
__device__ __forceinline__ Best<float> score_run(const float (&q)[D],
                                                 const Candidate<float, D>* staged) {
  float x[kRun];
  Best<float> best;
#pragma unroll
  for (int e = 0; e < kRun; ++e) {
    x[e] = product<float, D>(q, staged[e]);
    best.value = max_nan(best.value, x[e]);
  }
#pragma unroll
  for (int e = kRun - 1; e >= 0; --e)
    if (x[e] == best.value) best.place = e;
  return best;
}

// Where a sum was NaN: the best of all candidates, from global memory, since that is rare. What is
// not finite in its parts is never a plausible number.
template <int D>
__device__ __forceinline__ Best<float> score_all(const float (&q)[D], const float* d, int S) {
  Best<float> best;
#pragma unroll 1
  for (int s = 0; s < S; ++s) best.follow(product<float, D>(q, candidate<float, D>(d, s)), s);
  best.value += kNaN;
  return best;
}

// T of the images, a warp for each; `T` is that of the first one.
__device__ __forceinline__ void sum_values(const float* values, int images, int R,
                                           float* __restrict__ T) {
  const int lane = threadIdx.x % kWarp;
  for (int j = threadIdx.x / kWarp; j < images; j += kWarps) {
    float sum = 0;
    for (int r = lane; r < R; r += kWarp) sum += values[j * R + r];
#pragma unroll
    for (int apart = kWarp / 2; apart > 0; apart /= 2)
      sum += __shfl_xor_sync(kFullWarp, sum, apart);
    if (lane == 0) T[j] = sum;
  }
}

// A warp has 64 rows of q, a lane of them eight: it sees, of each tile of eight candidates, two.
// Lanes l, l + 1, l + 2, l + 3 have the same rows, until each has found its best run: then a lane
// scores two of them.
template <int D>
__global__ void __launch_bounds__(kThreads, 2)
    match_kernel(const Problem<float> p, const uint4* __restrict__ q_split,
                 const uint4* __restrict__ d_split, const Work work, float* __restrict__ T,
                 const Matches matches) {
  constexpr int kParts = parts_of(D);
  using Row = Candidate<float, D>;
  const int S = static_cast<int>(p.S), R = static_cast<int>(p.R);
  const int padded = 8 * work.tiles;
  uint4* const words = reinterpret_cast<uint4*>(shared_memory());       // [kParts, padded]
  Row* const staged = reinterpret_cast<Row*>(words + kParts * padded);  // runs, kRunStride apart
  float* const values = reinterpret_cast<float*>(staged + groups_of(work.tiles) * 4 * kRunStride);

  const int64_t j0 = int64_t{blockIdx.x % work.sets} * work.images;
  const int64_t i0 = int64_t{blockIdx.x / work.sets} * work.others;
  const int64_t i1 = smaller(i0 + work.others, p.B);
  const int images = static_cast<int>(smaller(work.images, p.N - j0));
  const Rows rows{j0, R, images * R};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row_of_tile = lane / 4, place_of_lane = lane % 4;

  for (int64_t i = i0; i < i1; ++i) {
    __syncthreads();
    stage<D>(p, d_split, work.tiles, i, words, staged);
    __syncthreads();

    for (int first = warp * kTilesOfWarp * 16; first < rows.count; first += kSlots) {
      uint32_t a[kTilesOfWarp][kParts][4];
      load_rows(a, q_split, rows, row_of_tile, place_of_lane, first);
      float best[kRowsOfLane];
      int winner[kRowsOfLane];
      find_groups(a, words, work.tiles, row_of_tile, place_of_lane, best, winner);
      // From groups to runs; then a lane scores two rows, whose runs were found by four.
#pragma unroll
      for (int x = 0; x < kRowsOfLane; ++x) winner[x] = 4 * winner[x] + place_of_lane;
      const bool odd = place_of_lane % 2, high = place_of_lane / 2;
      share_rows<kRowsOfLane / 2>(best, winner, 1, odd);
      share_rows<kRowsOfLane / 4>(best, winner, 2, high);
      static_assert(kRowsOfLane == 8);
#pragma unroll 1  // else the compiler has this some thirty times, for each of the branches below
      for (int x = 0; x < 2; ++x) {
        const int slot = first + 8 * (4 * odd + 2 * high + x) + row_of_tile;
        if (slot >= rows.count) continue;
        const int run = x == 0 ? winner[0] : winner[1];
        const int64_t row = j0 * R + slot;
        float q[D];
#pragma unroll
        for (int k = 0; k < D; ++k) {
          q[k] = p.q[row * D + k];
          if (p.v) q[k] *= p.v[(j0 + slot / R) * D + k];
        }
        Best<float> chosen;
        if (run == kNoRun) {
          chosen = score_all<D>(q, p.d + i * S * D, S);
        } else {
          chosen = score_run<D>(q, staged + run * kRunStride);
          const int s = Run(run, work.tiles).first + chosen.place;
          chosen.place = s < S ? s : S - 1;
        }
        values[slot] = p.a ? p.a[row] * chosen.value : chosen.value;
        if (matches.data) write_match(matches, (i * p.N + j0) * R + slot, chosen.place);
      }
    }
    __syncthreads();
    sum_values(values, images, R, T + i * p.N + j0);
  }
}

template <int D>
int split_rows(const float* rows, const float* v, int64_t rows_of_v, int64_t sets,
               int64_t rows_of_set, uint4* out, const Device& on) {
  const int64_t blocks = rows_of_set == 1 ? ceil_div(sets, kThreads) : sets;
  const int64_t most = int64_t{on.multiprocessors} * 64;
  return launch(split_kernel<D>, dim3(static_cast<unsigned>(smaller(blocks, most))), kThreads,
                sizeof(unsigned), static_cast<cudaStream_t>(on.stream), rows, v, rows_of_v, sets,
                rows_of_set, out);
}

template <int D>
constexpr int64_t shared_bytes(int tiles, int64_t rows) {
  return parts_of(D) * tiles * 8 * sizeof(uint4) +
         groups_of(tiles) * 4 * kRunStride * sizeof(Candidate<float, D>) + rows * sizeof(float);
}

template <int D>
int run(const Problem<float>& p, const uint4* q_split, const uint4* d_split, float* T,
        Matches matches, const Device& on) {
  Work work;
  // As many images as leave the fewest slots empty.
  int64_t fewest = 0;
  const int64_t most = smaller(p.N, larger(kMostImages, kSlots / p.R));
  for (int64_t images = 1; images <= most; ++images) {
    const int64_t rows = images * p.R;
    if (images > 1 && rows > kMostRows) break;
    const int64_t empty = (round_up(rows, kSlots) - rows) * kMostRows / larger(1, rows);
    if (images == 1 || empty < fewest) {
      fewest = empty;
      work.images = static_cast<int>(images);
    }
  }
  work.sets = static_cast<unsigned>(ceil_div(p.N, work.images));
  work.others = images_in_turn(work.sets, p.B, int64_t{on.multiprocessors} * kWaves, kMostOthers);
  work.tiles = static_cast<int>(ceil_div(p.S, 8));
  const int64_t shared = shared_bytes<D>(work.tiles, work.images * p.R);
  static_assert(shared_bytes<D>(kMostCandidates / 8, kMostRows) <= kLeastShared);
  const dim3 grid(static_cast<unsigned>(work.sets * ceil_div(p.B, work.others)));
  return launch(match_kernel<D>, grid, kThreads, static_cast<size_t>(shared),
                static_cast<cudaStream_t>(on.stream), p, q_split, d_split, work, T, matches);
}

}  // namespace

bool split_applies(const Problem<float>& p) {
  return p.D <= kNarrow && p.S <= kMostCandidates && p.R > 0 && p.R <= kMostRows;
}

int64_t split_bytes(int64_t rows, int64_t D) { return rows * parts_of(D) * sizeof(uint4); }

int split_rows(const Problem<float>& p, void* q_split, void* d_split, const Device& on) {
  return by_width(p.D, [&](auto width) {
    constexpr int D = width.value;
    int status = cudaSuccess;
    if (q_split && p.N > 0)
      status = split_rows<D>(p.q, p.v, p.R, p.N * p.R, 1, static_cast<uint4*>(q_split), on);
    if (status == cudaSuccess && d_split && p.B > 0)
      status = split_rows<D>(p.d, nullptr, 1, p.B, p.S, static_cast<uint4*>(d_split), on);
    return static_cast<int>(status);
  });
}

int match_split(const Problem<float>& p, const void* q_split, const void* d_split, float* T,
                Matches matches, const Device& on) {
  if (p.N == 0 || p.B == 0) return cudaSuccess;
  const auto* const of_q = static_cast<const uint4*>(q_split);
  const auto* const of_d = static_cast<const uint4*>(d_split);
  return by_width(p.D, [&](auto width) { return run<width.value>(p, of_q, of_d, T, matches, on); });
}

}  // namespace emergence_ext::cuda
