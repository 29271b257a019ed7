// The device that the bindings see when kernels are emulated: of torch's side of CUDA there is
// nothing but its limits, which a test may set.
#pragma once

#include "../../csrc/tensors.h"
#include "matching.h"

namespace emergence_ext::cuda {

// A test may set it; see emulated.py.
struct EmulatedDevice {
  int64_t multiprocessors, shared, allocation;
};
extern EmulatedDevice emulated_device;

struct Context {
  explicit Context(const Tensor&) {}

  Device on{static_cast<int>(emulated_device.multiprocessors), emulated_device.shared, nullptr};
};

inline OptionalTensor allocate(Sizes sizes, ScalarType type, const Tensor& like) {
  auto x = empty(sizes, type, like);
  if (bytes_of(x) > emulated_device.allocation) return std::nullopt;
  return x;
}

inline void check(int status) {
  EMERGENCE_CHECK(runtime_error, status == 0, "the emulated launch gave error ", status);
}

}  // namespace emergence_ext::cuda
