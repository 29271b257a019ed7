// Wide rows on Hopper's tensor cores: the products of match_planes.cu by warpgroups, from factors
// that bulk tensor copies bring to shared memory. It has never run on a GPU.
//
// A block of threads has kRows rows of q and meets a range of conditioning images. One warpgroup
// issues copies into a ring of stages, 64 channels each; two multiply, 64 rows each, with all
// candidates of a tile at once, and take the maximum from the sums in registers. A tile is one
// image, several small ones or a part of a large one. Where they fit, the rows of q stay in shared
// memory. Two blocks, a cluster, meet the same images at the same time, and each copies half of
// every tile for both: alone they would ask more of the L2 cache than it gives.

#include "arithmetic.h"
#include "hopper.h"
#include "matches.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kConsumers = 2;  // warpgroups that multiply
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kRows = kConsumers * kWarpgroupRows;
constexpr int kRowsBytes = kRows * kSwizzleBytes;
constexpr int kStep = kSwizzleBytes / 2;  // channels of a stage
constexpr int kBarriersBytes = 16;        // of a stage
constexpr int kMostStages = 8;
constexpr int kMostOthers = 64;  // conditioning images that one block of threads meets
constexpr int kWaves = 8;        // blocks of threads wanted for each multiprocessor

// Registers of a thread: of all at first, then of those that copy and those that multiply.
constexpr int kRegisters = 168, kCopying = 40, kMultiplying = 232;
static_assert(kRegisters * kThreads <= 64 << 10);
static_assert(kCopying + kConsumers * kMultiplying == (1 + kConsumers) * kRegisters);

// Up to kColumns candidates of each of kImages images. They come in two boxes, one from each block
// of a cluster, of half the images or half the candidates.
template <int kImages_, int kColumns_>
struct Tile {
  static constexpr int kImages = kImages_, kColumns = kColumns_, kAll = kImages * kColumns;
  static constexpr int kBoxImages = kImages > 1 ? kImages / 2 : 1;
  static constexpr int kBoxColumns =
      kImages > 1 ? kColumns : static_cast<int>(round_up(kAll / 2, 8));
  static constexpr int kBoxBytes = kBoxImages * kBoxColumns * kSwizzleBytes, kBytes = 2 * kBoxBytes;
  static_assert(kColumns % 8 == 0 && kBoxBytes % kPatternBytes == 0 &&
                kBytes >= kAll * kSwizzleBytes);
};

struct Work {
  int64_t rows, B;
  unsigned tiles;  // of rows, in whole clusters
  int S, planes, others, cluster, steps, stages;
  bool resident;  // rows of q are loaded once
};

// Shared memory: rows of q where they stay, the stages, then two barriers of each: full and empty.
template <typename T>
struct Ring {
  const Work& work;
  const uint32_t start, stage_bytes, stages, barriers;
  int stage = 0;
  uint32_t parity = 0;  // of the phase that fills this stage

  __device__ explicit Ring(const Work& work)
      : work(work),
        start((shared_address(shared_memory()) + kPatternBytes - 1) / kPatternBytes *
              kPatternBytes),
        stage_bytes(work.planes * (T::kBytes + (work.resident ? 0 : kRowsBytes))),
        stages(start + (work.resident ? work.planes * work.steps * kRowsBytes : 0)),
        barriers(stages + work.stages * stage_bytes) {}

  __device__ uint32_t d(int plane) const {
    return stages + stage * stage_bytes + plane * T::kBytes;
  }
  __device__ uint32_t q(int plane, int step) const {
    return work.resident ? start + (plane * work.steps + step) * kRowsBytes
                         : d(work.planes) + plane * kRowsBytes;
  }
  __device__ uint32_t full() const { return barriers + stage * kBarriersBytes; }
  __device__ uint32_t empty() const { return full() + kBarriersBytes / 2; }
  __device__ void next() {
    if (++stage < work.stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// By one thread. A stage is full when its tiles are there; it is empty when the products with it
// are made in all blocks of the cluster, since each of them writes to all.
template <typename T>
__device__ __forceinline__ void copy(const TensorMap& q_map, const TensorMap& d_map,
                                     const Work& work, Ring<T>& ring, int64_t row0, int64_t i0,
                                     int64_t i1) {
  const uint32_t rank = cluster_rank(), cluster = static_cast<uint32_t>(work.cluster);
  bool brings_q = true;
  for (int64_t i = i0; i < i1; i += T::kImages)
    for (int s0 = 0; s0 < work.S; s0 += T::kColumns) {
      for (int step = 0; step < work.steps; ++step) {
        const int channel = step * kStep;
        barrier_wait(ring.empty(), ring.parity ^ 1);
        barrier_expect(ring.full(), work.planes * (T::kBytes + (brings_q ? kRowsBytes : 0)));
#pragma unroll 1
        for (int plane = 0; plane < work.planes; ++plane) {
          if (brings_q)
            load_box(ring.q(plane, step), q_map, channel, plane, static_cast<int>(row0), 0,
                     ring.full());
#pragma unroll
          for (uint32_t half = 0; half < 2; ++half)
            if (half % cluster == rank)
              load_box(ring.d(plane) + half * T::kBoxBytes, d_map, channel, plane,
                       s0 + (T::kImages > 1 ? 0 : half * T::kBoxColumns),
                       static_cast<int>(i) + (T::kImages > 1 ? half * T::kBoxImages : 0),
                       ring.full(), cluster);
        }
        ring.next();
      }
      brings_q = !work.resident;
    }
  // The other block may not arrive at barriers here once this block is gone.
  for (int x = 0; x < work.stages; ++x) {
    barrier_wait(ring.empty(), ring.parity ^ 1);
    ring.next();
  }
}

// Which of a lane's candidates is the first whose product is `most`.
template <int kBlocks, bool kNan>
__device__ __forceinline__ int find(const float* sum, float most) {
  int first = 0;
#pragma unroll
  for (int n = kBlocks - 1; n >= 0; --n)
#pragma unroll
    for (int c = 1; c >= 0; --c) {
      const float x = sum[4 * n + c];
      if (x == most || (kNan && x != x)) first = 8 * n + c;
    }
  return first;
}

// The best of a lane's candidates, of which the tile has `left`, in each of its two rows.
template <int kColumns>
__device__ __forceinline__ void take_best(float* sum, int left, int s0, bool wants_places,
                                          Best<float> (&best)[2]) {
  constexpr int kBlocks = kColumns / 8;
  const int column = threadIdx.x % 4 * 2;  // the first of this lane
  // What is past the image, zeros times the rows, is out. Mostly that is in the last few blocks of
  // columns, so they are asked for by a few.
  constexpr int kTogether = 4;
#pragma unroll
  for (int n0 = 0; n0 < kBlocks; n0 += kTogether) {
    if ((n0 + kTogether) * 8 <= left) continue;
#pragma unroll
    for (int x = n0 * 4; x < (n0 + kTogether) * 4 && x < kBlocks * 4; ++x)
      if (x / 4 * 8 + column + x % 2 >= left) sum[x] = kLowest<float>;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = sum[2 * h];
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) most = max_nan(most, sum[4 * n + 2 * h + c]);
    int place = 0;
    if (wants_places)
      place = s0 + column +
              (__any_sync(kFullWarp, most != most) ? find<kBlocks, true>(sum + 2 * h, most)
                                                   : find<kBlocks, false>(sum + 2 * h, most));
    best[h].follow(most, place);
  }
}

template <typename T, bool kFloat16>
__device__ __forceinline__ void match(const Work& work, Ring<T>& ring, int group, int64_t row0,
                                      int64_t i0, int64_t i1, float* __restrict__ value,
                                      const Matches& matches) {
  const int lane = threadIdx.x % kWarp, products = work.planes == 2 ? 3 : 1;
  uint32_t read = 0;  // the barrier of the stage that the last batch of products reads
  float sum[T::kAll / 2] = {};
  Best<float> best[T::kImages][2];
  for (int64_t i = i0; i < i1; i += T::kImages) {
    for (int s0 = 0; s0 < work.S; s0 += T::kColumns) {
      for (int step = 0; step < work.steps; ++step) {
        barrier_wait(ring.full(), ring.parity);
#pragma unroll 1  // else the compiler puts fences of its own between products
        for (int product = 0; product < products; ++product) {
          const uint32_t rows = ring.q(product == 2, step) + group * kWarpgroupRows * kSwizzleBytes;
          const uint64_t a = factor(rows), b = factor(ring.d(product == 1));
          begin_products();
          // Past the width are zeros: a branch for those would make products wait for one another.
#pragma unroll
          for (int k = 0; k < kStep / kDepth; ++k)
            multiply<T::kAll, kFloat16>(sum, a + k * kNextChannels, b + k * kNextChannels,
                                        (step | product | k) != 0);
          commit_products();
          wait_for_earlier_products();
        }
        // The last batch still reads this stage, and keeps the tensor cores busy until the next.
        if (step > 0 && lane < work.cluster) barrier_arrive(read, lane);
        read = ring.empty();
        ring.next();
      }
      end_products(sum);
      if (lane < work.cluster) barrier_arrive(read, lane);
#pragma unroll
      for (int x = 0; x < T::kImages; ++x)
        take_best<T::kColumns>(sum + x * T::kColumns / 2, work.S - s0, s0, matches.data != nullptr,
                               best[x]);
    }
    const int64_t first =
        row0 + group * kWarpgroupRows + threadIdx.x % kWarpgroup / kWarp * 16 + lane / 4;
#pragma unroll
    for (int x = 0; x < T::kImages; ++x)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Best<float> mine = best[x][h];
#pragma unroll
        for (int apart = 1; apart < 4; apart *= 2) {
          const float y = __shfl_xor_sync(kFullWarp, mine.value, apart);
          const int s = __shfl_xor_sync(kFullWarp, mine.place, apart);
          mine.join(y, s);
        }
        const int64_t row = first + 8 * h;
        if (lane % 4 == 0 && row < work.rows && i + x < work.B) {
          value[(i + x) * work.rows + row] = mine.value;
          if (matches.data) write_match(matches, (i + x) * work.rows + row, mine.place);
        }
        best[x][h] = Best<float>();
      }
  }
}

template <typename T, bool kFloat16>
__global__ void __launch_bounds__(kThreads, 1)
    match_kernel(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap d_map,
                 const Work work, float* __restrict__ value, const Matches matches) {
#if defined(EMERGENCE_HOPPER)
  const int group = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x / kWarpgroup), 0);
  const int64_t row0 = int64_t{blockIdx.x % work.tiles} * kRows;
  const int64_t i0 = int64_t{blockIdx.x / work.tiles} * work.others;
  const int64_t i1 = smaller(i0 + work.others, work.B);
  Ring<T> ring(work);
  if (threadIdx.x == 0) {
    for (Ring<T> each(work); each.parity == 0; each.next()) {
      make_barrier(each.full(), 1);
      make_barrier(each.empty(), kConsumers * kWarpgroup / kWarp * work.cluster);
    }
    fence_barriers();
  }
  cluster_sync();
  __syncwarp();  // one thread has made barriers; lanes change their number of registers together
  if (group == kConsumers) {
    keep_registers<kCopying>();
    if (threadIdx.x == kConsumers * kWarpgroup) copy(q_map, d_map, work, ring, row0, i0, i1);
  } else {
    take_registers<kMultiplying>();
    match<T, kFloat16>(work, ring, group, row0, i0, i1, value, matches);
  }
#endif
}

template <typename T>
int run(const Planes& p, float* value, Matches matches, const Device& on) {
  const int64_t tiles = ceil_div(p.rows, kRows), steps = ceil_div(p.width, kStep);
  const int64_t rows_of_q = steps * p.planes * kRowsBytes, left = on.shared - kPatternBytes;
  const auto stages = [&](int64_t resident, int64_t stage) {
    return smaller(kMostStages, (left - resident) / (p.planes * stage + kBarriersBytes));
  };
  Work work;
  work.rows = p.rows, work.B = p.B, work.S = static_cast<int>(p.S);
  work.planes = p.planes, work.steps = static_cast<int>(steps);
  work.cluster = tiles > 1 ? 2 : 1;
  work.tiles = static_cast<unsigned>(round_up(tiles, work.cluster));
  work.resident = stages(rows_of_q, T::kBytes) * p.planes >= 3;
  work.stages = static_cast<int>(work.resident ? stages(rows_of_q, T::kBytes)
                                               : stages(0, T::kBytes + kRowsBytes));
  if (work.stages < 2) return cudaErrorInvalidValue;  // one is read while another is waited for
  const int64_t wanted = int64_t{on.multiprocessors} * kWaves;
  const int others = images_in_turn(work.tiles, p.B, wanted, kMostOthers);
  work.others = static_cast<int>(round_up(others, T::kImages));

  const auto length = [](int64_t x) { return static_cast<uint64_t>(x); };
  const uint64_t row = length(p.width) * 2, planes = length(p.planes);
  const auto map_of = [&](TensorMap& map, const uint16_t* entries, uint64_t rows, uint64_t images,
                          uint32_t box_rows, uint32_t box_images) {
    return make_tensor_map<4>(map, p.float16, entries, {length(p.width), planes, rows, images},
                              {row, planes * row, rows * planes * row},
                              {kStep, 1, box_rows, box_images});
  };
  TensorMap q_map, d_map;
  cudaError_t status = map_of(q_map, p.q, length(p.rows), 1, kRows, 1);
  if (status == cudaSuccess)
    status = map_of(d_map, p.d, length(p.S), length(p.B), T::kBoxColumns, T::kBoxImages);
  if (status != cudaSuccess) return status;

  const auto kernel = p.float16 ? match_kernel<T, true> : match_kernel<T, false>;
  const int64_t stage = p.planes * (T::kBytes + (work.resident ? 0 : kRowsBytes)) + kBarriersBytes;
  const int64_t shared = kPatternBytes + (work.resident ? rows_of_q : 0) + work.stages * stage;
  const dim3 grid(static_cast<unsigned>(work.tiles * ceil_div(p.B, work.others)));
  return launch_clusters(kernel, grid, work.cluster, kThreads, static_cast<size_t>(shared),
                         static_cast<cudaStream_t>(on.stream), q_map, d_map, work, value, matches);
}

}  // namespace

bool hopper_applies(const Planes& p) {
  constexpr int64_t most = 1 << 30;  // of coordinates, which are int
  return p.rows <= most && p.S <= most && p.B <= most &&
         runs_on_hopper(match_kernel<Tile<1, 200>, false>, kRegisters);
}

int match_hopper(const Planes& p, float* value, Matches matches, const Device& on) {
  if (p.rows == 0 || p.B == 0) return cudaSuccess;
  if (!hopper_applies(p)) return cudaErrorNotSupported;
  // The tile that leaves the fewest candidates empty.
  using One = Tile<1, 200>;
  using Two = Tile<2, 128>;
  using TwoSmaller = Tile<2, 104>;
  using Four = Tile<4, 56>;
  const int64_t one = round_up(p.S, One::kColumns), two = round_up(p.S, Two::kColumns);
  const int64_t smaller_two = round_up(p.S, TwoSmaller::kColumns);
  const int64_t four = round_up(p.S, Four::kColumns);
  if (one <= smaller(two, smaller(smaller_two, four))) return run<One>(p, value, matches, on);
  if (two <= smaller(smaller_two, four)) return run<Two>(p, value, matches, on);
  if (smaller_two <= four) return run<TwoSmaller>(p, value, matches, on);
  return run<Four>(p, value, matches, on);
}

}  // namespace emergence_ext::cuda
