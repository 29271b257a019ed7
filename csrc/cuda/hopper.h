// What the Hopper kernels take from compute capability 9.0 alone: barriers in shared memory, bulk
// tensor copies, matrix products by groups of four warps, clusters of blocks. As in device.h, a
// host compiler takes all of this from tests/emulation.
//
// Shared memory is named by its own 32-bit addresses here, never by pointers: tiles are written by
// copies and read by products, both in the asynchronous proxy, so that no fence between proxies is
// needed but the one after barriers are made.
//
// NVIDIA documents what this relies on in the PTX ISA: descriptors, layouts and fences in "wgmma"
// (9.7.15), barriers in "mbarrier" (9.7.13.15), swizzling in 5.5.7; and CUTLASS builds on the same
// in cute/arch/mma_sm90_desc.hpp, cute/atom/mma_traits_sm90_gmma.hpp and cutlass/arch/barrier.h.
#pragma once

#include "device.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(EMERGENCE_EMULATED)
#define EMERGENCE_HOPPER  // else kernels have no body
#endif

namespace emergence_ext::cuda {

constexpr int kWarpgroup = 128;      // threads
constexpr int kWarpgroupRows = 64;   // of the first factor of a product
constexpr int kDepth = 16;           // channels of a product of 16-bit entries
constexpr int kSwizzleBytes = 128;   // of a row of a tile
constexpr int kPatternBytes = 1024;  // eight rows, after which swizzling repeats: of a tile's start

// The tile at `address` as a factor of a product: rows of kSwizzleBytes bytes, eight to a pattern
// and patterns in a row, swizzled as copies leave them. Channels further on lie at further
// addresses, since hardware swizzles the sum: 2 more for each kDepth of them.
__host__ __device__ constexpr uint64_t factor(uint32_t address) {
  constexpr uint64_t ignored = 1, stride = kPatternBytes >> 4, swizzle128 = 1;
  return (address & 0x3ffffu) >> 4 | ignored << 16 | stride << 32 | swizzle128 << 62;
}

constexpr uint64_t kNextChannels = kDepth * 2 >> 4;

}  // namespace emergence_ext::cuda

#if defined(EMERGENCE_EMULATED)
#include "hopper_emulation.h"
#else

#include <cudaTypedefs.h>

namespace emergence_ext::cuda {

using TensorMap = CUtensorMap;

// A map of 16-bit entries, from the dimension whose entries are neighbours outwards; `strides` are
// the others', in bytes. Copies take boxes of it. What lies outside of the tensor reads as zeros.
template <int kRank>
cudaError_t make_tensor_map(TensorMap& map, bool float16, const void* entries,
                            const uint64_t (&sizes)[kRank], const uint64_t (&strides)[kRank - 1],
                            const uint32_t (&box)[kRank]) {
  // From the driver at run time, so that the library loads where there is none.
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult outcome;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                                              12000, cudaEnableDefault, &outcome);
#else
  const cudaError_t status =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &encode, cudaEnableDefault, &outcome);
#endif
  if (status != cudaSuccess) return status;
  if (outcome != cudaDriverEntryPointSuccess || !encode) return cudaErrorNotSupported;
  uint32_t steps[kRank];
  for (uint32_t& step : steps) step = 1;
  const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(encode)(
      &map, float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank,
      const_cast<void*>(entries), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// Whether the current device runs `kernel` as it is compiled for 9.0a. For others it has no body,
// and so no need of as many registers.
template <typename... Params>
bool runs_on_hopper(void (*kernel)(Params...), int registers) {
  int device = 0, major = 0, minor = 0;
  cudaFuncAttributes compiled{};
  const bool asked =
      cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
      (major != 9 || minor != 0 || cudaFuncGetAttributes(&compiled, kernel) == cudaSuccess);
  if (!asked) cudaGetLastError();  // lest the next launch be blamed
  return asked && compiled.numRegs >= registers;
}

// Blocks in clusters of `cluster` along x, on neighbouring multiprocessors.
template <typename... Params, typename... Args>
cudaError_t launch_clusters(void (*kernel)(Params...), dim3 grid, int cluster, int threads,
                            size_t shared, cudaStream_t stream, Args... args) {
  const cudaError_t status = allow_all_shared(kernel);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

// Of this block in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster that have not exited.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// More or fewer registers for each thread of this warpgroup; the block has what it began with.
template <int registers>
__device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// A barrier is 8 bytes of shared memory. A phase of it ends with its `arrivals` and when the bytes
// that it expects have come.
__device__ __forceinline__ void make_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// By the thread that made barriers, before others and copies meet there.
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// At this barrier of block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Until the phase of this parity has ended; the one before the first counts as ended and odd.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t over;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!over);
}

// The box from these coordinates on, to this place in shared memory of the first `blocks` of the
// cluster; each one's barrier at this place is told.
__device__ __forceinline__ void load_box(uint32_t to, const TensorMap& map, int x, int y, int z,
                                         int w, uint32_t barrier, uint32_t blocks = 1) {
  if (blocks > 1) {
    const auto mask = static_cast<uint16_t>((1u << blocks) - 1);
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(barrier), "h"(mask), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
    return;
  }
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// Products, asynchronous as well: begin_products() before the first of a batch, commit_products()
// after its last. Their factors are read when a later batch alone is left under way; their sums are
// there only after end_products().
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// All batches but the last one.
__device__ __forceinline__ void wait_for_earlier_products() {
  asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}

// The compiler does not know what asynchronous products write: it must not move a sum.
template <int kSums>
__device__ __forceinline__ void end_products(float (&sum)[kSums]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (float& x : sum) asm volatile("" : "+f"(x)::"memory");
}

#define EMERGENCE_SUMS_4(x) "+f"(sum[x]), "+f"(sum[x + 1]), "+f"(sum[x + 2]), "+f"(sum[x + 3])
#define EMERGENCE_SUMS_8(x) EMERGENCE_SUMS_4(x), EMERGENCE_SUMS_4(x + 4)
#define EMERGENCE_SUMS_16(x) EMERGENCE_SUMS_8(x), EMERGENCE_SUMS_8(x + 8)
#define EMERGENCE_SUMS_32(x) EMERGENCE_SUMS_16(x), EMERGENCE_SUMS_16(x + 16)
#define EMERGENCE_SUMS EMERGENCE_SUMS_32(0), EMERGENCE_SUMS_32(32), EMERGENCE_SUMS_32(64)
#define EMERGENCE_NAMES                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, " \
  "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, " \
  "%87, %88, %89, %90, %91, %92, %93, %94, %95, "
// The names of the last sums, of both factors and of whether to add; then the last sums.
#define EMERGENCE_PRODUCT(type, columns, names, a_name, b_name, add_name, sums)          \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_name                              \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type      \
               " {" EMERGENCE_NAMES names "}, " a_name ", " b_name ", p, 1, 1, 0, 0;\n}" \
               : EMERGENCE_SUMS, sums                                                    \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#define EMERGENCE_PRODUCT_200(type) \
  EMERGENCE_PRODUCT(type, "200", "%96, %97, %98, %99", "%100", "%101", "%102", EMERGENCE_SUMS_4(96))
#define EMERGENCE_PRODUCT_208(type)                                                            \
  EMERGENCE_PRODUCT(type, "208", "%96, %97, %98, %99, %100, %101, %102, %103", "%104", "%105", \
                    "%106", EMERGENCE_SUMS_8(96))
#define EMERGENCE_PRODUCT_224(type)                                                              \
  EMERGENCE_PRODUCT(type, "224",                                                                 \
                    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, " \
                    "%109, %110, %111",                                                          \
                    "%112", "%113", "%114", EMERGENCE_SUMS_16(96))
#define EMERGENCE_PRODUCT_256(type)                                                              \
  EMERGENCE_PRODUCT(type, "256",                                                                 \
                    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, " \
                    "%109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, "   \
                    "%121, %122, %123, %124, %125, %126, %127",                                  \
                    "%128", "%129", "%130", EMERGENCE_SUMS_32(96))

// sum [64, kColumns] (+)= a [64, kDepth] b [kColumns, kDepth]^T by the four warps of a group, all
// with the same arguments. Lane 4 g + t of warp w holds of each eight columns in turn, in float32,
// row 16 w + g at columns 2 t and 2 t + 1, then row 16 w + g + 8 at both.
template <int kColumns, bool kFloat16>
__device__ __forceinline__ void multiply(float (&sum)[kColumns / 2], uint64_t a, uint64_t b,
                                         bool add) {
  static_assert(kColumns == 200 || kColumns == 208 || kColumns == 224 || kColumns == 256);
  if constexpr (kColumns == 200 && kFloat16) EMERGENCE_PRODUCT_200("f16");
  if constexpr (kColumns == 200 && !kFloat16) EMERGENCE_PRODUCT_200("bf16");
  if constexpr (kColumns == 208 && kFloat16) EMERGENCE_PRODUCT_208("f16");
  if constexpr (kColumns == 208 && !kFloat16) EMERGENCE_PRODUCT_208("bf16");
  if constexpr (kColumns == 224 && kFloat16) EMERGENCE_PRODUCT_224("f16");
  if constexpr (kColumns == 224 && !kFloat16) EMERGENCE_PRODUCT_224("bf16");
  if constexpr (kColumns == 256 && kFloat16) EMERGENCE_PRODUCT_256("f16");
  if constexpr (kColumns == 256 && !kFloat16) EMERGENCE_PRODUCT_256("bf16");
}

#undef EMERGENCE_SUMS_4
#undef EMERGENCE_SUMS_8
#undef EMERGENCE_SUMS_16
#undef EMERGENCE_SUMS_32
#undef EMERGENCE_SUMS
#undef EMERGENCE_NAMES
#undef EMERGENCE_PRODUCT
#undef EMERGENCE_PRODUCT_200
#undef EMERGENCE_PRODUCT_208
#undef EMERGENCE_PRODUCT_224
#undef EMERGENCE_PRODUCT_256

}  // namespace emergence_ext::cuda

#endif
