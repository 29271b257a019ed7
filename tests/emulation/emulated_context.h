// The device that the bindings see when kernels are emulated: of torch's side of CUDA there is
// nothing but its limits, which a test may set.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "matching.h"

namespace emergence_ext::cuda {

// Bytes of shared memory that a block may ask for: of the largest GPU, until a test says less.
extern int64_t emulated_shared_memory;

struct Context {
  explicit Context(const at::Tensor&) { on.shared = emulated_shared_memory; }

  Device on{2, 0, nullptr};
};

inline void check(int status) {
  TORCH_CHECK(status == 0, "the emulated launch gave error ", status);
}

}  // namespace emergence_ext::cuda
