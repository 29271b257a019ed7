// The ways to match, and whether each has run on a GPU: one that has not is off unless
// EMERGENCE_UNTESTED_CUDA=1. EMERGENCE_CUDA_PATH names one to prefer wherever it applies.
#pragma once

#include <array>

namespace emergence_ext::cuda {

struct Path {
  const char* name;
  bool ran_on_gpu;
};

enum class Way { portable, split, hopper };

constexpr std::array<Path, 3> kPaths = {{
    {"portable", false},
    {"split", false},   // float32 rows up to kNarrow, on tensor cores
    {"hopper", false},  // wide 16-bit rows by warpgroup products, compute capability 9.0
}};

}  // namespace emergence_ext::cuda
