// A problem made ready for the kernels of matching.h: how it will be matched, the copies that this
// takes, and room for as many images of a side as memory allows.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "../bindings.h"
#include "arithmetic.h"
#include "context.h"
#include "matching.h"
#include "paths.h"

namespace emergence_ext::cuda {

constexpr int64_t kBlockBytes = 256 << 20;  // when `max_memory` is not given

template <typename scalar>
constexpr at::ScalarType type_of = c10::CppTypeToScalarType<scalar>::value;

inline Matches matches_of(const at::Tensor& argmax, int64_t first = 0) {
  if (!argmax.defined()) return {nullptr, 0};
  auto* const data = static_cast<char*>(argmax.mutable_data_ptr());
  return {data + first * argmax.stride(0) * argmax.element_size(),
          static_cast<int>(argmax.element_size())};
}

// 16-bit rows as matching.h wants them: whole pieces, aligned. The tensor itself where it is so.
inline at::Tensor whole_pieces(const at::Tensor& x) {
  const int64_t missing = round_up(x.size(-1), kPiece) - x.size(-1);
  auto rows = missing > 0 ? at::constant_pad_nd(x, {0, missing}) : x.contiguous();
  return reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0 ? rows : rows.clone();
}

// What a block of images has room for.
struct Parts {
  bool scores, values, matches;
};

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
    if (way == Way::narrow || way == Way::split) kind_ = Kind::narrow;
    if (way == Way::planes || way == Way::hopper) {
      kind_ = Kind::planes;
      scored_again_ = !half || v;  // else the products of such entries are exact
      if (scored_again_) planes_.planes = precision == "high" ? 2 : 1;
    }
    // Wide rows of 16 bits stay as they are: in float32 only match_wide takes them.
    const bool halves = half && kind_ != Kind::narrow;
    const auto keep = [&](const at::Tensor& x) {
      // In the order of a contiguous tensor at once: a strided one is copied no more than once.
      auto rows = x.to(type_of<scalar>, false, false, at::MemoryFormat::Contiguous).contiguous();
      return kept(x, std::move(rows)).template const_data_ptr<scalar>();
    };
    if (!halves || (kind_ == Kind::wide && use != Use::gradients)) {
      problem_.q = keep(q);
      problem_.d = keep(d);
    }
    if (halves && (kind_ == Kind::planes || use != Use::scores)) {
      const auto rows = [&](const at::Tensor& x) {
        return static_cast<const uint16_t*>(kept(x, whole_pieces(x)).const_data_ptr());
      };
      problem_.halves = {rows(q), rows(d), round_up(problem_.D, kPiece),
                         q.scalar_type() == at::kHalf};
    }
    problem_.v = v ? keep(*v) : nullptr;
    problem_.a = a ? keep(*a) : nullptr;
    if (kind_ == Kind::planes) prepare_planes(q);
    if constexpr (type_of<scalar> == at::kFloat) {
      if (way == Way::split && use != Use::gradients && split_applies(problem_)) prepare_split(q);
    }
  }

  const Problem<scalar>& problem() const { return problem_; }

  // Bytes beside inputs and results: of everything, and of each pair of images of a block.
  int64_t fixed_bytes() const { return copied_bytes_; }
  int64_t bytes_of_pair(const Parts& parts) const {
    return (parts.scores ? sizeof(scalar) : 0) + (parts.values ? problem_.R * sizeof(scalar) : 0) +
           (parts.matches ? problem_.R * (problem_.S <= kCompactLimit ? 1 : 4) : 0);
  }

  bool narrow() const { return kind_ == Kind::narrow; }
  bool needs_matches() const { return scored_again_; }

  // All images of a side.
  Images scored() const { return {0, problem_.N}; }
  Images conditioning() const { return {0, problem_.B}; }

  // The pairs of some images of each side.
  Problem<scalar> block(Images scored, Images conditioning) const {
    Problem<scalar> p = problem_;
    const int64_t row = scored.first * p.R, candidate = conditioning.first * p.S;
    if (p.q) p.q += row * p.D;
    if (p.v) p.v += scored.first * p.D;
    if (p.a) p.a += row;
    if (p.d) p.d += candidate * p.D;
    if (p.halves.q) p.halves.q += row * p.halves.width;
    if (p.halves.d) p.halves.d += candidate * p.halves.width;
    p.N = scored.count, p.B = conditioning.count;
    return p;
  }

  // Scores of the pairs of a block; `value` is not used where rows are narrow.
  void match(Images scored, Images conditioning, scalar* T, scalar* value, Matches matches) const {
    const Problem<scalar> p = block(scored, conditioning);
    const int64_t row = scored.first * p.R, candidate = conditioning.first * p.S;
    if constexpr (type_of<scalar> == at::kFloat) {
      if (q_split_.defined()) {
        const auto* const of_q = q_split_.const_data_ptr<uint8_t>() + split_bytes(row, p.D);
        const auto* const of_d = d_split_.const_data_ptr<uint8_t>() + split_bytes(candidate, p.D);
        return check(match_split(p, of_q, of_d, T, matches, on_));
      }
    }
    if (narrow()) return check(match_narrow(p, T, matches, on_));
    if constexpr (type_of<scalar> == at::kFloat) {
      if (kind_ == Kind::planes) {
        Planes planes = planes_;
        planes.q += row * planes.planes * planes.width;
        planes.d += candidate * planes.planes * planes.width;
        planes.rows = p.N * p.R, planes.B = p.B;
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

  void prepare_planes(const at::Tensor& q) {
    planes_.rows = problem_.N * problem_.R, planes_.S = problem_.S;
    planes_.width = round_up(problem_.D, kPiece);
    if (!scored_again_) {
      planes_.q = problem_.halves.q, planes_.d = problem_.halves.d;
      planes_.float16 = problem_.halves.float16;
      return;
    }
    if constexpr (type_of<scalar> == at::kFloat) {
      const auto packed = [&](auto pack, int64_t count) {
        const auto options = q.options().dtype(at::kBFloat16);
        const auto& out = kept({}, at::empty({count, planes_.planes * planes_.width}, options));
        auto* const data = static_cast<uint16_t*>(out.mutable_data_ptr());
        check(pack(problem_, planes_.width, planes_.planes, data, on_));
        return data;
      };
      planes_.q = packed(pack_q, planes_.rows);
      planes_.d = packed(pack_d, problem_.B * problem_.S);
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

// Room for a block of images of one side, `length` of them, with all of the other.
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

// As many images, in whole groups, as `max_memory` or the default holds beside the bytes that the
// caller takes itself: conditioning ones, or scored ones where the softmax runs over d. Where the
// device has less to give, half as many, and again.
template <typename scalar>
Block make_block(const char* op, const Matching<scalar>& matching, const Parts& parts,
                 int64_t beside, std::optional<int64_t> max_memory,
                 const at::TensorOptions& options, Over over = Over::q) {
  const auto& p = matching.problem();
  const int64_t all = over == Over::q ? p.B : p.N, others = over == Over::q ? p.N : p.B;
  const int64_t group = over == Over::q ? kImagesOfGroup : kScoredOfGroup;
  const int64_t each = std::max<int64_t>(1, others * matching.bytes_of_pair(parts));
  const int64_t fixed = matching.fixed_bytes() + beside;
  const int64_t room = max_memory.value_or(kBlockBytes + fixed) - fixed;
  TORCH_CHECK_VALUE(!max_memory || room >= group * each, op, ": max_memory = ", *max_memory,
                    " bytes holds no block; give at least ", fixed + group * each);
  Block block;
  block.length = std::clamp<int64_t>(room / each / group * group, group,
                                     round_up(std::max<int64_t>(all, 1), group));
  for (;; block.length = larger(group, block.length / 2 / group * group)) {
    const int64_t pairs = std::min(block.length, all) * others;
    const auto floats = options.dtype(type_of<scalar>);
    const auto places = options.dtype(p.S <= kCompactLimit ? at::kByte : at::kInt);
    try {
      if (parts.scores) block.T = allocate({pairs}, floats);
      if (parts.values) block.value = allocate({pairs, p.R}, floats);
      if (parts.matches) block.argmax = allocate({pairs, p.R}, places);
      return block;
    } catch (const c10::OutOfMemoryError&) {
      block.T = block.value = block.argmax = at::Tensor();
      if (block.length == group) throw;
    }
  }
}

}  // namespace emergence_ext::cuda
