// CUDA: checks arguments, allocates, and enqueues the kernels of matching.h block by block. Nothing
// waits for the device. The contracts are in ../maxsim.h and ../match_kl.h.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../checks.h"
#include "../maxsim.h"
#include "../schemas.h"
#include "arithmetic.h"
#include "context.h"
#include "paths.h"

namespace emergence_ext {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using namespace cuda;

constexpr int64_t kBlockBytes = 256 << 20;  // when `max_memory` is not given
constexpr int64_t kGroup = 8;               // images of a block come in groups: see matching.h

bool allowed(Way way) {
#if defined(EMERGENCE_EMULATED)
  return true;
#else
  const char* untested = std::getenv("EMERGENCE_UNTESTED_CUDA");
  return kPaths[static_cast<size_t>(way)].ran_on_gpu ||
         (untested != nullptr && std::strcmp(untested, "1") == 0);
#endif
}

void check_allowed(const char* op) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      allowed(Way::portable), op,
      ": the CUDA kernels of this version have never run on a GPU and are off by default. "
      "Move the tensors to the CPU, or set EMERGENCE_UNTESTED_CUDA=1 to try them");
}

// The way that EMERGENCE_CUDA_PATH names; without it the portable one, until another is measured.
Way preferred(const char* op) {
  const char* const named = std::getenv("EMERGENCE_CUDA_PATH");
  if (named == nullptr || *named == 0 || std::strcmp(named, "auto") == 0) return Way::portable;
  for (size_t way = 0; way < kPaths.size(); ++way)
    if (std::strcmp(named, kPaths[way].name) == 0) {
      TORCH_CHECK_NOT_IMPLEMENTED(allowed(static_cast<Way>(way)), op,
                                  ": EMERGENCE_CUDA_PATH=", named,
                                  " has never run on a GPU; EMERGENCE_UNTESTED_CUDA=1 "
                                  "allows it");
      return static_cast<Way>(way);
    }
  TORCH_CHECK_VALUE(false, op,
                    ": EMERGENCE_CUDA_PATH must be auto, portable, split or hopper, got '", named,
                    "'");
}

template <typename function>
auto by_type(const at::Tensor& q, function&& run) {
  return q.scalar_type() == at::kDouble ? run(double{}) : run(float{});
}

template <typename scalar>
constexpr at::ScalarType type_of = c10::CppTypeToScalarType<scalar>::value;

Matches matches_of(const at::Tensor& argmax, int64_t first = 0) {
  if (!argmax.defined()) return {nullptr, 0};
  auto* const data = static_cast<char*>(argmax.mutable_data_ptr());
  return {data + first * argmax.stride(0) * argmax.element_size(),
          static_cast<int>(argmax.element_size())};
}

// 16-bit rows as matching.h wants them: whole pieces, aligned. The tensor itself where it is so.
at::Tensor whole_pieces(const at::Tensor& x) {
  const int64_t missing = round_up(x.size(-1), kPiece) - x.size(-1);
  auto rows = missing > 0 ? at::constant_pad_nd(x, {0, missing}) : x.contiguous();
  return reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0 ? rows : rows.clone();
}

// What a matching is for: gradients, and rescored matches, read rows in the type of the arithmetic.
enum class Use { scores, gradients, both };

// A problem, how it will be matched, and the copies that it points to.
template <typename scalar>
class Matching {
 public:
  Matching(const at::Tensor& q, const OptionalTensor& v, const at::Tensor& d,
           const OptionalTensor& a, c10::string_view precision, Use use, Way way, const Device& on)
      : on_(on), way_(way) {
    problem_.N = q.size(0), problem_.R = q.size(1), problem_.D = q.size(2);
    problem_.B = d.size(0), problem_.S = d.size(1);
    const bool half = q.element_size() == 2;
    if (problem_.D <= kNarrow) {
      kind_ = Kind::narrow;
    } else if (use == Use::gradients || type_of<scalar> == at::kDouble) {
      kind_ = Kind::wide;
    } else if (half && !v) {
      kind_ = Kind::planes;  // the products of such entries are exact
    } else if (precision != "highest") {
      kind_ = Kind::planes;
      planes_.planes = precision == "high" ? 2 : 1;
      scored_again_ = true;
    }
    const bool exact_planes = kind_ == Kind::planes && !scored_again_;
    const auto keep = [&](const at::Tensor& x) {
      return kept(x, x.to(type_of<scalar>).contiguous()).template const_data_ptr<scalar>();
    };
    if (!exact_planes || use != Use::scores) {
      problem_.q = keep(q);
      problem_.d = keep(d);
    }
    problem_.v = v ? keep(*v) : nullptr;
    problem_.a = a ? keep(*a) : nullptr;
    if (kind_ == Kind::planes) prepare_planes(q, d, exact_planes);
    if constexpr (type_of<scalar> == at::kFloat) {
      if (way == Way::split && use != Use::gradients && split_applies(problem_)) prepare_split(q);
    }
  }

  const Problem<scalar>& problem() const { return problem_; }

  // Bytes beside inputs and results: of everything, and of each image of a block.
  int64_t fixed_bytes() const { return copied_bytes_; }
  int64_t bytes_of_image(bool scores, bool matched) const {
    const int64_t rows = problem_.N * problem_.R;
    return (scores ? problem_.N * sizeof(scalar) : 0) +
           (kind_ == Kind::narrow ? 0 : rows * sizeof(scalar)) +
           (matched || scored_again_ ? rows * (problem_.S <= kCompactLimit ? 1 : 4) : 0);
  }

  bool narrow() const { return kind_ == Kind::narrow; }
  bool needs_matches() const { return scored_again_; }

  Problem<scalar> block(int64_t first, int64_t count) const {
    Problem<scalar> p = problem_;
    p.d = p.d ? p.d + first * p.S * p.D : nullptr;
    p.B = count;
    return p;
  }

  // Scores of the images of a block; `value` is not used where rows are narrow.
  void match(int64_t first, int64_t count, scalar* T, scalar* value, Matches matches) const {
    const Problem<scalar> p = block(first, count);
    if constexpr (type_of<scalar> == at::kFloat) {
      if (q_split_.defined()) {
        const auto* const of_d = d_split_.const_data_ptr<uint8_t>() + split_bytes(first * p.S, p.D);
        return check(match_split(p, q_split_.const_data_ptr(), of_d, T, matches, on_));
      }
    }
    if (narrow()) return check(match_narrow(p, T, matches, on_));
    if constexpr (type_of<scalar> == at::kFloat) {
      if (kind_ == Kind::planes) {
        Planes planes = planes_;
        planes.d += first * p.S * planes.planes * planes.width;
        planes.B = count;
        const bool hopper = way_ == Way::hopper && hopper_applies(planes);
        check(hopper ? match_hopper(planes, value, matches, on_)
                     : match_planes(planes, value, matches, on_));
        if (scored_again_) check(score_matches(p, matches, value, on_));
        return check(weigh(p, value, T, on_));
      }
    }
    check(match_wide(p, value, matches, on_));
    check(weigh(p, value, T, on_));
  }

 private:
  enum class Kind { narrow, wide, planes };

  // Holds what a kernel will read; it costs memory where it is not the caller's own `x`.
  const at::Tensor& kept(const at::Tensor& x, at::Tensor used) {
    copied_bytes_ += x.defined() && used.is_alias_of(x) ? 0 : used.nbytes();
    return kept_.emplace_back(std::move(used));
  }

  void prepare_planes(const at::Tensor& q, const at::Tensor& d, bool exact) {
    planes_.rows = problem_.N * problem_.R, planes_.S = problem_.S;
    planes_.width = round_up(problem_.D, kPiece);
    planes_.float16 = exact && q.scalar_type() == at::kHalf;
    if (exact) {
      const auto rows = [&](const at::Tensor& x) {
        return static_cast<const uint16_t*>(kept(x, whole_pieces(x)).const_data_ptr());
      };
      planes_.q = rows(q), planes_.d = rows(d);
      return;
    }
    if constexpr (type_of<scalar> == at::kFloat) {
      const auto packed = [&](const float* rows, const float* v, int64_t count) {
        const int64_t width = planes_.planes * planes_.width;
        const auto options = q.options().dtype(at::kBFloat16);
        const auto& out = kept({}, at::empty({count, width}, options));
        auto* const data = static_cast<uint16_t*>(out.mutable_data_ptr());
        check(
            pack(rows, v, problem_.R, count, problem_.D, planes_.width, planes_.planes, data, on_));
        return data;
      };
      planes_.q = packed(problem_.q, problem_.v, planes_.rows);
      planes_.d = packed(problem_.d, nullptr, problem_.B * problem_.S);
    }
  }

  void prepare_split(const at::Tensor& q) {
    const auto options = q.options().dtype(at::kByte);
    q_split_ = kept({}, at::empty({split_bytes(problem_.N * problem_.R, problem_.D)}, options));
    d_split_ = kept({}, at::empty({split_bytes(problem_.B * problem_.S, problem_.D)}, options));
    check(split_rows(problem_, q_split_.mutable_data_ptr(), d_split_.mutable_data_ptr(), on_));
  }

  Device on_;
  Way way_;
  Kind kind_ = Kind::wide;
  bool scored_again_ = false;  // matches were selected with rounded rows
  Problem<scalar> problem_{};
  Planes planes_{nullptr, nullptr, 0, 0, 0, 0, 1, false};
  at::Tensor q_split_, d_split_;  // defined where rows were split
  int64_t copied_bytes_ = 0;
  std::vector<at::Tensor> kept_;
};

// Room for a block of conditioning images.
struct Block {
  int64_t length = 0;
  at::Tensor T, value, argmax;

  template <typename scalar>
  scalar* scores() {
    return T.defined() ? T.mutable_data_ptr<scalar>() : nullptr;
  }
  template <typename scalar>
  scalar* values() {
    return value.defined() ? value.mutable_data_ptr<scalar>() : nullptr;
  }
};

// As many images, in whole groups, as `max_memory` or the default holds. Where the device has less
// to give, half as many, and again.
template <typename scalar>
Block make_block(const char* op, const Matching<scalar>& matching, bool scores, bool matched,
                 int64_t parts, std::optional<int64_t> max_memory,
                 const at::TensorOptions& options) {
  const auto& p = matching.problem();
  const int64_t each = std::max<int64_t>(1, matching.bytes_of_image(scores, matched));
  const int64_t fixed = matching.fixed_bytes() + parts;
  const int64_t room = max_memory.value_or(kBlockBytes + fixed) - fixed;
  TORCH_CHECK_VALUE(!max_memory || room >= kGroup * each, op, ": max_memory = ", *max_memory,
                    " bytes holds no block; give at least ", fixed + kGroup * each);
  Block block;
  block.length = std::clamp<int64_t>(room / each / kGroup * kGroup, kGroup,
                                     round_up(std::max<int64_t>(p.B, 1), kGroup));
  for (;; block.length = std::max(kGroup, block.length / 2 / kGroup * kGroup)) {
    const int64_t images = std::min(block.length, p.B);
    const auto floats = options.dtype(type_of<scalar>);
    const auto places = options.dtype(p.S <= kCompactLimit ? at::kByte : at::kInt);
    try {
      if (scores) block.T = allocate({images, p.N}, floats);
      if (!matching.narrow()) block.value = allocate({images, p.N, p.R}, floats);
      if (matched || matching.needs_matches()) block.argmax = allocate({images, p.N, p.R}, places);
      return block;
    } catch (const c10::OutOfMemoryError&) {
      block.T = block.value = block.argmax = at::Tensor();
      if (block.length == kGroup) throw;
    }
  }
}

// T, and argmax [B, N, R] of any index type where it is defined.
at::Tensor matched(const char* op, const at::Tensor& q, const at::Tensor& d,
                   const OptionalTensor& a, c10::string_view precision,
                   std::optional<int64_t> max_memory, const at::Tensor& argmax) {
  check_options(op, precision, max_memory);
  const Way way = preferred(op);
  const Context context(q);
  auto T = at::empty({d.size(0), q.size(0)}, q.options().dtype(compute_type(q)));
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Matching<scalar> matching(q, {}, d, a, precision, Use::scores, way, context.on);
    auto* const scores = T.mutable_data_ptr<scalar>();
    const int64_t B = d.size(0), N = q.size(0);
    if (matching.narrow()) return matching.match(0, B, scores, nullptr, matches_of(argmax));
    Block block = make_block(op, matching, false, false, 0, max_memory, q.options());
    for (int64_t first = 0; first < B; first += block.length)
      matching.match(first, std::min(block.length, B - first), scores + first * N,
                     block.values<scalar>(),
                     argmax.defined() ? matches_of(argmax, first) : matches_of(block.argmax));
  });
  return T;
}

at::Tensor maxsim(const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
                  c10::string_view precision, std::optional<int64_t> max_memory) {
  check_allowed("maxsim");
  check_maxsim("maxsim", q, d, a);
  return matched("maxsim", q, d, a, precision, max_memory, {});
}

std::tuple<at::Tensor, at::Tensor> maxsim_indices(const at::Tensor& q, const at::Tensor& d,
                                                  const OptionalTensor& a,
                                                  c10::string_view precision,
                                                  std::optional<int64_t> max_memory, bool compact) {
  check_allowed("maxsim_indices");
  check_maxsim("maxsim_indices", q, d, a);
  const auto type = compact ? index_type(d, kCompactLimit) : at::kLong;
  const auto argmax = at::empty({d.size(0), q.size(0), q.size(1)}, q.options().dtype(type));
  return {matched("maxsim_indices", q, d, a, precision, max_memory, argmax), argmax};
}

// Zeros for a gradient that is asked for, else an empty tensor.
at::Tensor room(const at::Tensor& like, bool need) {
  const auto options = like.options().dtype(compute_type(like));
  return need ? at::zeros(like.sizes(), options) : at::empty({0}, options);
}

template <typename scalar>
scalar* data(const at::Tensor& x, bool need) {
  return need ? x.mutable_data_ptr<scalar>() : nullptr;
}

// Gradients of q (as u = dq / a), d, a and, as parts, v; null where nobody asked. All begin as
// zeros.
template <typename scalar>
struct Gradients {
  scalar *u, *dd, *da, *parts;

  void add(const Matching<scalar>& matching, int64_t first, int64_t count, const scalar* G,
           const scalar* value, Matches matches, const Device& on) const {
    const Problem<scalar> p = matching.block(first, count);
    if (matching.narrow()) {
      if (u || da) check(add_scored_narrow(p, G, matches, u, da, on));
    } else {
      if (u) check(add_scored_wide(p, G, matches, u, on));
      if (da) check(add_weight_gradient(p, G, value, da, on));
    }
    if (parts) check(add_scale_gradient(p, G, matches, parts, on));
    if (dd) check(conditioning_gradient(p, G, matches, dd + first * p.S * p.D, on));
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> maxsim_backward(
    const at::Tensor& G, const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
    const at::Tensor& argmax, std::array<bool, 3> needs) {
  const char* const op = "maxsim_backward";
  check_allowed(op);
  check_maxsim_backward(G, q, d, a, argmax);
  const Context context(q);
  auto dq = room(q, needs[0]), dd = room(d, needs[1]), da = room(q.select(2, 0), needs[2]);
  const auto scores = G.contiguous(), indices = argmax.contiguous();
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const int64_t B = d.size(0), N = q.size(0);
    const Matching<scalar> matching(q, {}, d, a, "highest", Use::gradients, Way::portable,
                                    context.on);
    const Gradients<scalar> gradients{data<scalar>(dq, needs[0]), data<scalar>(dd, needs[1]),
                                      data<scalar>(da, needs[2]), nullptr};
    Block block = make_block(op, matching, false, false, 0, std::nullopt, q.options());
    for (int64_t first = 0; first < B; first += block.length) {
      const int64_t count = std::min(block.length, B - first);
      const Matches matches = matches_of(indices, first);
      if (needs[2] && !matching.narrow())
        check(score_matches(matching.block(first, count), matches, block.values<scalar>(),
                            context.on));
      gradients.add(matching, first, count, scores.const_data_ptr<scalar>() + first * N,
                    block.values<scalar>(), matches, context.on);
    }
  });
  if (needs[0] && a) dq.mul_(a->to(dq.scalar_type()).unsqueeze(2));
  const auto type = q.scalar_type();
  return {dq.to(type), dd.to(type), da.to(type)};
}

// Loss and the gradients of (q, d, a, b), or with v of (v, d, a, b).
std::array<at::Tensor, 5> loss_and_gradients(const char* op, const at::Tensor& q,
                                             const OptionalTensor& v, const at::Tensor& d,
                                             const at::Tensor& a, const at::Tensor& b,
                                             const at::Tensor& P, const OptionalTensor& exclude,
                                             std::array<bool, 4> needs, c10::string_view precision,
                                             std::optional<int64_t> max_memory) {
  check_allowed(op);
  check_match_kl(op, q, v, d, a, b, P, exclude);
  check_options(op, precision, max_memory);
  const Way way = preferred(op);
  const Context context(q);
  const auto type = compute_type(q);
  const int64_t B = d.size(0), N = q.size(0);
  auto first_gradient = room(v ? *v : q, needs[0] && !v), dd = room(d, needs[1]);
  auto da = room(a, needs[2]), db = room(b, needs[3]).to(type);
  const auto parts = needs[0] && v ? at::zeros({ceil_div(q.size(1), kRowsOfPart), N, q.size(2)},
                                               q.options().dtype(type))
                                   : at::Tensor();
  const auto losses = at::empty({B}, q.options().dtype(at::kDouble));
  const auto bias = b.to(type).contiguous(), targets = P.to(type).contiguous();
  const auto excluded = exclude ? exclude->contiguous() : at::Tensor();
  const bool gradients_of_rows = needs[0] || needs[1] || needs[2];
  by_type(q, [&](auto zero) {
    using scalar = decltype(zero);
    const Use use = gradients_of_rows ? Use::both : Use::scores;
    const Matching<scalar> matching(q, v, d, a, precision, use, way, context.on);
    const Gradients<scalar> gradients{data<scalar>(first_gradient, needs[0] && !v),
                                      data<scalar>(dd, needs[1]), data<scalar>(da, needs[2]),
                                      data<scalar>(parts, parts.defined())};
    // Beside the inputs and results: copies of targets, and gradients before they are rounded.
    int64_t beside = parts.defined() ? parts.nbytes() : 0;
    if (!bias.is_alias_of(b)) beside += bias.nbytes();
    if (!targets.is_alias_of(P)) beside += targets.nbytes();
    if (type != q.scalar_type()) beside += first_gradient.nbytes() + dd.nbytes() + da.nbytes();
    Block block =
        make_block(op, matching, true, gradients_of_rows, beside, max_memory, q.options());
    auto* const T = block.scores<scalar>();
    for (int64_t first = 0; first < B; first += block.length) {
      const int64_t count = std::min(block.length, B - first);
      const Matches matches = matches_of(block.argmax);
      matching.match(first, count, T, block.values<scalar>(), matches);
      const Targets<scalar> block_targets{
          bias.const_data_ptr<scalar>(), targets.const_data_ptr<scalar>() + first * N,
          exclude ? excluded.const_data_ptr<int64_t>() + first : nullptr,
          1.0 / static_cast<double>(B)};
      check(kl_rows(block_targets, N, count, T, losses.mutable_data_ptr<double>() + first,
                    context.on));
      if (needs[3])
        check(add_bias_gradient(T, N, count, db.mutable_data_ptr<scalar>(), context.on));
      if (gradients_of_rows)
        gradients.add(matching, first, count, T, block.values<scalar>(), matches, context.on);
    }
  });
  if (needs[0]) {
    if (v)
      first_gradient = parts.sum(0);
    else
      first_gradient.mul_(a.to(type).unsqueeze(2));
  }
  const auto loss =
      B == 0 ? at::zeros({}, losses.options()) : losses.sum() / static_cast<double>(B);
  return {loss.to(type), first_gradient, dd, da, db};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl(
    const at::Tensor& q, const at::Tensor& d, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& P, const OptionalTensor& exclude, std::array<bool, 4> needs,
    c10::string_view precision, std::optional<int64_t> max_memory) {
  const auto [loss, dq, dd, da, db] =
      loss_and_gradients("match_kl", q, {}, d, a, b, P, exclude, needs, precision, max_memory);
  return {loss, dq, dd, da, db};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl_scaled(
    const at::Tensor& f, const at::Tensor& v, const at::Tensor& d, const at::Tensor& a,
    const at::Tensor& b, const at::Tensor& P, const OptionalTensor& exclude,
    std::array<bool, 3> needs, c10::string_view precision, std::optional<int64_t> max_memory) {
  const auto [loss, dv, dd, da, db] =
      loss_and_gradients("match_kl_scaled", f, v, d, a, b, P, exclude,
                         {needs[0], false, needs[1], needs[2]}, precision, max_memory);
  return {loss, dv, da, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(EMERGENCE_NAMESPACE, EMERGENCE_GPU, m) {
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
  m.impl("match_kl", &match_kl);
  m.impl("match_kl_scaled", &match_kl_scaled);
}

}  // namespace emergence_ext
