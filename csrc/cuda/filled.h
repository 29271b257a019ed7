// Full sets out of ragged ones, for kernels that know no lengths.
#pragma once

#include "../bindings.h"

namespace emergence_ext::cuda {

// A number beside tensors of a device: torch takes it without a copy there.
inline Tensor number(double value, ScalarType type) {
  Tensor x = torch::stable::empty({}, type);
  torch::stable::fill_(x, value);
  return x;
}

inline Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  return call("aten::masked_fill", "Tensor", x, mask, number(value, x.scalar_type()));
}
inline void masked_fill_(const Tensor& x, const Tensor& mask, double value) {
  call("aten::masked_fill_", "Tensor", x, mask, number(value, x.scalar_type()));
}
inline Tensor logical_not(const Tensor& x) { return call("aten::logical_not", "", x); }

// Which of the rows of x lie beyond the lengths of its images: [images, rows].
inline Tensor beyond(const Tensor& lengths, const Tensor& x) {
  const auto ones = full({x.size(1)}, 1, lengths.scalar_type(), lengths);
  const auto places = call("aten::cumsum", "", ones, int64_t{0}, std::nullopt);  // from 1 on
  return call("aten::gt", "Tensor", places, torch::stable::unsqueeze(lengths, 1));
}

// Padding of d is copies of the image's first row, which never win against it, padding of q is
// zeros of weight 0, and an image of d without regions is zeros.
class Filled {
 public:
  Tensor q, d;
  OptionalTensor a;

  Filled(const Tensor& q_, const Tensor& d_, const OptionalTensor& a_, const Ragged& ragged)
      : q(q_), d(d_), a(a_), empty_score_(ragged.empty_score) {
    if (ragged.q_lengths) {
      const auto padding = beyond(*ragged.q_lengths, q);
      a = masked_fill(a ? *a : full({q.size(0), q.size(1)}, 1, q.scalar_type(), q), padding, 0);
      q = masked_fill(q, torch::stable::unsqueeze(padding, 2), 0);
      bytes_ += bytes_of(q) + bytes_of(*a);
    }
    if (ragged.d_lengths) {
      empty_ = logical_not(*ragged.d_lengths);
      const auto padding = torch::stable::unsqueeze(beyond(*ragged.d_lengths, d), 2);
      d = call("aten::where", "self", padding, torch::stable::narrow(d, 1, 0, 1), d);
      masked_fill_(d, torch::stable::view(*empty_, {-1, 1, 1}), 0);
      bytes_ += bytes_of(d);
    }
  }

  // Bytes that this took.
  int64_t bytes() const { return bytes_; }

  // Scores [B, N] of images without regions.
  void set_scores(const Tensor& T) const {
    if (empty_) masked_fill_(T, torch::stable::unsqueeze(*empty_, 1), empty_score_);
  }

  // What stands in for these scores in a softmax; over q all of an image's are equal.
  Tensor bias(const Tensor& b, Over over) const {
    if (!empty_ || over == Over::q) return b;
    const auto some = logical_not(call("aten::all", "", *empty_));
    const auto lowered = as_type(call("aten::logical_and", "", *empty_, some), b.scalar_type());
    const auto scores = call("aten::mul", "Tensor", lowered, number(empty_score_, kDouble));
    return torch::stable::subtract(b, scores, -1);
  }

  // Images without regions have no gradient.
  void set_gradient(const Tensor& dd) const {
    if (empty_ && dd.numel() > 0) masked_fill_(dd, torch::stable::view(*empty_, {-1, 1, 1}), 0);
  }

 private:
  OptionalTensor empty_;  // [B], absent where every image is full
  double empty_score_;
  int64_t bytes_ = 0;
};

}  // namespace emergence_ext::cuda
