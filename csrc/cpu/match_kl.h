// The loop over blocks of conditioning images. The contract is in ../match_kl.h.
#pragma once

#include <optional>

#include "matching.h"

namespace emergence_ext::cpu {

template <typename scalar>
struct Targets {
  const scalar* b;         // [N]
  const scalar* P;         // [B, N]
  const int64_t* exclude;  // [B] or null
};

// The loss; gradients are added to `out` and `db` [N] (null when not asked for), which must be
// zero. Throws where `max_memory` holds no block.
template <typename scalar>
double match_kl(const char* op, const Problem<scalar>& problem, const Targets<scalar>& targets,
                const Gradients<scalar>& out, scalar* db, std::optional<int64_t> max_memory);

}  // namespace emergence_ext::cpu
