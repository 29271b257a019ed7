// What the bindings of every backend share: the type of the arithmetic, room for gradients, and the
// two ops of match_kl.h out of one function.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "tensors.h"

namespace emergence_ext {

// Calls run(0.0) or run(0.0f): a number of the type of the arithmetic.
template <typename function>
auto by_type(const Tensor& q, function&& run) {
  return q.scalar_type() == kDouble ? run(double{}) : run(float{});
}

// Zeros for the gradient of `like`, or of such sizes, where it is asked for; else an empty tensor.
inline Tensor zeros_for(const Tensor& like, Sizes sizes, bool need) {
  return need ? zeros(sizes, compute_type(like), like) : empty({0}, compute_type(like), like);
}
inline Tensor zeros_for(const Tensor& like, bool need) {
  return zeros_for(like, like.sizes(), need);
}

// Its entries, null where nobody asked for it.
template <typename scalar>
scalar* data(const Tensor& gradient, bool need) {
  return need ? gradient.mutable_data_ptr<scalar>() : nullptr;
}

// Sets of different sizes: how many regions each image of q and of d has (null: all), and the score
// of a pair whose image of d has none.
struct Ragged {
  OptionalTensor q_lengths, d_lengths;
  double empty_score = 0;

  void check(const char* op, const Tensor& q, const Tensor& d) const {
    check_lengths(op, "q_lengths", q_lengths, "q", q);
    check_lengths(op, "d_lengths", d_lengths, "d", d);
  }
};

// A backend's loss and gradients of (q, d, a, b), or with v of (v, d, a, b).
using LossAndGradients = std::array<Tensor, 5>(const char* op, const Tensor& q,
                                               const OptionalTensor& v, const Tensor& d,
                                               const Tensor& a, const Tensor& b, const Tensor& P,
                                               const OptionalTensor& exclude,
                                               std::array<bool, 4> needs, const Ragged& ragged,
                                               Over over, const std::string& precision,
                                               std::optional<int64_t> max_memory);

// As many switches as a schema says.
template <size_t count>
std::array<bool, count> switches(const char* op, const std::vector<bool>& needs) {
  EMERGENCE_CHECK(value_error, needs.size() == count, op, ": needs must have ", count,
                  " entries, got ", needs.size());
  std::array<bool, count> found;
  std::copy(needs.begin(), needs.end(), found.begin());
  return found;
}

template <LossAndGradients loss_and_gradients>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> match_kl(
    const Tensor& q, const Tensor& d, const Tensor& a, const Tensor& b, const Tensor& P,
    const OptionalTensor& exclude, const std::vector<bool>& needs, const OptionalTensor& q_lengths,
    const OptionalTensor& d_lengths, double empty_score, const std::string& over,
    const std::string& precision, std::optional<int64_t> max_memory) {
  const char* const op = "match_kl";
  const auto [loss, dq, dd, da, db] = loss_and_gradients(
      op, q, {}, d, a, b, P, exclude, switches<4>(op, needs), {q_lengths, d_lengths, empty_score},
      over_of(op, over), precision, max_memory);
  return {loss, dq, dd, da, db};
}

template <LossAndGradients loss_and_gradients>
std::tuple<Tensor, Tensor, Tensor, Tensor> match_kl_scaled(
    const Tensor& f, const Tensor& v, const Tensor& d, const Tensor& a, const Tensor& b,
    const Tensor& P, const OptionalTensor& exclude, const std::vector<bool>& needs,
    const OptionalTensor& q_lengths, const OptionalTensor& d_lengths, double empty_score,
    const std::string& over, const std::string& precision, std::optional<int64_t> max_memory) {
  const char* const op = "match_kl_scaled";
  const auto wanted = switches<3>(op, needs);
  const auto [loss, dv, dd, da, db] = loss_and_gradients(
      op, f, v, d, a, b, P, exclude, {wanted[0], false, wanted[1], wanted[2]},
      {q_lengths, d_lengths, empty_score}, over_of(op, over), precision, max_memory);
  return {loss, dv, da, db};
}

}  // namespace emergence_ext
