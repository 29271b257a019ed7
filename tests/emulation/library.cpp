// The ops of the namespace emergence_emulated: those of CUDA, on tensors of the CPU.

#include "device.h"
#include "emulated_context.h"
#include "paths.h"
#include "schemas.h"

namespace emergence_ext::cuda {

EmulatedDevice emulated_device{};

}  // namespace emergence_ext::cuda

extern "C" void emulation_set_device(int64_t multiprocessors, int64_t shared, int64_t allocation) {
  emergence_ext::cuda::emulated_device = {multiprocessors, shared, allocation};
  emulation::set_shared_memory(shared);
}

extern "C" void emulation_allow_ways(uint32_t ways) { emergence_ext::cuda::allowed_ways(0) = ways; }

STABLE_TORCH_LIBRARY(emergence_emulated, m) { emergence_ext::define_ops(m); }

STABLE_TORCH_LIBRARY_IMPL(emergence_emulated, CompositeExplicitAutograd, m) {
  m.impl("scale_gradient", TORCH_BOX(&emergence_ext::scale_gradient));
}
