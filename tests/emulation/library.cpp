// The ops of the namespace emergence_emulated: those of CUDA, on tensors of the CPU.

#include "emulated_context.h"
#include "schemas.h"

namespace emergence_ext::cuda {

int64_t emulated_shared_memory = 227 << 10;

}  // namespace emergence_ext::cuda

extern "C" void emulation_set_shared_memory(int64_t bytes) {
  emergence_ext::cuda::emulated_shared_memory = bytes;
}

TORCH_LIBRARY(emergence_emulated, m) { emergence_ext::define_ops(m); }
