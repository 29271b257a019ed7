// The loop over blocks of images whose softmax is complete. The contract is in ../match_kl.h.
#pragma once

#include <optional>

#include "../checks.h"
#include "matching.h"

namespace emergence_ext::cpu {

template <typename scalar>
struct Targets {
  Over over;
  const scalar* b;         // [columns]: N over q, B over d
  const scalar* P;         // [rows, columns]
  const int64_t* exclude;  // [rows] or null
};

// The loss; gradients are added to `out` and `db`, as b (null when not asked for), which must be
// zero. Throws where `max_memory` holds no block.
template <typename scalar>
double match_kl(const char* op, const Problem<scalar>& problem, const Targets<scalar>& targets,
                const Gradients<scalar>& out, scalar* db, std::optional<int64_t> max_memory);

}  // namespace emergence_ext::cpu
