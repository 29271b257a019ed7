// CUDA: checks arguments and enqueues the kernels block by block. Nothing waits for the device. The
// contracts are in ../maxsim.h and ../match_kl.h.

#include "../bindings.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <tuple>

#include "../maxsim.h"
#include "../schemas.h"
#include "blocks.h"
#include "paths.h"

namespace emergence_ext {
namespace {

using namespace cuda;

// What EMERGENCE_CUDA says of every device, where it says anything, else what this one may take.
Ways allowed_on(const char* op, const at::Device& device) {
  const char* const said = std::getenv("EMERGENCE_CUDA");
  if (said == nullptr || *said == 0) return allowed_ways(device.index()).load();
  if (std::strcmp(said, "off") == 0) return 0;
  if (std::strcmp(said, "portable") == 0) return kPortableWays;
  if (std::strcmp(said, "all") == 0) return kAllWays;
  TORCH_CHECK_VALUE(false, op, ": EMERGENCE_CUDA must be off, portable or all; got '", said, "'");
}

// Whether EMERGENCE_CUDA_PATH names a way; "triton" is the Python layer's.
bool preferred(const char* op, const char* way) {
  const char* const named = std::getenv("EMERGENCE_CUDA_PATH");
  if (named == nullptr || *named == 0) return false;
  for (const char* known : {"auto", "portable", "split", "hopper", "triton"})
    if (std::strcmp(named, known) == 0) return std::strcmp(named, way) == 0;
  TORCH_CHECK_VALUE(false, op,
                    ": EMERGENCE_CUDA_PATH must be one of auto, portable, split, hopper, triton; "
                    "got '",
                    named, "'");
}

// Refuses where the device may take none of `ways`. Who calls through emergence_ext.ops has plain
// torch there instead.
void check_allowed(const char* op, Ways allowed, Ways ways, const at::Device& device) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      allowed & ways, op, ": the kernels that this takes have not proved themselves on ", device,
      ". Call it through emergence_ext.ops, which sees to that, or set EMERGENCE_CUDA=portable");
}

Way way_of(const char* op, const at::Tensor& q, const OptionalTensor& v,
           c10::string_view precision) {
  const Way way = portable_way({q.size(2) <= kNarrow, q.scalar_type() == at::kDouble,
                                q.element_size() == 2, v.has_value(), precision == "highest"});
  const Ways allowed = allowed_on(op, q.device());
  check_allowed(op, allowed, bit(way), q.device());
  const bool split = way == Way::narrow && preferred(op, "split") && allowed & bit(Way::split);
  const bool hopper = way == Way::planes && preferred(op, "hopper") && allowed & bit(Way::hopper);
  return split ? Way::split : hopper ? Way::hopper : way;
}

// Full sets out of ragged ones, for kernels that know no lengths: padding of d is copies of the
// image's first row, which never win against it, padding of q is zeros of weight 0, and an image of
// d without regions is zeros.
class Filled {
 public:
  at::Tensor q, d;
  OptionalTensor a;

  Filled(const at::Tensor& q_, const at::Tensor& d_, const OptionalTensor& a_, const Ragged& ragged)
      : q(q_), d(d_), a(a_), empty_score_(ragged.empty_score) {
    const auto beyond = [](const at::Tensor& lengths, const at::Tensor& x) {
      return at::arange(x.size(1), lengths.options()) >= lengths.unsqueeze(1);
    };
    if (ragged.q_lengths) {
      const auto padding = beyond(*ragged.q_lengths, q);
      a = (a ? *a : at::ones(q.sizes().slice(0, 2), q.options())).masked_fill(padding, 0);
      q = q.masked_fill(padding.unsqueeze(2), 0);
    }
    if (ragged.d_lengths) {
      empty_ = ragged.d_lengths->eq(0);
      d = at::where(beyond(*ragged.d_lengths, d).unsqueeze(2), d.narrow(1, 0, 1), d);
      d.masked_fill_(empty_.view({-1, 1, 1}), 0);
    }
  }

  // Bytes that this took.
  int64_t bytes(const at::Tensor& q_, const at::Tensor& d_) const {
    return (q.is_same(q_) ? 0 : q.nbytes() + a->nbytes()) + (d.is_same(d_) ? 0 : d.nbytes());
  }

  // Scores [B, N] of images without regions.
  void set_scores(const at::Tensor& T) const {
    if (empty_.defined()) T.masked_fill_(empty_.unsqueeze(1), empty_score_);
  }

  // What stands in for these scores in a softmax; over q all of an image's are equal.
  at::Tensor bias(const at::Tensor& b, Over over) const {
    if (!empty_.defined() || over == Over::q) return b;
    const auto lowered = empty_.logical_and(empty_.all().logical_not());
    return b + lowered.to(b.scalar_type()).mul_(empty_score_);
  }

  // Images without regions have no gradient.
  void set_gradient(const at::Tensor& dd) const {
    if (empty_.defined() && dd.numel() > 0) dd.masked_fill_(empty_.view({-1, 1, 1}), 0);
  }

 private:
  at::Tensor empty_;  // [B], undefined where every image is full
  double empty_score_;
};

// T, and argmax [B, N, R] of any index type where it is defined.
at::Tensor matched(const char* op, const at::Tensor& q_, const at::Tensor& d_,
                   const OptionalTensor& a_, const Ragged& ragged, c10::string_view precision,
                   std::optional<int64_t> max_memory, const at::Tensor& argmax) {
  ragged.check(op, q_, d_);
  const Filled in(q_, d_, a_, ragged);
  const auto &q = in.q, &d = in.d;
  const auto& a = in.a;
  check_options(op, precision, max_memory);
  const Way way = way_of(op, q, {}, precision);
  const Context context(q);
  auto T = at::empty({d.size(0), q.size(0)}, q.options().dtype(compute_type(q)));
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Matching<scalar> matching(q, {}, d, a, precision, Use::scores, way, context.on);
    auto* const scores = T.mutable_data_ptr<scalar>();
    const int64_t B = d.size(0), N = q.size(0);
    const Images all = matching.scored();
    if (matching.narrow())
      return matching.match(all, matching.conditioning(), scores, nullptr, matches_of(argmax));
    const Parts parts{.values = true, .matches = matching.needs_matches() && !argmax.defined()};
    Block block = make_block(op, matching, parts, in.bytes(q_, d_), max_memory, q.options());
    for (int64_t first = 0; first < B; first += block.length)
      matching.match(all, {first, std::min(block.length, B - first)}, scores + first * N,
                     block.values<scalar>(),
                     argmax.defined() ? matches_of(argmax, first) : matches_of(block.argmax));
  });
  in.set_scores(T);
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
  const auto argmax = at::empty({d.size(0), q.size(0), q.size(1)}, q.options().dtype(type));
  return {matched("maxsim_indices", q, d, a, {q_lengths, d_lengths, empty_score}, precision,
                  max_memory, argmax),
          argmax};
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> maxsim_backward(
    const at::Tensor& G, const at::Tensor& q_, const at::Tensor& d_, const OptionalTensor& a_,
    const at::Tensor& argmax, std::array<bool, 3> needs, const OptionalTensor& q_lengths,
    const OptionalTensor& d_lengths) {
  const char* const op = "maxsim_backward";
  check_maxsim_backward(G, q_, d_, a_, argmax);
  const Ragged ragged{q_lengths, d_lengths};
  ragged.check(op, q_, d_);
  const Filled in(q_, d_, a_, ragged);
  const auto &q = in.q, &d = in.d;
  const auto& a = in.a;
  const Way way = q.size(2) <= kNarrow ? Way::narrow : Way::wide;
  // Whatever found the matches of wide rows proved itself with these gradients.
  const Ways ways = way == Way::narrow ? bit(way) : bit(way) | bit(Way::planes);
  check_allowed(op, allowed_on(op, q.device()), ways, q.device());
  const Context context(q);
  auto dq = zeros_for(q, needs[0]), dd = zeros_for(d, needs[1]);
  auto da = zeros_for(q.select(2, 0), needs[2]);
  const auto scores = G.contiguous(), indices = argmax.contiguous();
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const int64_t B = d.size(0), N = q.size(0);
    const Matching<scalar> matching(q, {}, d, a, "highest", Use::gradients, way, context.on);
    const Gradients<scalar> gradients{data<scalar>(dq, needs[0]), data<scalar>(dd, needs[1]),
                                      data<scalar>(da, needs[2]), nullptr, N};
    const bool scored = needs[2] && !matching.narrow();
    Block block = make_block(op, matching, Parts{.values = scored}, 0, std::nullopt, q.options());
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
  if (needs[0] && a) dq.mul_(a->to(dq.scalar_type()).unsqueeze(2));
  in.set_gradient(dd);
  const auto type = q.scalar_type();
  return {dq.to(type), dd.to(type), da.to(type)};
}

// Loss and the gradients of (q, d, a, b), or with v of (v, d, a, b).
std::array<at::Tensor, 5> loss_and_gradients(const char* op, const at::Tensor& q_,
                                             const OptionalTensor& v, const at::Tensor& d_,
                                             const at::Tensor& a_, const at::Tensor& b,
                                             const at::Tensor& P, const OptionalTensor& exclude,
                                             std::array<bool, 4> needs, const Ragged& ragged,
                                             Over over, c10::string_view precision,
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
  auto first_gradient = zeros_for(v ? *v : q, needs[0]), dd = zeros_for(d, needs[1]);
  auto da = zeros_for(a, needs[2]), db = zeros_for(b, needs[3]).to(type);
  const bool of_v = needs[0] && v;
  const auto losses = at::empty({rows}, q.options().dtype(at::kDouble));
  const auto bias = in.bias(b.to(type), over).contiguous(), targets = P.to(type).contiguous();
  const auto excluded = exclude ? exclude->contiguous() : at::Tensor();
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
    int64_t beside = in.bytes(q_, d_);
    if (of_v) beside += ceil_div(q.size(1), kRowsOfPart) * first_gradient.nbytes();
    if (!bias.is_alias_of(b)) beside += bias.nbytes();
    if (!targets.is_alias_of(P)) beside += targets.nbytes();
    if (type != q.scalar_type()) beside += first_gradient.nbytes() + dd.nbytes() + da.nbytes();
    const Parts block_parts{true, !matching.narrow(),
                            gradients_of_rows || matching.needs_matches()};
    Block block = make_block(op, matching, block_parts, beside, max_memory, q.options(), over);
    auto* const T = block.scores<scalar>();
    const Matches matches = matches_of(block.argmax);
    // Over q a block of conditioning images is complete in itself, over d one of scored images.
    at::Tensor parts;
    for (int64_t first = 0; first < rows; first += block.length) {
      const Images some{first, std::min(block.length, rows - first)};
      const Images scored = over_q ? matching.scored() : some;
      const Images conditioning = over_q ? some : matching.conditioning();
      if (of_v && (first == 0 || !over_q)) {
        parts = at::zeros({ceil_div(q.size(1), kRowsOfPart), scored.count, q.size(2)},
                          first_gradient.options());
        gradients.parts = parts.mutable_data_ptr<scalar>();
      }
      matching.match(scored, conditioning, T, block.values<scalar>(), matches);
      const Targets<scalar> block_targets{
          bias.const_data_ptr<scalar>(), targets.const_data_ptr<scalar>() + first * columns,
          exclude ? excluded.const_data_ptr<int64_t>() + first : nullptr,
          1.0 / static_cast<double>(rows)};
      const SoftmaxRows softmax{some.count, columns, over_q ? N : 1, over_q ? 1 : some.count};
      check(kl_rows(block_targets, softmax, T, losses.mutable_data_ptr<double>() + first,
                    context.on));
      if (needs[3]) check(add_bias_gradient(T, softmax, db.mutable_data_ptr<scalar>(), context.on));
      if (gradients_of_rows)
        gradients.add(matching, scored, conditioning, T, block.values<scalar>(), matches,
                      context.on);
      if (of_v && (!over_q || first + block.length >= rows))
        first_gradient.narrow(0, scored.first, scored.count).copy_(parts.sum(0));
    }
  });
  if (needs[0] && !v) first_gradient.mul_(a.to(type).unsqueeze(2));
  in.set_gradient(dd);
  const auto loss =
      rows == 0 ? at::zeros({}, losses.options()) : losses.sum() / static_cast<double>(rows);
  return {loss.to(type), first_gradient, dd, da, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(EMERGENCE_NAMESPACE, EMERGENCE_GPU, m) {
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
  m.impl("match_kl", &match_kl<loss_and_gradients>);
  m.impl("match_kl_scaled", &match_kl_scaled<loss_and_gradients>);
}

}  // namespace emergence_ext
