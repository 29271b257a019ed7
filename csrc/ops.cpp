// The library of the ops: their schemas, and what it tells about its build. It knows torch by its
// stable ABI alone and no Python but the errors of errors.h.

#include "build_facts.h"
#include "cpu/kernels.h"
#include "cuda/paths.h"
#include "library.h"
#include "schemas.h"

STABLE_TORCH_LIBRARY(emergence_ext, m) { emergence_ext::define_ops(m); }

STABLE_TORCH_LIBRARY_IMPL(emergence_ext, CompositeExplicitAutograd, m) {
  m.impl("scale_gradient", TORCH_BOX(&emergence_ext::scale_gradient));
}

namespace emergence_ext {

const char* build_facts() { return kBuildFacts; }

int instruction_sets(const char* names[kMostInstructionSets]) { return cpu::levels(names); }

const char* instruction_set() { return cpu::level().name; }

bool use_instruction_set(const char* name) { return cpu::use_level(name); }

void allow_cuda_ways(int device, uint32_t ways) { cuda::allowed_ways(device) = ways; }

}  // namespace emergence_ext
