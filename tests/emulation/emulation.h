// CUDA on the host, for testing kernels where there is no GPU. A thread is a fiber: it runs by
// itself until it meets a barrier or an operation of its warp, then another one runs, in the order
// of a schedule. What CUDA leaves undefined shows:
//   - where a barrier is missing, results change with the schedule;
//   - shared memory that nobody wrote, or a copy that nobody waited for, reads as NaN;
//   - after a write beside shared memory, a misaligned copy, or when threads of a warp or a block
//     wait at different places, launch() throws a std::runtime_error that names them.
//
// csrc/cuda/device.h includes this in place of CUDA; emulation.cpp is linked once. Launches take
// turns, whatever thread of the host they come from.
#pragma once

#include <math.h>  // <cmath> alone has no fma(float, float, float) outside of std

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

namespace emulation {

// 0: threads, warps and blocks run in ascending order. 1: descending. n >= 2: shuffled anew after
// every barrier, the same for the same n.
void set_schedule(int number);

// What a block of threads may ask for: a launch that wants more is refused. At least kLeastShared,
// which every GPU has, and at most kMostShared, as at first.
constexpr int64_t kLeastShared = 99 << 10, kMostShared = 227 << 10;
void set_shared_memory(int64_t bytes);

int64_t launches();  // so far

// The line of a kernel that calls what has here() as a default argument.
struct Site {
  const char* file;
  int line;
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

template <typename T>
struct alignas(4 * sizeof(T)) Quad {
  T x, y, z, w;
};

template <typename To, typename From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace emulation

// The language.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801
};
using cudaStream_t = struct CUstream_st*;

using float4 = emulation::Quad<float>;
using uint4 = emulation::Quad<unsigned>;

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;  // of the fiber that runs
extern dim3 blockDim, gridDim;

inline float __uint_as_float(unsigned x) { return emulation::same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulation::same_bits<unsigned>(x); }

inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T>
T __ldg(const T* at) {
  return *at;
}

// Fibers are not interrupted.
inline int atomicAdd(int* at, int x) { return std::exchange(*at, *at + x); }
inline int atomicMin(int* at, int x) { return std::exchange(*at, std::min(*at, x)); }
inline int atomicMax(int* at, int x) { return std::exchange(*at, std::max(*at, x)); }
inline unsigned atomicAdd(unsigned* at, unsigned x) { return std::exchange(*at, *at + x); }
inline unsigned atomicMin(unsigned* at, unsigned x) { return std::exchange(*at, std::min(*at, x)); }
inline unsigned atomicMax(unsigned* at, unsigned x) { return std::exchange(*at, std::max(*at, x)); }

// Meetings of the block and of the warp.

namespace emulation {

constexpr int kLanes = 32;

inline int lane() { return static_cast<int>(threadIdx.x % kLanes); }

uint64_t shuffle_bits(const char* name, unsigned mask, uint64_t bits, int from, Site site);
unsigned vote(const char* name, unsigned mask, bool yes, Site site);

// A lane that asks for another section of `width` lanes gets its own value.
template <typename T>
T shuffle(const char* name, unsigned mask, T value, int from, int width, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  if (from < 0 || from / width != lane() / width) from = lane();
  const uint64_t bits = shuffle_bits(name, mask, same_bits<Bits>(value), from, site);
  return same_bits<T>(static_cast<Bits>(bits));
}

}  // namespace emulation

void __syncthreads(emulation::Site site = emulation::here());
void __syncwarp(unsigned mask = ~0u, emulation::Site site = emulation::here());

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = emulation::kLanes,
              emulation::Site site = emulation::here()) {
  from = (emulation::lane() & -width) | (from & (width - 1));
  return emulation::shuffle("__shfl_sync", mask, value, from, width, site);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned apart, int width = emulation::kLanes,
                 emulation::Site site = emulation::here()) {
  const int from = emulation::lane() - static_cast<int>(apart);
  return emulation::shuffle("__shfl_up_sync", mask, value, from, width, site);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned apart, int width = emulation::kLanes,
                   emulation::Site site = emulation::here()) {
  const int from = emulation::lane() + static_cast<int>(apart);
  return emulation::shuffle("__shfl_down_sync", mask, value, from, width, site);
}

// Unlike the others it reaches sections below its own.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int apart, int width = emulation::kLanes,
                  emulation::Site site = emulation::here()) {
  const int from = emulation::lane() ^ apart;
  if (from < emulation::lane()) width = emulation::kLanes;
  return emulation::shuffle("__shfl_xor_sync", mask, value, from, width, site);
}

inline unsigned __ballot_sync(unsigned mask, int yes, emulation::Site site = emulation::here()) {
  return emulation::vote("__ballot_sync", mask, yes, site);
}

inline int __any_sync(unsigned mask, int yes, emulation::Site site = emulation::here()) {
  return emulation::vote("__any_sync", mask, yes, site) != 0;
}

inline int __all_sync(unsigned mask, int yes, emulation::Site site = emulation::here()) {
  return emulation::vote("__all_sync", mask, yes, site) == ~0u;
}

// What device.h has for CUDA, described there.

namespace emulation {

void wait_for_copies(int pending);
cudaError_t run(const std::function<void()>& body, dim3 grid, int threads, size_t shared,
                int cluster = 1);

}  // namespace emulation

// What other parts of the emulation build on. Blocks of a cluster run at the same time.

namespace emulation {

// Of the cluster, in blocks of `threads`; those that have exited stay.
struct Cluster {
  int blocks, threads;
};
Cluster cluster();
int running();          // the thread of the cluster that runs
int exited(int block);  // how many of its threads have

struct Shared {
  char* begin;
  size_t bytes;
};
Shared shared_of(int block);

// What lanes do together, once all of them wait for it; `brought` is each one's part.
using Operation = void (*)(void* const* brought);
void meet(const char* name, unsigned mask, void* brought, Site site, Operation operation);

// One thread waits, whatever others of its warp do. `ready` is asked between their turns.
void wait_until(const char* name, Site site, bool (*ready)(void* what), void* what);

// The launch throws; of the thread that runs, or of what lanes do together.
void fail(const char* name, Site site, const std::string& what);
[[noreturn]] void give_up(const char* name, Site site, const std::string& what);

uint32_t random_below(uint32_t bound);  // of the schedule

// Hardware that works beside the threads, step by step: whenever the schedule has it, and when no
// thread can go on.
class Engine {
 public:
  virtual void begin() = 0;                          // before the blocks of a cluster run
  virtual bool step(int schedule, bool needed) = 0;  // false where nothing was done
  virtual std::string end() = 0;                     // what is left undone

 protected:
  ~Engine() = default;
};
void attach(Engine* engine);

}  // namespace emulation

namespace emergence_ext::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

inline float max_nan(float x, float y) {
  if (x != x || y != y) return __uint_as_float(0x7fffffffu);
  if (x == y) return __uint_as_float(__float_as_uint(x) & __float_as_uint(y));  // 0 before -0
  return x > y ? x : y;
}

inline double max_nan(double x, double y) { return x > y || x != x ? x : y; }

inline int unforeseen(int x) { return x; }

char* shared_memory();  // aligned to 16 bytes and no more

// The bytes move when they are waited for; until then they are NaN.
void copy_async(void* shared, const void* global, bool there,
                emulation::Site site = emulation::here());
void copy_async_commit();
template <int pending>
void copy_async_wait() {
  emulation::wait_for_copies(pending);
}

void load_matrices(uint32_t (&x)[4], const void* row, emulation::Site site = emulation::here());

// Exact products, added in float32 one after another. In what order hardware adds and how it rounds
// is not documented: no test may rely on it.
void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       emulation::Site site = emulation::here());
void multiply_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                      emulation::Site site = emulation::here());

inline void product_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            emulation::Site site = emulation::here()) {
  std::fill(c, c + 4, 0.0f);
  multiply_float16(c, a, b0, b1, site);
}

inline uint16_t to_float16(float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  uint32_t rounded = ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
  if (magnitude < 0x38800000u)  // subnormal, below 2^-14: multiples of the last bit of 0.5
    rounded = __float_as_uint(fabsf(x) + 0.5f) & 0xfffu;
  if (magnitude >= 0x477ff000u) rounded = 0x7c00u;        // from 65520 on infinity
  if (magnitude > 0x7f800000u) return uint16_t{0x7fffu};  // NaN has one form
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | rounded);
}

inline float from_float16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude > 0x7c00u) return __uint_as_float(0x7fffffffu);
  if (magnitude == 0x7c00u) return __uint_as_float(sign | 0x7f800000u);
  if (magnitude < 0x400u) return copysignf(magnitude * 0x1p-24f, __uint_as_float(sign));
  return __uint_as_float(sign | (magnitude + (112u << 10)) << 13);
}

template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, int threads, size_t shared, cudaStream_t,
                   Args... args) {
  return emulation::run([&] { kernel(args...); }, grid, threads, shared);
}

}  // namespace emergence_ext::cuda
