// CPU: checks arguments, allocates results, calls the work.

#include <ATen/ATen.h>
#include <torch/library.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <limits>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "match_kl.h"
#include "matching.h"
#include "maxsim.h"

namespace emergence_ext {
namespace {

using cpu::Gradients;
using cpu::Matches;
using cpu::Operand;
using cpu::Problem;
using cpu::starts_of;

// Raises where x is not finite; else its largest magnitude. What is beyond `lengths` is not read.
double require_finite(const char* op, const char* name, const at::Tensor& x,
                      const OptionalTensor& lengths = {}) {
  const auto shaped = x.dim() == 3   ? x
                      : x.dim() == 2 ? x.unsqueeze(-1)
                                     : x.unsqueeze(0).unsqueeze(-1);
  const auto starts = starts_of(lengths);
  const double largest = cpu::largest_magnitude(Operand(shaped, starts));
  if (!(largest <= std::numeric_limits<double>::max())) report_not_finite(op, name, x, lengths);
  return largest;
}

// A problem and the copies that it points to.
template <typename scalar>
struct Prepared {
  std::vector<int64_t> of_q, of_d;  // where their images begin
  at::Tensor v, a;
  Problem<scalar> problem;

  Prepared(const char* op, const at::Tensor& q, const OptionalTensor& v_, const at::Tensor& d,
           const OptionalTensor& a_, const Ragged& ragged, const std::string& precision)
      : of_q(starts_of(ragged.q_lengths)),
        of_d(starts_of(ragged.d_lengths)),
        v(v_ ? v_->to(type).contiguous() : at::Tensor()),
        a(a_ ? a_->to(type).contiguous()
             : at::ones(q.sizes().slice(0, 2), q.options().dtype(type))),
        problem{Operand(q, of_q),
                Operand(d, of_d),
                v_ ? v.const_data_ptr<scalar>() : nullptr,
                a.const_data_ptr<scalar>(),
                static_cast<scalar>(ragged.empty_score),
                nullptr,
                nullptr} {
    double largest_q = require_finite(op, v_ ? "f" : "q", q, ragged.q_lengths);
    const double largest_d = require_finite(op, "d", d, ragged.d_lengths);
    if (v_) largest_q *= std::max(1.0, require_finite(op, "v", *v_));
    if (a_) require_finite(op, "a", *a_, ragged.q_lengths);
    cpu::choose_kernels(problem, precision, largest_q, largest_d);
  }

  Prepared(const Prepared&) = delete;  // the problem points into it
  Prepared& operator=(const Prepared&) = delete;

  static constexpr at::ScalarType type = c10::CppTypeToScalarType<scalar>::value;
};

// Memory that is about to be written for the first time. Huge pages, where the system grants them,
// spare it a fault every 4 KiB: a quarter of the time of maxsim_indices at N = R = 200, D = 3.
at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options) {
  auto x = at::empty(sizes, options);
#if defined(__linux__)
  constexpr uintptr_t huge = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(x.mutable_data_ptr());
  const auto first = (begin + huge - 1) / huge * huge, last = (begin + x.nbytes()) / huge * huge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return x;
}

// `argmax` is [B, N, R] of a type in maxsim.h, or undefined where nobody asked.
at::Tensor matched(const char* op, const at::Tensor& q, const at::Tensor& d,
                   const OptionalTensor& a, const Ragged& ragged, c10::string_view precision,
                   std::optional<int64_t> max_memory, at::Tensor argmax) {
  ragged.check(op, q, d);
  check_options(op, precision, max_memory);
  const int64_t B = d.size(0);
  auto T = at::empty({B, q.size(0)}, q.options().dtype(compute_type(q)));
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Prepared<scalar> in(op, q, {}, d, a, ragged, std::string(precision));
    char* const data = argmax.defined() ? static_cast<char*>(argmax.mutable_data_ptr()) : nullptr;
    const int size = argmax.defined() ? static_cast<int>(argmax.element_size()) : 0;
    cpu::match_images(in.problem, 0, B, T.mutable_data_ptr<scalar>(), {data, size});
  });
  return T;
}

at::Tensor maxsim(const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
                  const OptionalTensor& q_lengths, const OptionalTensor& d_lengths,
                  double empty_score, c10::string_view precision,
                  std::optional<int64_t> max_memory) {
  check_maxsim("maxsim", q, d, a);
  return matched("maxsim", q, d, a, {q_lengths, d_lengths, empty_score}, precision, max_memory, {});
}

std::tuple<at::Tensor, at::Tensor> maxsim_indices(const at::Tensor& q, const at::Tensor& d,
                                                  const OptionalTensor& a,
                                                  const OptionalTensor& q_lengths,
                                                  const OptionalTensor& d_lengths,
                                                  double empty_score, c10::string_view precision,
                                                  std::optional<int64_t> max_memory, bool compact) {
  check_maxsim("maxsim_indices", q, d, a);
  const auto type = compact ? index_type(d, kCompactLimit) : at::kLong;
  const auto argmax = fresh({d.size(0), q.size(0), q.size(1)}, q.options().dtype(type));
  return {matched("maxsim_indices", q, d, a, {q_lengths, d_lengths, empty_score}, precision,
                  max_memory, argmax),
          argmax};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> maxsim_backward(
    const at::Tensor& G, const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
    const at::Tensor& argmax, std::array<bool, 3> needs, const OptionalTensor& q_lengths,
    const OptionalTensor& d_lengths) {
  check_maxsim_backward(G, q, d, a, argmax);
  const Ragged ragged{q_lengths, d_lengths};
  ragged.check("maxsim_backward", q, d);
  auto dq = zeros_for(q, needs[0]), dd = zeros_for(d, needs[1]),
       da = zeros_for(q.select(2, 0), needs[2]);
  const auto scores = G.contiguous();
  const auto indices = argmax.to(index_type(d, kCompactLimit)).contiguous();
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Prepared<scalar> in("maxsim_backward", q, {}, d, a, ragged, "highest");
    char* const matches = static_cast<char*>(const_cast<void*>(indices.const_data_ptr()));
    cpu::add_gradients(in.problem, 0, d.size(0), scores.const_data_ptr<scalar>(),
                       {matches, static_cast<int>(indices.element_size())},
                       Gradients<scalar>{data<scalar>(dq, needs[0]), data<scalar>(dd, needs[1]),
                                         data<scalar>(da, needs[2]), nullptr});
  });
  const auto type = q.scalar_type();
  return {dq.to(type), dd.to(type), da.to(type)};
}

// Loss and the gradients of (q, d, a, b), or with v of (v, d, a, b).
std::array<at::Tensor, 5> loss_and_gradients(const char* op, const at::Tensor& q,
                                             const OptionalTensor& v, const at::Tensor& d,
                                             const at::Tensor& a, const at::Tensor& b,
                                             const at::Tensor& P, const OptionalTensor& exclude,
                                             std::array<bool, 4> needs, const Ragged& ragged,
                                             Over over, c10::string_view precision,
                                             std::optional<int64_t> max_memory) {
  check_match_kl(op, q, v, d, a, b, P, exclude, over);
  ragged.check(op, q, d);
  check_options(op, precision, max_memory);
  require_finite(op, "b", b);
  require_finite(op, "P", P);
  check_values(op, P, exclude, over);
  const auto type = compute_type(q);
  auto first = zeros_for(v ? *v : q, needs[0]), dd = zeros_for(d, needs[1]),
       da = zeros_for(a, needs[2]);
  auto db = zeros_for(b, needs[3]).to(type);
  auto loss = at::empty({}, q.options().dtype(type));
  const auto bias = b.to(type).contiguous(), targets = P.to(type).contiguous();
  const auto excluded = exclude ? exclude->contiguous() : at::Tensor();
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Prepared<scalar> in(op, q, v, d, a, ragged, std::string(precision));
    loss.fill_(cpu::match_kl<scalar>(
        op, in.problem,
        {over, bias.const_data_ptr<scalar>(), targets.const_data_ptr<scalar>(),
         exclude ? excluded.const_data_ptr<int64_t>() : nullptr},
        {v ? nullptr : data<scalar>(first, needs[0]), data<scalar>(dd, needs[1]),
         data<scalar>(da, needs[2]), v ? data<scalar>(first, needs[0]) : nullptr},
        data<scalar>(db, needs[3]), max_memory));
  });
  return {loss, first, dd, da, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(emergence_ext, CPU, m) {
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
  m.impl("match_kl", &match_kl<loss_and_gradients>);
  m.impl("match_kl_scaled", &match_kl_scaled<loss_and_gradients>);
}

}  // namespace emergence_ext
