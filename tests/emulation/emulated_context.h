// The device that the bindings see when kernels are emulated: of torch's side of CUDA there is
// nothing but its limits, which a test may set.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "matching.h"

namespace emergence_ext::cuda {

// Until a test says less: bytes of shared memory that a block of threads may ask for, those of the
// largest GPU, and bytes that one allocation may have.
extern int64_t emulated_shared_memory, emulated_memory;

struct Context {
  explicit Context(const at::Tensor&) { on.shared = emulated_shared_memory; }

  Device on{2, 0, nullptr};
};

inline at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  auto x = at::empty(sizes, options);
  if (static_cast<int64_t>(x.nbytes()) > emulated_memory)
    throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "the emulated GPU is full");
  return x;
}

inline void check(int status) {
  TORCH_CHECK(status == 0, "the emulated launch gave error ", status);
}

}  // namespace emergence_ext::cuda
