// Checks of arguments, the same for every backend: each message names the op, the argument, what
// was expected and what came. Wrong shapes and values are a ValueError, wrong types and devices a
// TypeError.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>

namespace emergence_ext {

constexpr int64_t kMostRegions = 1 << 24;  // whose places float32 holds exactly

// The images that the softmax of match_kl.h runs over.
enum class Over { q, d };

inline Over over_of(const char* op, c10::string_view said) {
  TORCH_CHECK_VALUE(said == "q" || said == "d", op, ": over must be 'q' or 'd', got '", said, "'");
  return said == "q" ? Over::q : Over::d;
}

inline void check_type_as_first(const char* op, const char* name, const at::Tensor& x,
                                const char* first, const at::Tensor& q) {
  TORCH_CHECK_TYPE(x.scalar_type() == q.scalar_type() && x.device() == q.device(), op, ": ", name,
                   " is ", x.scalar_type(), " on ", x.device(), ", ", first, " is ",
                   q.scalar_type(), " on ", q.device(), "; give all the same dtype and device");
}

// `first` is the caller's name of q.
inline void check_maxsim(const char* op, const at::Tensor& q, const at::Tensor& d,
                         const std::optional<at::Tensor>& a, const char* first = "q") {
  TORCH_CHECK_VALUE(q.dim() == 3, op, ": ", first, " must be [N, R, D], got ", q.sizes());
  TORCH_CHECK_VALUE(d.dim() == 3 && d.size(2) == q.size(2), op, ": d must be [B, S, ", q.size(2),
                    "] (the width D of ", first, "), got ", d.sizes());
  TORCH_CHECK_VALUE(d.size(1) > 0 && d.size(2) > 0, op,
                    ": d needs at least one region and one channel, got ", d.sizes());
  TORCH_CHECK_VALUE(d.size(1) <= kMostRegions, op, ": d may have at most 2^24 regions, got ",
                    d.sizes());
  const auto type = q.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16, op,
      ": ", first, " must be float32, float64, bfloat16 or float16, got ", type);
  check_type_as_first(op, "d", d, first, q);
  if (a) {
    TORCH_CHECK_VALUE(a->dim() == 2 && a->size(0) == q.size(0) && a->size(1) == q.size(1), op,
                      ": a must be [N, R] = [", q.size(0), ", ", q.size(1), "], got ", a->sizes());
    check_type_as_first(op, "a", *a, first, q);
  }
}

// How many rows each image has, of those that there is room for.
inline void check_lengths(const char* op, const char* name,
                          const std::optional<at::Tensor>& lengths, const char* x_name,
                          const at::Tensor& x) {
  if (!lengths) return;
  const int64_t images = x.size(0), rows = x.size(1);
  TORCH_CHECK_TYPE((lengths->scalar_type() == at::kLong || lengths->scalar_type() == at::kInt) &&
                       lengths->device() == x.device(),
                   op, ": ", name, " must be int64 or int32 on ", x.device(), ", got ",
                   lengths->scalar_type(), " on ", lengths->device());
  TORCH_CHECK_VALUE(lengths->sizes() == at::IntArrayRef({images}), op, ": ", name, " must be [",
                    images, "], one for each image of ", x_name, ", got ", lengths->sizes());
  if (images == 0 || !lengths->is_cpu()) return;
  const auto [low, high] = at::aminmax(lengths->to(at::kLong));
  TORCH_CHECK_VALUE(low.item<int64_t>() >= 0 && high.item<int64_t>() <= rows, op, ": ", name,
                    " must lie in [0, ", rows, "], as ", x_name, " has room for ", rows,
                    " regions of an image; got entries from ", low.item<int64_t>(), " to ",
                    high.item<int64_t>());
}

inline void check_match_kl(const char* op, const at::Tensor& q, const std::optional<at::Tensor>& v,
                           const at::Tensor& d, const at::Tensor& a, const at::Tensor& b,
                           const at::Tensor& P, const std::optional<at::Tensor>& exclude,
                           Over over) {
  check_maxsim(op, q, d, a, v ? "f" : "q");
  const int64_t N = q.size(0), B = d.size(0);
  const int64_t rows = over == Over::q ? B : N, columns = over == Over::q ? N : B;
  const auto check_shape = [&](const char* name, const at::Tensor& x, at::IntArrayRef shape) {
    TORCH_CHECK_VALUE(x.sizes() == shape, op, ": ", name, " must be ", shape, ", got ", x.sizes());
  };
  const auto check_floating = [&](const char* name, const at::Tensor& x) {
    TORCH_CHECK_TYPE(x.is_floating_point() && x.device() == q.device(), op, ": ", name,
                     " must be floating point on ", q.device(), ", got ", x.scalar_type(), " on ",
                     x.device());
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
  TORCH_CHECK_TYPE(exclude->scalar_type() == at::kLong && exclude->device() == q.device(), op,
                   ": exclude must be int64 on ", q.device(), ", got ", exclude->scalar_type(),
                   " on ", exclude->device());
}

// For the CPU only, as above: targets that are similarities, columns that exist.
inline void check_values(const char* op, const at::Tensor& P,
                         const std::optional<at::Tensor>& exclude, Over over) {
  if (P.numel() > 0) {
    const double lowest = P.min().item<double>();
    TORCH_CHECK_VALUE(lowest >= 0, op, ": P must not be negative, its lowest entry is ", lowest);
  }
  if (!exclude || exclude->numel() == 0) return;
  const auto [low, high] = at::aminmax(*exclude);
  TORCH_CHECK_VALUE(low.item<int64_t>() >= -1 && high.item<int64_t>() < P.size(1), op,
                    ": exclude must lie in [-1, ", over == Over::q ? 'N' : 'B', ") = [-1, ",
                    P.size(1), "), got entries from ", low.item<int64_t>(), " to ",
                    high.item<int64_t>());
}

inline void check_options(const char* op, c10::string_view precision,
                          std::optional<int64_t> max_memory) {
  TORCH_CHECK_VALUE(precision == "highest" || precision == "high" || precision == "medium", op,
                    ": precision must be 'highest', 'high' or 'medium', got '", precision, "'");
  TORCH_CHECK_VALUE(!max_memory || *max_memory > 0, op,
                    ": max_memory must be a positive number of bytes, got ", *max_memory);
}

// For the CPU only: on a GPU the answer would make the host wait.
[[noreturn]] inline void report_not_finite(const char* op, const char* name, const at::Tensor& x,
                                           const std::optional<at::Tensor>& lengths) {
  auto wrong = at::isfinite(x).logical_not();
  if (lengths) {  // what is padding may be anything
    const auto there = at::arange(x.size(1), lengths->options()) < lengths->unsqueeze(1);
    wrong = wrong.logical_and(x.dim() == 3 ? there.unsqueeze(2) : there);
  }
  const auto first = wrong.nonzero().select(0, 0);
  const auto at = [&](int64_t dim) { return std::to_string(first[dim].item<int64_t>()); };
  TORCH_CHECK_VALUE(false, op, ": ", name, " is not finite at sample ", at(0),
                    x.dim() > 1 ? (std::string(", ") +
                                   (name[0] == 'P'   ? "image "
                                    : name[0] == 'v' ? "channel "
                                                     : "region ") +
                                   at(1))
                                : "",
                    "; find out where it comes from before matching");
}

inline at::ScalarType compute_type(const at::Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline at::ScalarType index_type(const at::Tensor& d, int64_t compact_limit) {
  return d.size(1) <= compact_limit ? at::kByte : at::kInt;
}

// On the CPU, where looking is free of a wait, the entries of argmax are checked as well.
inline void check_maxsim_backward(const at::Tensor& G, const at::Tensor& q, const at::Tensor& d,
                                  const std::optional<at::Tensor>& a, const at::Tensor& argmax) {
  const char* op = "maxsim_backward";
  check_maxsim(op, q, d, a);
  const int64_t N = q.size(0), R = q.size(1), B = d.size(0);
  TORCH_CHECK_VALUE(G.sizes() == at::IntArrayRef({B, N}), op, ": G must be [B, N] = [", B, ", ", N,
                    "], got ", G.sizes());
  TORCH_CHECK_TYPE(G.scalar_type() == compute_type(q) && G.device() == q.device(), op,
                   ": G must be ", compute_type(q), " on ", q.device(), ", got ", G.scalar_type(),
                   " on ", G.device());
  TORCH_CHECK_VALUE(argmax.sizes() == at::IntArrayRef({B, N, R}), op,
                    ": argmax must be [B, N, R] = [", B, ", ", N, ", ", R, "], got ",
                    argmax.sizes());
  const auto type = argmax.scalar_type();
  TORCH_CHECK_TYPE(
      (type == at::kByte || type == at::kInt || type == at::kLong) && argmax.device() == q.device(),
      op, ": argmax must be uint8, int32 or int64 on ", q.device(), ", got ", type, " on ",
      argmax.device());
  if (argmax.numel() == 0 || !argmax.is_cpu()) return;
  const auto [low, high] = at::aminmax(argmax);
  TORCH_CHECK_VALUE(low.item<int64_t>() >= 0 && high.item<int64_t>() < d.size(1), op,
                    ": argmax must lie in [0, S) = [0, ", d.size(1), "), got entries from ",
                    low.item<int64_t>(), " to ", high.item<int64_t>());
}

}  // namespace emergence_ext
