// What the bindings take from torch's side of CUDA: the device of a tensor made current, its stream
// and its limits.
#pragma once

#if defined(EMERGENCE_EMULATED)
#include "emulated_context.h"
#else

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "matching.h"

namespace emergence_ext::cuda {

class Context {
 public:
  explicit Context(const at::Tensor& x) : guard_(x.device()) {
    const int index = x.device().index();
    const auto read = [&](cudaDeviceAttr what) {
      int value = 0;
      C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, what, index));
      return value;
    };
    TORCH_CHECK_NOT_IMPLEMENTED(read(cudaDevAttrComputeCapabilityMajor) >= 8,
                                "emergence_ext: the CUDA kernels need compute capability 8.0 or "
                                "higher, ",
                                x.device(), " has ", read(cudaDevAttrComputeCapabilityMajor), ".",
                                read(cudaDevAttrComputeCapabilityMinor),
                                "; move the tensors to the CPU");
    on.multiprocessors = read(cudaDevAttrMultiProcessorCount);
    // What allow_all_shared asks for.
    on.shared = read(cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                read(cudaDevAttrReservedSharedMemoryPerBlock);
    on.stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream();
  }

  Device on{};

 private:
  c10::cuda::CUDAGuard guard_;
};

// Room for a block; throws c10::OutOfMemoryError where the device has none.
inline at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return at::empty(sizes, options);
}

// The status of a launch.
inline void check(int status) { C10_CUDA_CHECK(static_cast<cudaError_t>(status)); }

}  // namespace emergence_ext::cuda

#endif
