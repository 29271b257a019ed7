// The ops of the namespace emergence_emulated: those of CUDA, on tensors of the CPU.

#include "emulated_context.h"
#include "schemas.h"

namespace emergence_ext::cuda {

int64_t emulated_shared_memory = 227 << 10, emulated_memory = INT64_MAX;

}  // namespace emergence_ext::cuda

extern "C" void emulation_set_memory(int64_t shared, int64_t allocation) {
  emergence_ext::cuda::emulated_shared_memory = shared;
  emergence_ext::cuda::emulated_memory = allocation;
}

TORCH_LIBRARY(emergence_emulated, m) { emergence_ext::define_ops(m); }
