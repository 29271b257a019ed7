// How much scratch a thread has, and how its rows lie.
#pragma once

#include <algorithm>
#include <memory>

#include "matching.h"

namespace emergence_ext::cpu {

inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int64_t round_up(int64_t x, int64_t y) { return ceil_div(x, y) * y; }

template <typename scalar>
std::unique_ptr<scalar[]> scratch(int64_t count) {
  return std::unique_ptr<scalar[]>(new scalar[std::max<int64_t>(count, 1)]);
}

// Columns of a gradient at once.
template <typename scalar>
int64_t columns_at_once(const Problem<scalar>& p) {
  return p.D() <= kNarrow ? p.D() : std::min<int64_t>(p.D(), p.kernels->columns);
}

// The stride of a scratch row: narrow rows of whole narrow registers, others of whole wide ones.
template <typename scalar>
int64_t scratch_stride(const Problem<scalar>& p) {
  const int64_t narrow = 16 / sizeof(scalar);
  return round_up(columns_at_once(p), p.D() <= kNarrow ? narrow : p.kernels->lanes);
}

// Images whose gradients are formed while one scored image is at hand: whole groups.
template <typename scalar>
int64_t images_at_once(const Problem<scalar>& p) {
  return p.D() <= kNarrow ? 8 * kGroup : kGroup;
}

}  // namespace emergence_ext::cpu
