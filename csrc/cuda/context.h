// What the bindings take from torch's side of CUDA: the device of a tensor made current, its stream
// and its limits.
#pragma once

#if defined(EMERGENCE_EMULATED)
#include "emulated_context.h"
#else

#include <cuda_runtime.h>

#include "../tensors.h"
#include "matching.h"

namespace emergence_ext::cuda {

class Context {
 public:
  explicit Context(const Tensor& x) : guard_(x.get_device_index()) {
    const int index = x.get_device_index();
    const auto read = [&](cudaDeviceAttr what) {
      int value = 0;
      STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, what, index));
      return value;
    };
    EMERGENCE_CHECK(not_implemented_error, read(cudaDevAttrComputeCapabilityMajor) >= 8,
                    "emergence_ext: the CUDA kernels need compute capability 8.0 or higher, ",
                    place(x), " has ", read(cudaDevAttrComputeCapabilityMajor), ".",
                    read(cudaDevAttrComputeCapabilityMinor), "; move the tensors to the CPU");
    on.multiprocessors = read(cudaDevAttrMultiProcessorCount);
    // What allow_all_shared asks for.
    on.shared = read(cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                read(cudaDevAttrReservedSharedMemoryPerBlock);
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &on.stream));
  }

  Device on{};

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// Room for a block, if the device has any.
inline OptionalTensor allocate(Sizes sizes, ScalarType type, const Tensor& like) {
  return try_empty(sizes, type, like);
}

// The status of a launch.
inline void check(int status) { STD_CUDA_CHECK(static_cast<cudaError_t>(status)); }

}  // namespace emergence_ext::cuda

#endif
