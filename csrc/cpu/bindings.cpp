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

// The same of packed rows [rows, D].
double require_finite_row(const char* op, const char* name, const at::Tensor& x) {
  const double largest = cpu::largest_magnitude(Operand(x.unsqueeze(0)));
  if (largest <= std::numeric_limits<double>::max()) return largest;
  const auto wrong = at::isfinite(x).logical_not().any(1).nonzero();
  TORCH_CHECK_VALUE(false, op, ": ", name, " is not finite at row ", wrong[0][0].item<int64_t>(),
                    "; find out where it comes from before matching");
}

std::vector<int64_t> entries(const at::Tensor& starts) {
  const auto given = starts.contiguous();
  const int64_t* const first = given.const_data_ptr<int64_t>();
  return {first, first + given.numel()};
}

// A problem and the copies that it points to.
template <typename scalar>
struct Prepared {
  std::vector<int64_t> of_q, of_d;  // where their images begin
  at::Tensor v, a;
  Problem<scalar> problem;
  double largest_q;

  Prepared(const char* op, const at::Tensor& q, const OptionalTensor& v_, const at::Tensor& d,
           const OptionalTensor& a_, const Ragged& ragged)
      : of_q(starts_of(ragged.q_lengths)),
        of_d(starts_of(ragged.d_lengths)),
        v(v_ ? v_->to(type).contiguous() : at::Tensor()),
        a(a_ ? a_->to(type).contiguous()
             : at::ones(q.sizes().slice(0, 2), q.options().dtype(type))),
        problem{Operand(q, of_q),
                Operand(d, of_d),
                v_ ? v.const_data_ptr<scalar>() : nullptr,
                a.const_data_ptr<scalar>(),
                false,
                static_cast<scalar>(ragged.empty_score),
                nullptr,
                nullptr},
        largest_q(require_finite(op, v_ ? "f" : "q", q, ragged.q_lengths)) {
    if (v_) largest_q *= std::max(1.0, require_finite(op, "v", *v_));
    if (a_) require_finite(op, "a", *a_, ragged.q_lengths);
  }

  // All images of q one after the other in [rows, D], and of d.
  Prepared(const char* op, const at::Tensor& q, const at::Tensor& q_starts, const at::Tensor& d,
           const at::Tensor& d_starts, double empty_score)
      : of_q(entries(q_starts)),
        of_d(entries(d_starts)),
        problem{Operand::packed(q, of_q),
                Operand::packed(d, of_d),
                nullptr,
                nullptr,
                true,
                static_cast<scalar>(empty_score),
                nullptr,
                nullptr},
        largest_q(require_finite_row(op, "q", q)) {
    a = at::ones({problem.R()}, q.options().dtype(type));
    problem.a = a.const_data_ptr<scalar>();
  }

  // The kernels for these inputs, after a look at d.
  void choose(const char* op, const at::Tensor& d, const Ragged& ragged,
              c10::string_view precision) {
    const double largest_d = require_finite(op, "d", d, ragged.d_lengths);
    cpu::choose_kernels(problem, std::string(precision), largest_q, largest_d);
  }

  Prepared(const Prepared&) = delete;  // the problem points into it
  Prepared& operator=(const Prepared&) = delete;

  static constexpr at::ScalarType type = c10::CppTypeToScalarType<scalar>::value;
};

// Calls match(&largest), which gives the largest magnitude of d, with the kernels that nearly all
// inputs take, and again where theirs are others: so d is not read once more to find out.
// `look(x)` raises where x is not finite; else its largest magnitude.
template <typename scalar, typename Match, typename Look>
void match_looking(Prepared<scalar>& in, c10::string_view precision, Match&& match, Look&& look) {
  auto& p = in.problem;
  const std::string wanted(precision);
  cpu::choose_kernels(p, wanted, in.largest_q, 1.0);
  const auto* const kernels = p.kernels;
  const auto* const pairs = p.pairs;
  double largest = 0;
  match(&largest);
  const bool unread = p.q.start(p.N()) == 0;
  if (unread || !(largest <= std::numeric_limits<double>::max())) largest = look();
  cpu::choose_kernels(p, wanted, in.largest_q, largest);
  if (p.kernels != kernels || p.pairs != pairs) match(&largest);
}

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
    Prepared<scalar> in(op, q, {}, d, a, ragged);
    char* const data = argmax.defined() ? static_cast<char*>(argmax.mutable_data_ptr()) : nullptr;
    const int size = argmax.defined() ? static_cast<int>(argmax.element_size()) : 0;
    match_looking(
        in, precision,
        [&](double* largest) {
          cpu::match_images(in.problem, 0, B, T.mutable_data_ptr<scalar>(), {data, size}, largest);
        },
        [&] { return require_finite(op, "d", d, ragged.d_lengths); });
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

// Places into memory that is there already.
at::Tensor maxsim_indices_into(const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
                               const OptionalTensor& q_lengths, const OptionalTensor& d_lengths,
                               at::Tensor argmax, double empty_score, c10::string_view precision,
                               std::optional<int64_t> max_memory) {
  const char* const op = "maxsim_indices";
  check_maxsim(op, q, d, a);
  TORCH_CHECK_VALUE(argmax.sizes() == at::IntArrayRef({d.size(0), q.size(0), q.size(1)}) &&
                        argmax.is_contiguous() && argmax.is_cpu(),
                    op, ": out must be contiguous [", d.size(0), ", ", q.size(0), ", ", q.size(1),
                    "] on cpu, got ", argmax.sizes(), " on ", argmax.device());
  TORCH_CHECK_TYPE(argmax.scalar_type() == at::kLong || argmax.scalar_type() == at::kInt ||
                       argmax.scalar_type() == index_type(d, kCompactLimit),
                   op, ": out of ", argmax.scalar_type(), " cannot hold the places of ", d.size(1),
                   " candidates; take int32 or int64");
  return matched(op, q, d, a, {q_lengths, d_lengths, empty_score}, precision, max_memory, argmax);
}

// The op that takes packed sets: starts [images + 1], int64, from 0 to the number of rows; pairs
// [P, 2], int64, of images of q and d, or absent for all, T then [B, N] and else [P]. What is wrong
// with offsets and pairs, emergence_ext/ops/packed.py says.
at::Tensor maxsim_packed(const at::Tensor& q, const at::Tensor& q_starts, const at::Tensor& d,
                         const at::Tensor& d_starts, const OptionalTensor& pairs,
                         double empty_score, c10::string_view precision) {
  const char* const op = "maxsim_packed";
  // Types and widths; sets are counted below.
  check_maxsim(op, q.slice(0, 0, 1).unsqueeze(0), d.slice(0, 0, 1).unsqueeze(0), {});
  check_options(op, precision, {});
  const auto type = q.options().dtype(compute_type(q));
  auto T = pairs ? at::empty({pairs->size(0)}, type)
                 : at::empty({d_starts.numel() - 1, q_starts.numel() - 1}, type);
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    Prepared<scalar> in(op, q, q_starts, d, d_starts, empty_score);
    const auto& p = in.problem;
    TORCH_CHECK_VALUE(p.S() <= kMostRegions, op, ": a set of d may have at most 2^24 rows, got ",
                      p.S());
    scalar* const out = T.mutable_data_ptr<scalar>();
    const auto listed = pairs ? pairs->contiguous() : at::Tensor();
    match_looking(
        in, precision,
        [&](double* largest) {
          if (!pairs) return cpu::match_images(p, 0, p.d.images, out, {nullptr, 0}, largest);
          cpu::match_pairs(p, listed.const_data_ptr<int64_t>(), listed.size(0), out, largest);
        },
        [&] { return require_finite_row(op, "d", d); });
  });
  return T;
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
    Prepared<scalar> in("maxsim_backward", q, {}, d, a, ragged);
    in.choose("maxsim_backward", d, ragged, "highest");
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
    Prepared<scalar> in(op, q, v, d, a, ragged);
    in.choose(op, d, ragged, precision);
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

// What only the CPU has; elsewhere Python puts it together from the ops of schemas.h.
TORCH_LIBRARY_FRAGMENT(emergence_ext, m) {
  m.def(
      "maxsim_packed(Tensor q, Tensor q_starts, Tensor d, Tensor d_starts, Tensor? pairs, *, "
      "float empty_score=-1e9, str precision=\"highest\") -> Tensor");
  m.def(
      "maxsim_indices_into(Tensor q, Tensor d, Tensor? a, Tensor? q_lengths, Tensor? d_lengths, "
      "Tensor(a!) argmax, *, float empty_score=-1e9, str precision=\"highest\", "
      "int? max_memory=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(emergence_ext, CPU, m) {
  m.impl("maxsim_packed", &maxsim_packed);
  m.impl("maxsim_indices_into", &maxsim_indices_into);
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
  m.impl("match_kl", &match_kl<loss_and_gradients>);
  m.impl("match_kl_scaled", &match_kl_scaled<loss_and_gradients>);
}

}  // namespace emergence_ext
