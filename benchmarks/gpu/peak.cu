// The most float32 multiply-adds that this GPU does: `peak` prints GFLOP/s, the clock in MHz while
// it did them, and the clock that the device reports.
//
// Operands stay in registers, so that nothing but the arithmetic can bound it.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 8;  // on each multiprocessor: all the threads that it takes
constexpr int kSums = 16;   // independent, to fill the latency
constexpr int kRounds = 50'000;

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
  std::exit(1);
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    multiply_add(float x, float y, float* result, long long* clocks) {
  const long long start = clock64();
  float sum[kSums];
  for (int s = 0; s < kSums; ++s) sum[s] = static_cast<float>(s);
  for (int round = 0; round < kRounds; ++round)
#pragma unroll
    for (int s = 0; s < kSums; ++s) sum[s] = fmaf(sum[s], x, y);
  for (int s = 1; s < kSums; ++s) sum[0] += sum[s];
  if (sum[0] == -1) *result = sum[0];  // never, so that the loop is not left out
  if (blockIdx.x == 0 && threadIdx.x == 0) *clocks = clock64() - start;
}

}  // namespace

int main() {
  int multiprocessors = 0, reported = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  check(cudaDeviceGetAttribute(&reported, cudaDevAttrClockRate, 0));
  float* result = nullptr;
  long long* clocks = nullptr;
  check(cudaMalloc(&result, sizeof *result));
  check(cudaMalloc(&clocks, sizeof *clocks));
  cudaEvent_t start, end;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  const int blocks = multiprocessors * kBlocks;
  float best = 0;
  long long taken = 0;
  // The best of some runs: the first ones raise the clock.
  for (int attempt = 0; attempt < 20; ++attempt) {
    check(cudaEventRecord(start));
    multiply_add<<<blocks, kThreads>>>(0.999f, 0.001f, result, clocks);
    check(cudaGetLastError());
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, end));
    if (attempt > 0 && milliseconds >= best) continue;
    best = milliseconds;
    check(cudaMemcpy(&taken, clocks, sizeof taken, cudaMemcpyDeviceToHost));
  }
  const double flops = 2.0 * kSums * kRounds * kThreads * blocks;
  std::printf("%.1f %.0f %.0f\n", flops / best / 1e6, taken / best / 1e3, reported / 1e3);
}
