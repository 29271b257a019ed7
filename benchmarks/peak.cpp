// The most multiply-adds that this machine does: `peak THREADS` prints GFLOP/s of float32, then of
// products of bfloat16 pairs, 0 where the compiler's target has none.
//
// Operands stay in registers, so that nothing but the arithmetic can bound it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / sizeof(float);
constexpr long kRounds = 10'000'000;

typedef float reg __attribute__((vector_size(kBytes)));

volatile float result;  // so that the loop is not left out

reg fill(float x) { return x - reg{}; }

// kSums are independent and fill latency x instructions per clock.
struct Float32 {
  static constexpr int kSums = 12;
  static constexpr double flops = 2.0 * kLanes * kSums;
  static void run() {
    const reg x = fill(0.999f), y = fill(0.001f);
    reg sum[kSums];
    for (int s = 0; s < kSums; ++s) sum[s] = fill(static_cast<float>(s));
    for (long round = 0; round < kRounds; ++round)
      for (int s = 0; s < kSums; ++s) sum[s] = sum[s] * x + y;
    for (int s = 1; s < kSums; ++s) sum[0] += sum[s];
    result = sum[0][0];
  }
};

#if defined(__AVX512BF16__)
struct BFloat16Pairs {
  static constexpr int kSums = 16;
  static constexpr double flops = 4.0 * kLanes * kSums;
  static void run() {
    const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
    __m512 sum[kSums];
    for (int s = 0; s < kSums; ++s) sum[s] = _mm512_set1_ps(static_cast<float>(s));
    for (long round = 0; round < kRounds; ++round)
      for (int s = 0; s < kSums; ++s) sum[s] = _mm512_dpbf16_ps(sum[s], x, x);
    for (int s = 1; s < kSums; ++s) sum[0] = _mm512_add_ps(sum[0], sum[s]);
    result = _mm512_cvtss_f32(sum[0]);
  }
};
#endif

// The best of some runs: whatever else the machine does can only make one slower.
template <typename Loop>
double gflops(int threads) {
  double best = 0;
  for (int attempt = 0; attempt < 10; ++attempt) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&] {
        ++ready;
        while (!go) std::this_thread::yield();
        Loop::run();
      });
    while (ready < threads) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    go = true;
    for (auto& member : team) member.join();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::max(best, threads * Loop::flops * kRounds / taken.count() / 1e9);
  }
  return best;
}

}  // namespace

int main(int, char** argv) {
  const int threads = std::max(1, std::atoi(argv[1]));
  double pairs = 0;
#if defined(__AVX512BF16__)
  pairs = gflops<BFloat16Pairs>(threads);
#endif
  std::printf("%.1f %.1f\n", gflops<Float32>(threads), pairs);
}
