// CPU: checks arguments, allocates results, calls the work.

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
#include "schemas.h"
#include "values.h"

namespace emergence_ext {
namespace {

using cpu::Gradients;
using cpu::Matches;
using cpu::Operand;
using cpu::Problem;
using cpu::require_finite;
using cpu::require_finite_row;
using cpu::starts_of;

std::vector<int64_t> entries(const Tensor& starts) {
  const auto given = in_order(starts);
  const int64_t* const first = given.const_data_ptr<int64_t>();
  return {first, first + given.numel()};
}

// None where there is one part.
std::vector<const char*> starts_of_parts(const std::vector<Tensor>& parts) {
  std::vector<const char*> found;
  if (parts.size() == 1) return found;
  found.reserve(parts.size());
  for (const Tensor& part : parts) found.push_back(static_cast<const char*>(part.const_data_ptr()));
  return found;
}

// A problem and the copies that it points to.
template <typename scalar>
struct Prepared {
  std::vector<int64_t> of_q, of_d;  // where their images begin
  OptionalTensor v, a, scale;
  std::vector<const char*> of_each;  // where rows of d begin that are listed
  Problem<scalar> problem;
  double largest_q;

  Prepared(const char* op, const Tensor& q, const OptionalTensor& v_, const Tensor& d,
           const OptionalTensor& a_, const Ragged& ragged)
      : of_q(starts_of(ragged.q_lengths)),
        of_d(starts_of(ragged.d_lengths)),
        v(v_ ? OptionalTensor(in_order(as_type(*v_, type))) : std::nullopt),
        a(a_ ? in_order(as_type(*a_, type)) : full({q.size(0), q.size(1)}, 1, type, q)),
        problem{Operand(q, of_q),
                Operand(d, of_d),
                v ? v->const_data_ptr<scalar>() : nullptr,
                a->const_data_ptr<scalar>(),
                false,
                static_cast<scalar>(ragged.empty_score),
                nullptr,
                nullptr,
                false},
        largest_q(require_finite(op, v_ ? "f" : "q", q, ragged.q_lengths)) {
    if (v_) largest_q *= std::max(1.0, require_finite(op, "v", *v_));
    if (a_) require_finite(op, "a", *a_, ragged.q_lengths);
  }

  // All images of q one after the other in [rows, D], and of d, or a [rows, D] for each image of
  // it, dense ones. `scale` [rows] multiplies d.
  Prepared(const char* op, const Tensor& q, const Tensor& q_starts, const std::vector<Tensor>& d,
           const Tensor& d_starts, const OptionalTensor& scale_, double empty_score)
      : of_q(entries(q_starts)),
        of_d(entries(d_starts)),
        scale(scale_ ? OptionalTensor(in_order(as_type(*scale_, kFloat))) : std::nullopt),
        of_each(starts_of_parts(d)),
        problem{Operand::packed(q, of_q),
                Operand::packed(d.front(), of_d, scale ? scale->const_data_ptr<float>() : nullptr,
                                of_each.empty() ? nullptr : of_each.data()),
                nullptr,
                nullptr,
                true,
                static_cast<scalar>(empty_score),
                nullptr,
                nullptr,
                false},
        largest_q(require_finite_row(op, "q", problem.q)) {
    a = full({problem.R()}, 1, type, q);
    problem.a = a->const_data_ptr<scalar>();
  }

  // The kernels for these inputs, after a look at d.
  void choose(const char* op, const Tensor& d, const Ragged& ragged, const std::string& precision) {
    const double largest_d = require_finite(op, "d", d, ragged.d_lengths);
    cpu::choose_kernels(problem, precision, largest_q, largest_d);
  }

  Prepared(const Prepared&) = delete;  // the problem points into it
  Prepared& operator=(const Prepared&) = delete;

  static constexpr ScalarType type = type_of<scalar>;
};

// Calls match(&largest), which gives the largest magnitude of d, with the kernels that nearly all
// inputs take, and again where theirs are others: so d is not read once more to find out.
// `look(x)` raises where x is not finite; else its largest magnitude.
template <typename scalar, typename Match, typename Look>
void match_looking(Prepared<scalar>& in, const std::string& precision, Match&& match, Look&& look) {
  auto& p = in.problem;
  cpu::choose_kernels(p, precision, in.largest_q, 1.0);
  const auto* const kernels = p.kernels;
  const auto* const screen = p.screen;
  double largest = 0;
  match(&largest);
  const bool unread = p.q.start(p.N()) == 0;
  if (unread || !(largest <= std::numeric_limits<double>::max())) largest = look();
  cpu::choose_kernels(p, precision, in.largest_q, largest);
  if (p.kernels != kernels || p.screen != screen) match(&largest);
}

// Memory that is about to be written for the first time. Huge pages, where the system grants them,
// spare it a fault every 4 KiB: a quarter of the time of maxsim_indices at N = R = 200, D = 3.
Tensor fresh(Sizes sizes, ScalarType type, const Tensor& like) {
  auto x = empty(sizes, type, like);
#if defined(__linux__)
  constexpr uintptr_t huge = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(x.mutable_data_ptr());
  const auto first = (begin + huge - 1) / huge * huge, last = (begin + bytes_of(x)) / huge * huge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return x;
}

// `argmax` is [B, N, R] of a type in maxsim.h, or absent where nobody asked.
Tensor matched(const char* op, const Tensor& q, const Tensor& d, const OptionalTensor& a,
               const Ragged& ragged, const std::string& precision,
               std::optional<int64_t> max_memory, const OptionalTensor& argmax) {
  ragged.check(op, q, d);
  check_options(op, precision, max_memory);
  const int64_t B = d.size(0);
  const auto T = empty({B, q.size(0)}, compute_type(q), q);
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    Prepared<scalar> in(op, q, {}, d, a, ragged);
    char* const data = argmax ? static_cast<char*>(argmax->mutable_data_ptr()) : nullptr;
    const int size = argmax ? static_cast<int>(argmax->element_size()) : 0;
    match_looking(
        in, precision,
        [&](double* largest) {
          cpu::match_images(in.problem, 0, B, T.mutable_data_ptr<scalar>(), {data, size}, largest);
        },
        [&] { return require_finite(op, "d", d, ragged.d_lengths); });
  });
  return T;
}

Tensor maxsim(const Tensor& q, const Tensor& d, const OptionalTensor& a,
              const OptionalTensor& q_lengths, const OptionalTensor& d_lengths, double empty_score,
              const std::string& precision, std::optional<int64_t> max_memory) {
  check_maxsim("maxsim", q, d, a);
  return matched("maxsim", q, d, a, {q_lengths, d_lengths, empty_score}, precision, max_memory, {});
}

std::tuple<Tensor, Tensor> maxsim_indices(const Tensor& q, const Tensor& d, const OptionalTensor& a,
                                          const OptionalTensor& q_lengths,
                                          const OptionalTensor& d_lengths, double empty_score,
                                          const std::string& precision,
                                          std::optional<int64_t> max_memory, bool compact) {
  check_maxsim("maxsim_indices", q, d, a);
  const auto type = compact ? index_type(d, kCompactLimit) : kLong;
  const auto argmax = fresh({d.size(0), q.size(0), q.size(1)}, type, q);
  return {matched("maxsim_indices", q, d, a, {q_lengths, d_lengths, empty_score}, precision,
                  max_memory, argmax),
          argmax};
}

// Places into memory that is there already.
Tensor maxsim_indices_into(const Tensor& q, const Tensor& d, const OptionalTensor& a,
                           const OptionalTensor& q_lengths, const OptionalTensor& d_lengths,
                           Tensor argmax, double empty_score, const std::string& precision,
                           std::optional<int64_t> max_memory) {
  const char* const op = "maxsim_indices";
  check_maxsim(op, q, d, a);
  EMERGENCE_CHECK(value_error,
                  argmax.sizes().equals({d.size(0), q.size(0), q.size(1)}) &&
                      argmax.is_contiguous() && argmax.is_cpu(),
                  op, ": out must be contiguous [", d.size(0), ", ", q.size(0), ", ", q.size(1),
                  "] on cpu, got ", shape(argmax), " on ", place(argmax));
  EMERGENCE_CHECK(type_error,
                  argmax.scalar_type() == kLong || argmax.scalar_type() == kInt ||
                      argmax.scalar_type() == index_type(d, kCompactLimit),
                  op, ": out of ", argmax.scalar_type(), " cannot hold the places of ", d.size(1),
                  " candidates; take int32 or int64");
  return matched(op, q, d, a, {q_lengths, d_lengths, empty_score}, precision, max_memory, argmax);
}

// A set of one row at most.
Tensor first_row(Tensor x) {
  return torch::stable::unsqueeze(torch::stable::narrow(x, 0, 0, std::min<int64_t>(1, x.size(0))),
                                  0);
}

// Checks d of maxsim_packed against q; its parts, dense where there are several or they are bytes.
std::vector<Tensor> parts_of(const char* op, const Tensor& q, std::vector<Tensor> d,
                             const Tensor& d_starts, const OptionalTensor& d_scale) {
  const int64_t count = static_cast<int64_t>(d.size()), images = d_starts.numel() - 1;
  EMERGENCE_CHECK(value_error, count == 1 || (count > 1 && count == images), op,
                  ": d must be one tensor or ", images, ", one for each set, got ", count);
  const Tensor one = d.front();
  const auto type = one.scalar_type();
  EMERGENCE_CHECK(type_error, (type == kChar) == d_scale.has_value(), op, ": d of ", type,
                  d_scale ? " has no d_scale" : " needs a d_scale",
                  "; give both, int8 and a scale for each row, or neither");
  EMERGENCE_CHECK(
      type_error,
      (is_floating_point(one) || type == kChar) && (type != kDouble || q.scalar_type() == kDouble),
      op, ": d of ", type, " does not go with q of ", q.scalar_type());
  EMERGENCE_CHECK(value_error, one.dim() == 2, op, ": d must be [rows, D], got ", shape(one));
  int64_t rows = 0;
  for (Tensor& part : d) {
    EMERGENCE_CHECK(value_error,
                    part.dim() == 2 && part.size(1) == one.size(1) && part.scalar_type() == type &&
                        part.is_cpu(),
                    op, ": the sets of d must be [rows, ", one.size(1), "] of ", type,
                    " on cpu, got ", shape(part), " of ", part.scalar_type(), " on ", place(part));
    rows += part.size(0);
    if (count > 1 || d_scale) part = in_order(part);
  }
  // The type of q and the width; sets are counted later.
  check_maxsim(op, first_row(q),
               zeros({1, std::min<int64_t>(1, rows), one.size(1)}, q.scalar_type(), q), {});
  if (d_scale)
    EMERGENCE_CHECK(
        value_error,
        d_scale->sizes().equals({rows}) && is_floating_point(*d_scale) && d_scale->is_cpu(), op,
        ": d_scale must be floating point [", rows, "] on cpu, got ", d_scale->scalar_type(), " ",
        shape(*d_scale), " on ", place(*d_scale));
  return d;
}

// The op that takes packed sets: starts [images + 1], int64, from 0 to the number of rows; d one
// tensor of all rows or one for each image; pairs [P, 2], int64, of images of q and d, or absent
// for all, T then [B, N] and else [P]. What is wrong with offsets and pairs,
// emergence_ext/ops/packed.py says.
Tensor maxsim_packed(const Tensor& q, const Tensor& q_starts, const std::vector<Tensor>& given,
                     const Tensor& d_starts, const OptionalTensor& d_scale,
                     const OptionalTensor& pairs, double empty_score,
                     const std::string& precision) {
  const char* const op = "maxsim_packed";
  const auto d = parts_of(op, q, given, d_starts, d_scale);
  check_options(op, precision, {});
  const auto type = compute_type(q);
  const auto T = pairs ? empty({pairs->size(0)}, type, q)
                       : empty({d_starts.numel() - 1, q_starts.numel() - 1}, type, q);
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    Prepared<scalar> in(op, q, q_starts, d, d_starts, d_scale, empty_score);
    const auto& p = in.problem;
    EMERGENCE_CHECK(value_error, p.S() <= kMostRegions, op,
                    ": a set of d may have at most 2^24 rows, got ", p.S());
    scalar* const out = T.mutable_data_ptr<scalar>();
    const auto listed = pairs ? OptionalTensor(in_order(*pairs)) : std::nullopt;
    match_looking(
        in, precision,
        [&](double* largest) {
          if (!pairs) return cpu::match_images(p, 0, p.d.images, out, {nullptr, 0}, largest);
          cpu::match_pairs(p, listed->const_data_ptr<int64_t>(), listed->size(0), out, largest);
        },
        [&] { return require_finite_row(op, "d", p.d); });
  });
  return T;
}

std::tuple<Tensor, Tensor, Tensor> maxsim_backward(const Tensor& G, const Tensor& q,
                                                   const Tensor& d, const OptionalTensor& a,
                                                   const Tensor& argmax,
                                                   const std::vector<bool>& wanted,
                                                   const OptionalTensor& q_lengths,
                                                   const OptionalTensor& d_lengths) {
  const auto needs = switches<3>("maxsim_backward", wanted);
  check_maxsim_backward(G, q, d, a, argmax);
  const Ragged ragged{q_lengths, d_lengths};
  ragged.check("maxsim_backward", q, d);
  const auto dq = zeros_for(q, needs[0]), dd = zeros_for(d, needs[1]),
             da = zeros_for(q, {q.size(0), q.size(1)}, needs[2]);
  const auto scores = in_order(G);
  const auto indices = in_order(as_type(argmax, index_type(d, kCompactLimit)));
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
  return {as_type(dq, type), as_type(dd, type), as_type(da, type)};
}

// Loss and the gradients of (q, d, a, b), or with v of (v, d, a, b).
std::array<Tensor, 5> loss_and_gradients(const char* op, const Tensor& q, const OptionalTensor& v,
                                         const Tensor& d, const Tensor& a, const Tensor& b,
                                         const Tensor& P, const OptionalTensor& exclude,
                                         std::array<bool, 4> needs, const Ragged& ragged, Over over,
                                         const std::string& precision,
                                         std::optional<int64_t> max_memory) {
  check_match_kl(op, q, v, d, a, b, P, exclude, over);
  ragged.check(op, q, d);
  check_options(op, precision, max_memory);
  require_finite(op, "b", b);
  require_finite(op, "P", P);
  cpu::check_values(op, P, exclude, over);
  const auto type = compute_type(q);
  const auto first = zeros_for(v ? *v : q, needs[0]), dd = zeros_for(d, needs[1]),
             da = zeros_for(a, needs[2]);
  const auto db = as_type(zeros_for(b, needs[3]), type), loss = empty({}, type, q);
  const auto bias = in_order(as_type(b, type)), targets = in_order(as_type(P, type));
  const auto excluded = exclude ? OptionalTensor(in_order(*exclude)) : std::nullopt;
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    Prepared<scalar> in(op, q, v, d, a, ragged);
    in.choose(op, d, ragged, precision);
    *loss.mutable_data_ptr<scalar>() = static_cast<scalar>(cpu::match_kl<scalar>(
        op, in.problem,
        {over, bias.const_data_ptr<scalar>(), targets.const_data_ptr<scalar>(),
         excluded ? excluded->const_data_ptr<int64_t>() : nullptr},
        {v ? nullptr : data<scalar>(first, needs[0]), data<scalar>(dd, needs[1]),
         data<scalar>(da, needs[2]), v ? data<scalar>(first, needs[0]) : nullptr},
        data<scalar>(db, needs[3]), max_memory));
  });
  return {loss, first, dd, da, db};
}

}  // namespace

// What only the CPU has; elsewhere Python puts it together from the ops of schemas.h.
STABLE_TORCH_LIBRARY_FRAGMENT(emergence_ext, m) {
  m.def(
      "maxsim_packed(Tensor q, Tensor q_starts, Tensor[] d, Tensor d_starts, Tensor? d_scale, "
      "Tensor? pairs, *, float empty_score=-1e9, str precision=\"highest\") -> Tensor");
  m.def(
      "maxsim_indices_into(Tensor q, Tensor d, Tensor? a, Tensor? q_lengths, Tensor? d_lengths, "
      "Tensor(a!) argmax, *, float empty_score=-1e9, str precision=\"highest\", "
      "int? max_memory=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(emergence_ext, CPU, m) {
  m.impl("maxsim_packed", TORCH_BOX(&maxsim_packed));
  m.impl("maxsim_indices_into", TORCH_BOX(&maxsim_indices_into));
  m.impl("maxsim", TORCH_BOX(&maxsim));
  m.impl("maxsim_indices", TORCH_BOX(&maxsim_indices));
  m.impl("maxsim_backward", TORCH_BOX(&maxsim_backward));
  m.impl("match_kl", TORCH_BOX(&match_kl<loss_and_gradients>));
  m.impl("match_kl_scaled", TORCH_BOX(&match_kl_scaled<loss_and_gradients>));
}

}  // namespace emergence_ext
