// What kernels take from the device: a launch, and the instructions that C++ has no name for.
//
// A host compiler builds the kernels as well, against tests/emulation: there a block of threads is
// a set of fibers, so that every kernel is tested on machines without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(EMERGENCE_EMULATED)
#include "emulation.h"
#else

#include <cuda_runtime.h>

namespace emergence_ext::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

// Unlike fmaxf it hands a NaN on.
__device__ __forceinline__ float max_nan(float x, float y) {
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

__device__ __forceinline__ double max_nan(double x, double y) { return x > y || x != x ? x : y; }

// The block's dynamic shared memory, aligned for any vector.
__device__ __forceinline__ char* shared_memory() {
  extern __shared__ float4 dynamic_shared_memory[];
  return reinterpret_cast<char*>(dynamic_shared_memory);
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes on their way into shared memory; zeros where `there` is false. The copies that a thread
// issued since its last commit are a group; waiting leaves the last `pending` groups under way.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit entries, row by row 16 bytes: lane l gives the address of row l % 8
// of matrix l / 8, and gets entries 2 (l % 4) and the next of row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(row))
               : "memory");
}

// c [16, 8] += a [16, 16] b [8, 16]^T. Lane l = 4 g + t holds of a, two entries to a word, rows g
// and g + 8 at columns 2 t, then both at 8 + 2 t; of b row g at columns 2 t and 8 + 2 t; of c, in
// float32, rows g and g + 8 at columns 2 t and 2 t + 1.
__device__ __forceinline__ void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a b^T, in the same layout.
__device__ __forceinline__ void product_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// The bits of x rounded to nearest even, and their value.
__device__ __forceinline__ uint16_t to_float16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ float from_float16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// x, of which the compiler is to know nothing: what is computed from it inside of a loop is not
// computed before the loop and kept in registers.
__device__ __forceinline__ int unforeseen(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Lets a kernel ask for all the shared memory that a block may have, less what the driver keeps of
// it: what a kernel is said to take by itself counts, and may hold that already. Never for what one
// launch needs: the limit belongs to the kernel, and launches of other host threads would share it.
template <typename... Params>
cudaError_t allow_all_shared(void (*kernel)(Params...)) {
  int device = 0, most = 0, reserved = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device);
  if (status != cudaSuccess) return status;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - reserved);
}

template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, int threads, size_t shared,
                   cudaStream_t stream, Args... args) {
  constexpr size_t without_asking = 48 << 10;
  if (shared > without_asking) {
    const cudaError_t status = allow_all_shared(kernel);
    if (status != cudaSuccess) return status;
  }
  // clang-format off
  kernel<<<grid, threads, shared, stream>>>(args...);  // which is no C++
  // clang-format on
  return cudaGetLastError();
}

}  // namespace emergence_ext::cuda

#endif
