// Checks of arguments, the same for every backend: each message names the op, the argument, what
// was expected and what came. Wrong shapes and values are a ValueError, wrong types and devices a
// TypeError.
#pragma once

#include <optional>
#include <string>

#include "tensors.h"

namespace emergence_ext {

constexpr int64_t kMostRegions = 1 << 24;  // whose places float32 holds exactly

// The images that the softmax of match_kl.h runs over.
enum class Over { q, d };

inline Over over_of(const char* op, const std::string& said) {
  EMERGENCE_CHECK(value_error, said == "q" || said == "d", op, ": over must be 'q' or 'd', got '",
                  said, "'");
  return said == "q" ? Over::q : Over::d;
}

inline void check_type_as_first(const char* op, const char* name, const Tensor& x,
                                const char* first, const Tensor& q) {
  EMERGENCE_CHECK(type_error, x.scalar_type() == q.scalar_type() && same_device(x, q), op, ": ",
                  name, " is ", x.scalar_type(), " on ", place(x), ", ", first, " is ",
                  q.scalar_type(), " on ", place(q), "; give all the same dtype and device");
}

// `first` is the caller's name of q.
inline void check_maxsim(const char* op, const Tensor& q, const Tensor& d, const OptionalTensor& a,
                         const char* first = "q") {
  EMERGENCE_CHECK(value_error, q.dim() == 3, op, ": ", first, " must be [N, R, D], got ", shape(q));
  EMERGENCE_CHECK(value_error, d.dim() == 3 && d.size(2) == q.size(2), op, ": d must be [B, S, ",
                  q.size(2), "] (the width D of ", first, "), got ", shape(d));
  EMERGENCE_CHECK(value_error, d.size(1) > 0 && d.size(2) > 0, op,
                  ": d needs at least one region and one channel, got ", shape(d));
  EMERGENCE_CHECK(value_error, d.size(1) <= kMostRegions, op,
                  ": d may have at most 2^24 regions, got ", shape(d));
  const auto type = q.scalar_type();
  EMERGENCE_CHECK(type_error,
                  type == kFloat || type == kDouble || type == kHalf || type == kBFloat16, op, ": ",
                  first, " must be float32, float64, bfloat16 or float16, got ", type);
  check_type_as_first(op, "d", d, first, q);
  if (a) {
    EMERGENCE_CHECK(value_error,
                    a->dim() == 2 && a->size(0) == q.size(0) && a->size(1) == q.size(1), op,
                    ": a must be [N, R] = [", q.size(0), ", ", q.size(1), "], got ", shape(*a));
    check_type_as_first(op, "a", *a, first, q);
  }
}

// How many rows each image has, of those that there is room for.
inline void check_lengths(const char* op, const char* name, const OptionalTensor& lengths,
                          const char* x_name, const Tensor& x) {
  if (!lengths) return;
  const int64_t images = x.size(0), rows = x.size(1);
  EMERGENCE_CHECK(type_error,
                  (lengths->scalar_type() == kLong || lengths->scalar_type() == kInt) &&
                      same_device(*lengths, x),
                  op, ": ", name, " must be int64 or int32 on ", place(x), ", got ",
                  lengths->scalar_type(), " on ", place(*lengths));
  EMERGENCE_CHECK(value_error, lengths->sizes().equals({images}), op, ": ", name, " must be [",
                  images, "], one for each image of ", x_name, ", got ", shape(*lengths));
  if (images == 0 || !lengths->is_cpu()) return;
  const auto [low, high] = range_of(*lengths);
  EMERGENCE_CHECK(value_error, low >= 0 && high <= rows, op, ": ", name, " must lie in [0, ", rows,
                  "], as ", x_name, " has room for ", rows,
                  " regions of an image; got entries from ", low, " to ", high);
}

inline void check_match_kl(const char* op, const Tensor& q, const OptionalTensor& v,
                           const Tensor& d, const Tensor& a, const Tensor& b, const Tensor& P,
                           const OptionalTensor& exclude, Over over) {
  check_maxsim(op, q, d, a, v ? "f" : "q");
  const int64_t N = q.size(0), B = d.size(0);
  const int64_t rows = over == Over::q ? B : N, columns = over == Over::q ? N : B;
  const auto check_shape = [&](const char* name, const Tensor& x, Sizes sizes) {
    EMERGENCE_CHECK(value_error, x.sizes().equals(sizes), op, ": ", name, " must be ", shape(sizes),
                    ", got ", shape(x));
  };
  const auto check_floating = [&](const char* name, const Tensor& x) {
    EMERGENCE_CHECK(type_error, is_floating_point(x) && same_device(x, q), op, ": ", name,
                    " must be floating point on ", place(q), ", got ", x.scalar_type(), " on ",
                    place(x));
  };
  if (v) {
    check_shape("v", *v, {N, q.size(2)});
    check_type_as_first(op, "v", *v, "f", q);
  }
  check_shape("b", b, {columns});
  check_floating("b", b);
  check_shape("P", P, {rows, columns});
  check_floating("P", P);
  if (!exclude) return;
  check_shape("exclude", *exclude, {rows});
  EMERGENCE_CHECK(type_error, exclude->scalar_type() == kLong && same_device(*exclude, q), op,
                  ": exclude must be int64 on ", place(q), ", got ", exclude->scalar_type(), " on ",
                  place(*exclude));
}

inline void check_options(const char* op, const std::string& precision,
                          std::optional<int64_t> max_memory) {
  EMERGENCE_CHECK(value_error,
                  precision == "highest" || precision == "high" || precision == "medium", op,
                  ": precision must be 'highest', 'high' or 'medium', got '", precision, "'");
  EMERGENCE_CHECK(value_error, !max_memory || *max_memory > 0, op,
                  ": max_memory must be a positive number of bytes, got ", *max_memory);
}

inline ScalarType compute_type(const Tensor& q) {
  return q.scalar_type() == kDouble ? kDouble : kFloat;
}

inline ScalarType index_type(const Tensor& d, int64_t compact_limit) {
  return d.size(1) <= compact_limit ? kByte : kInt;
}

// On the CPU, where looking is free of a wait, the entries of argmax are checked as well.
inline void check_maxsim_backward(const Tensor& G, const Tensor& q, const Tensor& d,
                                  const OptionalTensor& a, const Tensor& argmax) {
  const char* op = "maxsim_backward";
  check_maxsim(op, q, d, a);
  const int64_t N = q.size(0), R = q.size(1), B = d.size(0);
  EMERGENCE_CHECK(value_error, G.sizes().equals({B, N}), op, ": G must be [B, N] = [", B, ", ", N,
                  "], got ", shape(G));
  EMERGENCE_CHECK(type_error, G.scalar_type() == compute_type(q) && same_device(G, q), op,
                  ": G must be ", compute_type(q), " on ", place(q), ", got ", G.scalar_type(),
                  " on ", place(G));
  EMERGENCE_CHECK(value_error, argmax.sizes().equals({B, N, R}), op,
                  ": argmax must be [B, N, R] = [", B, ", ", N, ", ", R, "], got ", shape(argmax));
  const auto type = argmax.scalar_type();
  EMERGENCE_CHECK(type_error,
                  (type == kByte || type == kInt || type == kLong) && same_device(argmax, q), op,
                  ": argmax must be uint8, int32 or int64 on ", place(q), ", got ", type, " on ",
                  place(argmax));
  if (argmax.numel() == 0 || !argmax.is_cpu()) return;
  const auto [low, high] = range_of(argmax);
  EMERGENCE_CHECK(value_error, low >= 0 && high < d.size(1), op,
                  ": argmax must lie in [0, S) = [0, ", d.size(1), "), got entries from ", low,
                  " to ", high);
}

}  // namespace emergence_ext
