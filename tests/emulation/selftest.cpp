// Kernels that are right or wrong on purpose, for tests/ops/test_emulation.py.

#include <cstdio>
#include <exception>
#include <string>

#include "emulation.h"

namespace emergence_ext::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / emulation::kLanes;

// out[block] = the sum of the block's share of x, first over lanes, then over warps.
__global__ void __launch_bounds__(kThreads) sum_kernel(const float* x, float* out) {
  float* const sums = reinterpret_cast<float*>(shared_memory());
  float sum = __ldg(x + blockIdx.x * blockDim.x + threadIdx.x);
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(kFullWarp, sum, apart);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = threadIdx.x < kWarps ? sums[threadIdx.x] : 0;
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_down_sync(kFullWarp, sum, apart);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Each thread takes what `apart` threads away wrote, twice; between writing and reading, and before
// writing again, there may be a barrier.
__global__ void pass_kernel(int apart, bool before_reading, bool before_writing, float* out) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const int from = (threadIdx.x + apart) % blockDim.x;
  for (int round = 0; round < 2; ++round) {
    shared[threadIdx.x] = static_cast<float>(1000 * round + threadIdx.x);
    if (before_reading) __syncthreads();
    out[round * blockDim.x + threadIdx.x] = shared[from];
    if (before_writing) __syncthreads();
  }
}

enum Pipeline { kRight, kNeverWaits, kWaitsTooLittle, kNoBarrier, kRefilledTooEarly };

// out[t] = the sum over steps of the first number that t's neighbour copied: of pieces of four, two
// of which are in shared memory, one under way.
__global__ void pipeline_kernel(Pipeline pipeline, const float* x, int steps, float* out) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const int mine = threadIdx.x, other = (threadIdx.x + 1) % blockDim.x, all = blockDim.x;
  const auto issue = [&](int step) {
    // Nothing is there after the last step: the address is that of no object.
    const float* from = step < steps ? x + 4 * (step * all + mine) : nullptr;
    copy_async(shared + 4 * (step % 2 * all + mine), from, step < steps);
    copy_async_commit();
  };
  float sum = 0;
  issue(0);
  for (int step = 0; step < steps; ++step) {
    if (pipeline != kRefilledTooEarly && step > 0) __syncthreads();
    issue(step + 1);
    if (pipeline == kWaitsTooLittle)
      copy_async_wait<2>();
    else if (pipeline != kNeverWaits)
      copy_async_wait<1>();
    if (pipeline != kNoBarrier) __syncthreads();
    sum += shared[4 * (step % 2 * all + other)];
  }
  copy_async_wait<0>();
  out[mine] = sum + shared[4 * (steps % 2 * all + mine)];  // of the last, zeros
}

// c [16, 8] += a [16, 16] b [8, 16]^T, of 16-bit entries, on one warp.
__global__ void product_kernel(bool float16, const uint16_t* a, const uint16_t* b, float* c) {
  uint16_t* const shared = reinterpret_cast<uint16_t*>(shared_memory());
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (int x = lane; x < 256; x += 32) shared[x] = a[x];
  for (int x = lane; x < 128; x += 32) shared[256 + x] = b[x];
  __syncwarp();
  uint32_t parts_a[4], parts_b[4];
  // Matrices of a: rows 0-7 and 8-15 of the left half, then of the right; of b: halves, twice.
  load_matrices(parts_a, shared + lane % 16 * 16 + lane / 16 * 8);
  load_matrices(parts_b, shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);
  float sums[4];
  for (int x = 0; x < 4; ++x) sums[x] = c[(g + x / 2 * 8) * 8 + 2 * t + x % 2];
  if (float16)
    multiply_float16(sums, parts_a, parts_b[0], parts_b[1]);
  else
    multiply_bfloat16(sums, parts_a, parts_b[2], parts_b[3]);
  for (int x = 0; x < 4; ++x) c[(g + x / 2 * 8) * 8 + 2 * t + x % 2] = sums[x];
}

// out [9, 64]: what the collectives give to each lane.
__global__ void lanes_kernel(const uint64_t* x, uint64_t* out) {
  const int lane = threadIdx.x % 32;
  uint64_t* const to = out + threadIdx.x;
  const uint64_t mine = x[threadIdx.x];
  to[0 * 64] = __shfl_sync(kFullWarp, mine, 5);
  to[1 * 64] = __shfl_sync(kFullWarp, mine, lane + 3, 8);
  to[2 * 64] = __shfl_up_sync(kFullWarp, mine, 3, 16);
  to[3 * 64] = __shfl_down_sync(kFullWarp, static_cast<int64_t>(mine), 3, 16);
  to[4 * 64] = __shfl_xor_sync(kFullWarp, mine, 9, 8);
  to[5 * 64] = static_cast<unsigned>(__shfl_xor_sync(kFullWarp, static_cast<int>(mine), 31));
  to[6 * 64] = __ballot_sync(kFullWarp, mine & 1);
  to[7 * 64] = __any_sync(kFullWarp, threadIdx.x == 40);
  to[8 * 64] = __all_sync(kFullWarp, threadIdx.x < 40);
}

// Where the threads of a grid come in turn, and what they leave.
__global__ void order_kernel(int* count, int* turns) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  turns[block * blockDim.x + threadIdx.x] = atomicAdd(count, 1);
  atomicMax(count + 1, static_cast<int>(threadIdx.x));
  atomicMin(reinterpret_cast<unsigned*>(count + 2), threadIdx.x + 3);
}

enum Fault {
  kFine,
  kSomeExit,
  kLanesApart,
  kWarpsApart,
  kOtherLine,
  kMask,
  kPartOfWarp,
  kAbove,
  kBelow,
  kMisalignedTo,
  kMisalignedFrom,
  kCopyOutside,
  kLoadOutside,
};

__global__ void fault_kernel(Fault fault, const float* global) {
  char* const shared = shared_memory();
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  uint32_t x[4];
  if (fault == kSomeExit && (thread == 3 || thread > 60)) return;
  if (fault == kLanesApart && warp == 1 && lane >= 16) __shfl_sync(kFullWarp, lane, 0);
  if (fault == kWarpsApart && warp == 2) return;
  if (fault == kOtherLine && warp == 0) __syncthreads();
  if (fault == kMask) __shfl_sync(0xffffu, lane, 0);
  if (fault == kPartOfWarp) __ballot_sync(kFullWarp, 1);
  if (fault == kAbove && thread == 0) shared[100] = 1;
  if (fault == kBelow && thread == 0) shared[-1] = 1;
  if (fault == kMisalignedTo) copy_async(shared + 8, global, true);
  if (fault == kMisalignedFrom) copy_async(shared, global + 1, true);
  if (fault == kCopyOutside) copy_async(shared + 96, global, true);
  if (fault == kLoadOutside) load_matrices(x, shared + 16 * lane);
  __syncthreads();
}

// 0 or the error that launch() returns, -1 with the text of what it throws.
template <typename... Params, typename... Args>
int caught(char* message, int size, void (*kernel)(Params...), dim3 grid, int threads,
           size_t shared, Args... args) {
  try {
    return launch(kernel, grid, threads, shared, nullptr, args...);
  } catch (const std::exception& error) {
    std::snprintf(message, static_cast<size_t>(size), "%s", error.what());
    return -1;
  }
}

}  // namespace
}  // namespace emergence_ext::cuda

using namespace emergence_ext::cuda;

extern "C" {

int selftest_sum(const float* x, int blocks, float* out, char* message, int size) {
  return caught(message, size, sum_kernel, dim3(blocks), kThreads, kWarps * sizeof(float), x, out);
}

int selftest_pass(int apart, int before_reading, int before_writing, float* out, char* message,
                  int size) {
  return caught(message, size, pass_kernel, 1, kThreads, kThreads * sizeof(float), apart,
                before_reading, before_writing, out);
}

int selftest_pipeline(int pipeline, const float* x, int steps, float* out, char* message,
                      int size) {
  return caught(message, size, pipeline_kernel, 1, kThreads, 2 * kThreads * sizeof(float4),
                static_cast<Pipeline>(pipeline), x, steps, out);
}

int selftest_product(int float16, const uint16_t* a, const uint16_t* b, float* c, char* message,
                     int size) {
  return caught(message, size, product_kernel, 1, 32, 384 * sizeof(uint16_t), float16, a, b, c);
}

int selftest_lanes(const uint64_t* x, uint64_t* out, char* message, int size) {
  return caught(message, size, lanes_kernel, 1, 64, 0, x, out);
}

int selftest_order(int x, int y, int z, int threads, int* count, int* turns, char* message,
                   int size) {
  return caught(message, size, order_kernel, dim3(x, y, z), threads, 0, count, turns);
}

int selftest_fault(int fault, int threads, const float* global, char* message, int size) {
  return caught(message, size, fault_kernel, dim3(2, 1, 1), threads, 100, static_cast<Fault>(fault),
                global);
}

int selftest_limits(unsigned x, unsigned y, unsigned z, int threads, int64_t shared, char* message,
                    int size) {
  return caught(message, size, fault_kernel, dim3(x, y, z), threads, static_cast<size_t>(shared),
                kFine, nullptr);
}

void selftest_to_float16(const float* x, int count, uint16_t* out) {
  for (int i = 0; i < count; ++i) out[i] = to_float16(x[i]);
}

void selftest_from_float16(const uint16_t* x, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = from_float16(x[i]);
}

float selftest_fma(float x, float y, float z) { return fma(x, y, z); }
float selftest_max_nan(float x, float y) { return max_nan(x, y); }

}  // extern "C"
