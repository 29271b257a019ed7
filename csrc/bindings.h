// What the bindings of every backend share: the type of the arithmetic, room for gradients, and the
// two ops of match_kl.h out of one function.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <optional>
#include <tuple>

#include "checks.h"

namespace emergence_ext {

using OptionalTensor = std::optional<at::Tensor>;

// Calls run(0.0) or run(0.0f): a number of the type of the arithmetic.
template <typename function>
auto by_type(const at::Tensor& q, function&& run) {
  return q.scalar_type() == at::kDouble ? run(double{}) : run(float{});
}

// Zeros for a gradient that is asked for, else an empty tensor.
inline at::Tensor zeros_for(const at::Tensor& like, bool need) {
  const auto options = like.options().dtype(compute_type(like));
  return need ? at::zeros(like.sizes(), options) : at::empty({0}, options);
}

// Its entries, null where nobody asked for it.
template <typename scalar>
scalar* data(const at::Tensor& gradient, bool need) {
  return need ? gradient.mutable_data_ptr<scalar>() : nullptr;
}

// Sets of different sizes: how many regions each image of q and of d has (null: all), and the score
// of a pair whose image of d has none.
struct Ragged {
  OptionalTensor q_lengths, d_lengths;
  double empty_score = 0;

  void check(const char* op, const at::Tensor& q, const at::Tensor& d) const {
    check_lengths(op, "q_lengths", q_lengths, "q", q);
    check_lengths(op, "d_lengths", d_lengths, "d", d);
  }
};

// A backend's loss and gradients of (q, d, a, b), or with v of (v, d, a, b).
using LossAndGradients = std::array<at::Tensor, 5>(
    const char* op, const at::Tensor& q, const OptionalTensor& v, const at::Tensor& d,
    const at::Tensor& a, const at::Tensor& b, const at::Tensor& P, const OptionalTensor& exclude,
    std::array<bool, 4> needs, const Ragged& ragged, Over over, c10::string_view precision,
    std::optional<int64_t> max_memory);

template <LossAndGradients loss_and_gradients>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl(
    const at::Tensor& q, const at::Tensor& d, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& P, const OptionalTensor& exclude, std::array<bool, 4> needs,
    const OptionalTensor& q_lengths, const OptionalTensor& d_lengths, double empty_score,
    c10::string_view over, c10::string_view precision, std::optional<int64_t> max_memory) {
  const char* const op = "match_kl";
  const auto [loss, dq, dd, da, db] =
      loss_and_gradients(op, q, {}, d, a, b, P, exclude, needs, {q_lengths, d_lengths, empty_score},
                         over_of(op, over), precision, max_memory);
  return {loss, dq, dd, da, db};
}

template <LossAndGradients loss_and_gradients>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl_scaled(
    const at::Tensor& f, const at::Tensor& v, const at::Tensor& d, const at::Tensor& a,
    const at::Tensor& b, const at::Tensor& P, const OptionalTensor& exclude,
    std::array<bool, 3> needs, const OptionalTensor& q_lengths, const OptionalTensor& d_lengths,
    double empty_score, c10::string_view over, c10::string_view precision,
    std::optional<int64_t> max_memory) {
  const char* const op = "match_kl_scaled";
  const auto [loss, dv, dd, da, db] = loss_and_gradients(
      op, f, v, d, a, b, P, exclude, {needs[0], false, needs[1], needs[2]},
      {q_lengths, d_lengths, empty_score}, over_of(op, over), precision, max_memory);
  return {loss, dv, da, db};
}

}  // namespace emergence_ext
