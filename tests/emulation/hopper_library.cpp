// For tests/ops/test_match_hopper.py: match_hopper() by itself, and products that are right or
// wrong on purpose.

#include <cstdio>
#include <cstring>
#include <exception>

#include "hopper.h"
#include "matching.h"

namespace emergence_ext::cuda {

int match_hopper(const Planes& p, float* value, Matches matches, const Device& on);

namespace {

constexpr int kColumns = 200, kStages = 2, kStep = kSwizzleBytes / 2;
constexpr int kA = kWarpgroupRows * kSwizzleBytes, kStage = kA + kColumns * kSwizzleBytes;

enum Fault {
  kRight,
  // Wrong numbers.
  kOtherStride,
  kOtherChannels,
  kReleasedTooEarly,
  kReadTooEarly,
  // What launch() names.
  kOtherSwizzle,
  kNeverWaits,
  kNotAligned,
  kRefilledTooEarly,
  kNotBegun,
  kNotCommitted,
  kNotEnded,
  kNoFence,
  kTooFewBytes,
  kTooManyBytes,
  kTooManyArrivals,
  kTooFewArrivals,
  kBarrierWrittenOver,
  kPartOfGroup,
  kWarpsApart,
  kNoRegisters,
};

// out [64, kColumns] = a [64, steps kStep] b [kColumns, steps kStep]^T in bfloat16. One warpgroup
// copies, the other multiplies.
__global__ void product_kernel(Fault fault, TensorMap a_map, TensorMap b_map, int steps,
                               float* out) {
  const uint32_t begin = shared_address(shared_memory());
  const uint32_t start = (begin + kPatternBytes - 1) / kPatternBytes * kPatternBytes +
                         (fault == kNotAligned ? kSwizzleBytes : 0);
  const auto full = [&](int step) { return start + kStages * kStage + step % kStages * 16; };
  const auto empty = [&](int step) { return full(step) + 8; };
  const auto phase = [](int step) { return static_cast<uint32_t>(step / kStages % 2); };
  const int arrivals = 4 + (fault == kTooFewArrivals) - (fault == kTooManyArrivals);
  if (threadIdx.x == 0) {
    for (int x = 0; x < kStages; ++x) {
      make_barrier(full(x), 1);
      make_barrier(empty(x), arrivals);
    }
    if (fault != kNoFence) fence_barriers();
    if (fault == kBarrierWrittenOver)
      std::memset(shared_memory() + (full(0) - begin), 0xff, sizeof(uint64_t));
  }
  cluster_sync();

  if (threadIdx.x >= kWarpgroup) {
    if (fault != kNoRegisters) keep_registers<40>();
    if (threadIdx.x > kWarpgroup) return;
    for (int step = 0; step < steps; ++step) {
      const uint32_t stage = start + step % kStages * kStage;
      const int wrong = (fault == kTooManyBytes) - (fault == kTooFewBytes);
      if (fault != kRefilledTooEarly) barrier_wait(empty(step), phase(step) ^ 1);
      barrier_expect(full(step), static_cast<uint32_t>(kStage + 16 * wrong));
      load_box(stage, a_map, step * kStep, 0, 0, 0, full(step));
      load_box(stage + kA, b_map, step * kStep, 0, 0, 0, full(step));
    }
    return;
  }

  take_registers<256>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (fault == kPartOfGroup && warp == 3) return;
  float sum[kColumns / 2] = {}, early = 0;
  for (int step = 0; step < steps; ++step) {
    const uint32_t stage = start + step % kStages * kStage;
    uint64_t a = factor(stage), b = factor(stage + kA);
    if (fault == kOtherSwizzle) b ^= uint64_t{3} << 62;
    if (fault == kOtherStride) b -= uint64_t{8} << 32;
    if (fault == kWarpsApart) a += warp;
    const uint64_t next = kNextChannels / (fault == kOtherChannels ? 2 : 1);
    if (fault != kNeverWaits) barrier_wait(full(step), phase(step));
    if (fault != kNotBegun) begin_products();
    for (int k = 0; k < kStep / kDepth; ++k)
      multiply<kColumns, false>(sum, a + k * next, b + k * next, (step | k) > 0);
    if (fault == kReleasedTooEarly && lane == 0) barrier_arrive(empty(step), 0);
    if (fault == kReadTooEarly) early = sum[0];
    if (fault != kNotCommitted) commit_products();
    if (fault != kNotEnded || step + 1 < steps) end_products(sum);
    if (fault != kReleasedTooEarly && lane == 0) barrier_arrive(empty(step), 0);
  }
  for (int x = 0; x < kColumns / 2; ++x) {
    const int row = warp * 16 + lane / 4 + x / 2 % 2 * 8, column = x / 4 * 8 + lane % 4 * 2 + x % 2;
    out[row * kColumns + column] = fault == kReadTooEarly ? early : sum[x];
  }
}

// 0 or the error that a launch returns, -1 with the text of what it throws.
template <typename Launch>
int caught(char* message, int length, const Launch& launch) {
  try {
    return launch();
  } catch (const std::exception& error) {
    std::snprintf(message, static_cast<size_t>(length), "%s", error.what());
    return -1;
  }
}

}  // namespace
}  // namespace emergence_ext::cuda

using namespace emergence_ext::cuda;

extern "C" {

int hopper_match(const uint16_t* q, const uint16_t* d, int64_t rows, int64_t B, int64_t S,
                 int64_t width, int planes, int float16, float* value, void* matches, int size,
                 int multiprocessors, int64_t shared, char* message, int length) {
  return caught(message, length, [&] {
    return match_hopper({q, d, rows, B, S, width, planes, float16 != 0}, value, {matches, size},
                        {multiprocessors, shared, nullptr});
  });
}

int hopper_product(int fault, const uint16_t* a, const uint16_t* b, int steps, float* out,
                   char* message, int length) {
  return caught(message, length, [&]() -> int {
    const auto map_of = [&](TensorMap& map, const uint16_t* entries, uint32_t rows) {
      const uint64_t width = static_cast<uint64_t>(steps) * kStep, all = rows * width * 2;
      return make_tensor_map<4>(map, false, entries, {width, rows, 1, 1}, {width * 2, all, all},
                                {kStep, rows, 1, 1});
    };
    TensorMap a_map, b_map;
    if (map_of(a_map, a, kWarpgroupRows) || map_of(b_map, b, kColumns))
      return cudaErrorInvalidValue;
    const size_t shared = 2 * kPatternBytes + kStages * (kStage + 16);
    return launch_clusters(product_kernel, 1, 1, 2 * kWarpgroup, shared, nullptr,
                           static_cast<Fault>(fault), a_map, b_map, steps, out);
  });
}

// Whether the driver would make a map of these.
int hopper_map(uint64_t address, const uint64_t* sizes, const uint64_t* strides,
               const uint32_t* box) {
  TensorMap map;
  return emulation::encode(map, 4, reinterpret_cast<const void*>(address), sizes, strides, box);
}

}  // extern "C"
