// CUDA: checks arguments and enqueues the kernels block by block. Nothing waits for the device. The
// contracts are in ../maxsim.h and ../match_kl.h.

#include "../bindings.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../maxsim.h"
#include "../schemas.h"
#include "blocks.h"
#include "filled.h"
#include "paths.h"

namespace emergence_ext {
namespace {

using namespace cuda;

// What EMERGENCE_CUDA says of every device, where it says anything, else what this one may take.
Ways allowed_on(const char* op, const Tensor& x) {
  const char* const said = std::getenv("EMERGENCE_CUDA");
  if (said == nullptr || *said == 0) return allowed_ways(x.get_device_index()).load();
  if (std::strcmp(said, "off") == 0) return 0;
  if (std::strcmp(said, "portable") == 0) return kPortableWays;
  if (std::strcmp(said, "all") == 0) return kAllWays;
  raise<value_error>(op, ": EMERGENCE_CUDA must be off, portable or all; got '", said, "'");
}

// Whether EMERGENCE_CUDA_PATH names a way; "triton" is the Python layer's.
bool preferred(const char* op, const char* way) {
  const char* const named = std::getenv("EMERGENCE_CUDA_PATH");
  if (named == nullptr || *named == 0) return false;
  for (const char* known : {"auto", "portable", "split", "hopper", "triton"})
    if (std::strcmp(named, known) == 0) return std::strcmp(named, way) == 0;
  raise<value_error>(op,
                     ": EMERGENCE_CUDA_PATH must be one of auto, portable, split, hopper, triton; "
                     "got '",
                     named, "'");
}

// Refuses where the device may take none of `ways`. Who calls through emergence_ext.ops has plain
// torch there instead.
void check_allowed(const char* op, Ways allowed, Ways ways, const Tensor& x) {
  EMERGENCE_CHECK(
      not_implemented_error, allowed & ways, op,
      ": the kernels that this takes have not proved themselves on ", place(x),
      ". Call it through emergence_ext.ops, which sees to that, or set EMERGENCE_CUDA=portable");
}

Way way_of(const char* op, const Tensor& q, const OptionalTensor& v, const std::string& precision) {
  const Way way = portable_way({q.size(2) <= kNarrow, q.scalar_type() == kDouble,
                                q.element_size() == 2, v.has_value(), precision == "highest"});
  const Ways allowed = allowed_on(op, q);
  check_allowed(op, allowed, bit(way), q);
  const bool split = way == Way::narrow && preferred(op, "split") && allowed & bit(Way::split);
  const bool hopper = way == Way::planes && preferred(op, "hopper") && allowed & bit(Way::hopper);
  return split ? Way::split : hopper ? Way::hopper : way;
}

// T, and argmax [B, N, R] of any index type where it is there.
Tensor matched(const char* op, const Tensor& q_, const Tensor& d_, const OptionalTensor& a_,
               const Ragged& ragged, const std::string& precision,
               std::optional<int64_t> max_memory, const OptionalTensor& argmax) {
  ragged.check(op, q_, d_);
  const Filled in(q_, d_, a_, ragged);
  const auto &q = in.q, &d = in.d;
  const auto& a = in.a;
  check_options(op, precision, max_memory);
  const Way way = way_of(op, q, {}, precision);
  const Context context(q);
  const auto T = empty({d.size(0), q.size(0)}, compute_type(q), q);
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Matching<scalar> matching(q, {}, d, a, precision, Use::scores, way, context.on);
    auto* const scores = T.mutable_data_ptr<scalar>();
    const int64_t B = d.size(0), N = q.size(0);
    const Images all = matching.scored();
    if (matching.narrow())
      return matching.match(all, matching.conditioning(), scores, nullptr, matches_of(argmax));
    const Parts parts{.values = true, .matches = matching.needs_matches() && !argmax};
    Block block = make_block(op, matching, parts, in.bytes(), max_memory, q);
    for (int64_t first = 0; first < B; first += block.length)
      matching.match(all, {first, std::min(block.length, B - first)}, scores + first * N,
                     block.values<scalar>(),
                     argmax ? matches_of(argmax, first) : matches_of(block.argmax));
  });
  in.set_scores(T);
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
  const auto argmax = empty({d.size(0), q.size(0), q.size(1)}, type, q);
  return {matched("maxsim_indices", q, d, a, {q_lengths, d_lengths, empty_score}, precision,
                  max_memory, argmax),
          argmax};
}

// dq out of u, in place.
Tensor weighted(const Tensor& u, const Tensor& a) {
  const auto weights = torch::stable::unsqueeze(as_type(a, u.scalar_type()), 2);
  return call("aten::mul_", "Tensor", u, weights);
}

// Gradients of q (as u = dq / a), d, a and, as parts, v; null where nobody asked. All begin as
// zeros. The parts are those of the scored images of a block, and dd is summed over so many scored
// images at once.
template <typename scalar>
struct Gradients {
  scalar *u, *dd, *da, *parts;
  int64_t scored_at_once;

  void add(const Matching<scalar>& matching, Images scored, Images conditioning, const scalar* G,
           const scalar* value, Matches matches, const Device& on) const {
    const Problem<scalar> p = matching.block(scored, conditioning);
    scalar* const of_q = u ? u + scored.first * p.R * p.D : nullptr;
    scalar* const of_a = da ? da + scored.first * p.R : nullptr;
    if (matching.narrow()) {
      if (of_q || of_a) check(add_scored_narrow(p, G, matches, of_q, of_a, on));
    } else {
      if (of_q) check(add_scored_wide(p, G, matches, of_q, on));
      if (of_a) check(add_weight_gradient(p, G, value, of_a, on));
    }
    if (parts) check(add_scale_gradient(p, G, matches, parts, on));
    if (!dd) return;
    scalar* const of_d = dd + conditioning.first * p.S * p.D;
    check(add_conditioning(p, G, matches, scored_at_once, of_d, on));
  }
};

std::tuple<Tensor, Tensor, Tensor> maxsim_backward(const Tensor& G, const Tensor& q_,
                                                   const Tensor& d_, const OptionalTensor& a_,
                                                   const Tensor& argmax,
                                                   const std::vector<bool>& wanted,
                                                   const OptionalTensor& q_lengths,
                                                   const OptionalTensor& d_lengths) {
  const char* const op = "maxsim_backward";
  const auto needs = switches<3>(op, wanted);
  check_maxsim_backward(G, q_, d_, a_, argmax);
  const Ragged ragged{q_lengths, d_lengths};
  ragged.check(op, q_, d_);
  const Filled in(q_, d_, a_, ragged);
  const auto &q = in.q, &d = in.d;
  const auto& a = in.a;
  const Way way = q.size(2) <= kNarrow ? Way::narrow : Way::wide;
  // Whatever found the matches of wide rows proved itself with these gradients.
  const Ways ways = way == Way::narrow ? bit(way) : bit(way) | bit(Way::planes);
  check_allowed(op, allowed_on(op, q), ways, q);
  const Context context(q);
  auto dq = zeros_for(q, needs[0]);
  const auto dd = zeros_for(d, needs[1]), da = zeros_for(q, {q.size(0), q.size(1)}, needs[2]);
  const auto scores = in_order(G), indices = in_order(argmax);
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const int64_t B = d.size(0), N = q.size(0);
    const Matching<scalar> matching(q, {}, d, a, "highest", Use::gradients, way, context.on);
    const Gradients<scalar> gradients{data<scalar>(dq, needs[0]), data<scalar>(dd, needs[1]),
                                      data<scalar>(da, needs[2]), nullptr, N};
    const bool scored = needs[2] && !matching.narrow();
    Block block = make_block(op, matching, Parts{.values = scored}, 0, std::nullopt, q);
    for (int64_t first = 0; first < B; first += block.length) {
      const int64_t count = std::min(block.length, B - first);
      const Matches matches = matches_of(indices, first);
      if (scored)
        check(score_matches(matching.block(matching.scored(), {first, count}), matches,
                            block.values<scalar>(), context.on));
      gradients.add(matching, matching.scored(), {first, count},
                    scores.const_data_ptr<scalar>() + first * N, block.values<scalar>(), matches,
                    context.on);
    }
  });
  if (needs[0] && a) dq = weighted(dq, *a);
  in.set_gradient(dd);
  const auto type = q.scalar_type();
  return {as_type(dq, type), as_type(dd, type), as_type(da, type)};
}

// Loss and the gradients of (q, d, a, b), or with v of (v, d, a, b).
std::array<Tensor, 5> loss_and_gradients(const char* op, const Tensor& q_, const OptionalTensor& v,
                                         const Tensor& d_, const Tensor& a_, const Tensor& b,
                                         const Tensor& P, const OptionalTensor& exclude,
                                         std::array<bool, 4> needs, const Ragged& ragged, Over over,
                                         const std::string& precision,
                                         std::optional<int64_t> max_memory) {
  check_match_kl(op, q_, v, d_, a_, b, P, exclude, over);
  ragged.check(op, q_, d_);
  const Filled in(q_, d_, a_, ragged);
  const auto &q = in.q, &d = in.d, &a = *in.a;
  check_options(op, precision, max_memory);
  const Way way = way_of(op, q, v, precision);
  const Context context(q);
  const auto type = compute_type(q);
  const bool over_q = over == Over::q;
  const int64_t B = d.size(0), N = q.size(0), rows = over_q ? B : N, columns = over_q ? N : B;
  auto first_gradient = zeros_for(v ? *v : q, needs[0]);
  const auto dd = zeros_for(d, needs[1]), da = zeros_for(a, needs[2]);
  const auto db = as_type(zeros_for(b, needs[3]), type);
  const bool of_v = needs[0] && v;
  const auto losses = empty({rows}, kDouble, q);
  const auto bias = in_order(in.bias(as_type(b, type), over));
  const auto targets = in_order(as_type(P, type));
  const auto excluded = exclude ? OptionalTensor(in_order(*exclude)) : std::nullopt;
  const bool gradients_of_rows = needs[0] || needs[1] || needs[2];
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Use use = gradients_of_rows ? Use::both : Use::scores;
    const Matching<scalar> matching(q, v, d, a, precision, use, way, context.on);
    Gradients<scalar> gradients{data<scalar>(first_gradient, needs[0] && !v),
                                data<scalar>(dd, needs[1]), data<scalar>(da, needs[2]), nullptr,
                                over_q ? N : kScoredOfGroup};
    // Beside the inputs and results: copies of targets, parts of dv, and gradients before they are
    // rounded.
    int64_t beside = in.bytes();
    if (of_v) beside += ceil_div(q.size(1), kRowsOfPart) * bytes_of(first_gradient);
    if (!same_entries(bias, b)) beside += bytes_of(bias);
    if (!same_entries(targets, P)) beside += bytes_of(targets);
    if (type != q.scalar_type()) beside += bytes_of(first_gradient) + bytes_of(dd) + bytes_of(da);
    const Parts block_parts{true, !matching.narrow(),
                            gradients_of_rows || matching.needs_matches()};
    Block block = make_block(op, matching, block_parts, beside, max_memory, q, over);
    auto* const T = block.scores<scalar>();
    const Matches matches = matches_of(block.argmax);
    // Over q a block of conditioning images is complete in itself, over d one of scored images.
    OptionalTensor parts;
    for (int64_t first = 0; first < rows; first += block.length) {
      const Images some{first, std::min(block.length, rows - first)};
      const Images scored = over_q ? matching.scored() : some;
      const Images conditioning = over_q ? some : matching.conditioning();
      if (of_v && (first == 0 || !over_q)) {
        parts = zeros({ceil_div(q.size(1), kRowsOfPart), scored.count, q.size(2)}, type, q);
        gradients.parts = parts->mutable_data_ptr<scalar>();
      }
      matching.match(scored, conditioning, T, block.values<scalar>(), matches);
      const Targets<scalar> block_targets{
          bias.const_data_ptr<scalar>(), targets.const_data_ptr<scalar>() + first * columns,
          excluded ? excluded->const_data_ptr<int64_t>() + first : nullptr,
          1.0 / static_cast<double>(rows)};
      const SoftmaxRows softmax{some.count, columns, over_q ? N : 1, over_q ? 1 : some.count};
      check(kl_rows(block_targets, softmax, T, losses.mutable_data_ptr<double>() + first,
                    context.on));
      if (needs[3]) check(add_bias_gradient(T, softmax, db.mutable_data_ptr<scalar>(), context.on));
      if (gradients_of_rows)
        gradients.add(matching, scored, conditioning, T, block.values<scalar>(), matches,
                      context.on);
      if (of_v && (!over_q || first + block.length >= rows)) {
        auto of_scored = torch::stable::narrow(first_gradient, 0, scored.first, scored.count);
        torch::stable::copy_(of_scored, torch::stable::sum(*parts, Sizes({0})));
      }
    }
  });
  if (needs[0] && !v) first_gradient = weighted(first_gradient, a);
  in.set_gradient(dd);
  const auto loss = rows == 0 ? zeros({}, kDouble, q)
                              : call("aten::div", "Tensor", torch::stable::sum(losses),
                                     number(static_cast<double>(rows), kDouble));
  return {as_type(loss, type), first_gradient, dd, da, db};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(EMERGENCE_NAMESPACE, EMERGENCE_GPU, m) {
  m.impl("maxsim", TORCH_BOX(&maxsim));
  m.impl("maxsim_indices", TORCH_BOX(&maxsim_indices));
  m.impl("maxsim_backward", TORCH_BOX(&maxsim_backward));
  m.impl("match_kl", TORCH_BOX(&match_kl<loss_and_gradients>));
  m.impl("match_kl_scaled", TORCH_BOX(&match_kl_scaled<loss_and_gradients>));
}

}  // namespace emergence_ext
