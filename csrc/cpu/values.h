// Checks of values, which the CPU alone makes: on a GPU the answer would make the host wait.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../checks.h"
#include "matching.h"

namespace emergence_ext::cpu {

// Where the first entry lies that is not finite: image, row. One must be there.
inline std::array<int64_t, 2> first_not_finite(const Operand& x) {
  std::vector<double> row(x.columns);
  for (int64_t image = 0; image < x.images; ++image)
    for (int64_t r = 0; r < x.length(image); ++r) {
      x.copy(x.start(image) + r, 1, 0, x.columns, row.data(), x.columns);
      for (const double entry : row)
        if (!std::isfinite(entry)) return {image, r};
    }
  raise<runtime_error>("an entry that was not finite is so no longer: inputs were written to");
}

// Raises where x is not finite; else its largest magnitude. What is beyond `lengths` is not read.
inline double require_finite(const char* op, const char* name, const Tensor& x,
                             const OptionalTensor& lengths = {}) {
  const auto starts = starts_of(lengths);
  const Operand rows = x.dim() == 3 ? Operand(x, starts) : Operand::one_column(x, starts);
  const double largest = largest_magnitude(rows);
  if (largest <= std::numeric_limits<double>::max()) return largest;
  const auto [image, row] = first_not_finite(rows);
  const char* const second = *name == 'P' ? ", image " : *name == 'v' ? ", channel " : ", region ";
  const std::string there =
      x.dim() == 1 ? std::to_string(row) : std::to_string(image) + second + std::to_string(row);
  raise<value_error>(op, ": ", name, " is not finite at sample ", there,
                     "; find out where it comes from before matching");
}

// The same of packed rows.
inline double require_finite_row(const char* op, const char* name, const Operand& x) {
  const double largest = largest_magnitude(x);
  if (largest <= std::numeric_limits<double>::max()) return largest;
  const auto [image, row] = first_not_finite(x);
  raise<value_error>(op, ": ", name, " is not finite at row ", x.start(image) + row,
                     "; find out where it comes from before matching");
}

// Targets that are similarities, columns that exist.
inline void check_values(const char* op, const Tensor& P, const OptionalTensor& exclude,
                         Over over) {
  if (P.numel() > 0) {
    const auto found = as_type(call("aten::min", "", P), kDouble);
    const double lowest = *found.const_data_ptr<double>();
    EMERGENCE_CHECK(value_error, lowest >= 0, op, ": P must not be negative, its lowest entry is ",
                    lowest);
  }
  if (!exclude || exclude->numel() == 0) return;
  const auto [low, high] = range_of(*exclude);
  EMERGENCE_CHECK(value_error, low >= -1 && high < P.size(1), op, ": exclude must lie in [-1, ",
                  over == Over::q ? 'N' : 'B', ") = [-1, ", P.size(1), "), got entries from ", low,
                  " to ", high);
}

}  // namespace emergence_ext::cpu
