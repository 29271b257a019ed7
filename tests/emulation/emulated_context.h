// The device that the bindings see when kernels are emulated: of torch's side of CUDA there is
// nothing but its limits, which a test may set.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "matching.h"

namespace emergence_ext::cuda {

// A test may set it; see emulated.py.
struct EmulatedDevice {
  int64_t multiprocessors, shared, allocation;
};
extern EmulatedDevice emulated_device;

struct Context {
  explicit Context(const at::Tensor&) {}

  Device on{static_cast<int>(emulated_device.multiprocessors), emulated_device.shared, nullptr};
};

inline at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  auto x = at::empty(sizes, options);
  if (static_cast<int64_t>(x.nbytes()) > emulated_device.allocation)
    throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "the emulated GPU is full");
  return x;
}

inline void check(int status) {
  TORCH_CHECK(status == 0, "the emulated launch gave error ", status);
}

}  // namespace emergence_ext::cuda
