// What hopper.h has for Hopper, on the host. Copies and products are asynchronous here as well:
// they take place step by step while threads run, between as early and as late as barriers allow.
//   - The place that a copy will fill, and sums that a product will give, are NaN until then.
//   - Barriers live in their 8 bytes of shared memory and count arrivals, bytes and phases. Where
//     none can go on, launch() throws and tells who waits where.
//   - A product reads the very addresses that its descriptors give, swizzled as hardware does it.
// hopper_emulation.cpp is linked once.
#pragma once

#include "emulation.h"

#define __grid_constant__

namespace emulation {

// Addresses of shared memory do not begin at 0 on the device either.
constexpr uint32_t kSharedBase = 1024 + 16;

uint32_t shared_address(const void* shared);

struct TensorMap {
  static constexpr int kMostRank = 5;
  const char* entries;
  int rank;
  uint64_t sizes[kMostRank], strides[kMostRank];  // of bytes
  uint32_t box[kMostRank];
};

// 0 where the driver would refuse.
bool encode(TensorMap& map, int rank, const void* entries, const uint64_t* sizes,
            const uint64_t* strides, const uint32_t* box);

void set_registers(bool more, int registers, Site site);
void multiply(float* sum, int columns, bool float16, uint64_t a, uint64_t b, bool add, Site site);
void end_products(float* sum, int sums, Site site);

}  // namespace emulation

namespace emergence_ext::cuda {

using emulation::TensorMap;

inline uint32_t shared_address(const void* shared) { return emulation::shared_address(shared); }

template <int kRank>
cudaError_t make_tensor_map(TensorMap& map, bool, const void* entries,
                            const uint64_t (&sizes)[kRank], const uint64_t (&strides)[kRank - 1],
                            const uint32_t (&box)[kRank]) {
  return emulation::encode(map, kRank, entries, sizes, strides, box) ? cudaSuccess
                                                                     : cudaErrorInvalidValue;
}

template <typename... Params>
bool runs_on_hopper(void (*)(Params...), int) {
  return true;
}

template <typename... Params, typename... Args>
cudaError_t launch_clusters(void (*kernel)(Params...), dim3 grid, int cluster, int threads,
                            size_t shared, cudaStream_t, Args... args) {
  return emulation::run([&] { kernel(args...); }, grid, threads, shared, cluster);
}

uint32_t cluster_rank();
void cluster_sync(emulation::Site site = emulation::here());

template <int registers>
void keep_registers(emulation::Site site = emulation::here()) {
  emulation::set_registers(false, registers, site);
}

template <int registers>
void take_registers(emulation::Site site = emulation::here()) {
  emulation::set_registers(true, registers, site);
}

void make_barrier(uint32_t barrier, int arrivals, emulation::Site site = emulation::here());
void fence_barriers();
void barrier_arrive(uint32_t barrier, uint32_t rank, emulation::Site site = emulation::here());
void barrier_expect(uint32_t barrier, uint32_t bytes, emulation::Site site = emulation::here());
void barrier_wait(uint32_t barrier, uint32_t parity, emulation::Site site = emulation::here());

void load_box(uint32_t to, const TensorMap& map, int x, int y, int z, int w, uint32_t barrier,
              uint32_t blocks = 1, emulation::Site site = emulation::here());

void begin_products(emulation::Site site = emulation::here());

void commit_products(emulation::Site site = emulation::here());
void wait_for_earlier_products(emulation::Site site = emulation::here());

template <int kSums>
void end_products(float (&sum)[kSums], emulation::Site site = emulation::here()) {
  emulation::end_products(sum, kSums, site);
}

template <int kColumns, bool kFloat16>
void multiply(float (&sum)[kColumns / 2], uint64_t a, uint64_t b, bool add,
              emulation::Site site = emulation::here()) {
  emulation::multiply(sum, kColumns, kFloat16, a, b, add, site);
}

}  // namespace emergence_ext::cuda
