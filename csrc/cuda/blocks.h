// A problem made ready for the kernels of matching.h: how it will be matched, the copies that this
// takes, and room for as many images of a side as memory allows.
#pragma once

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

inline Matches matches_of(const OptionalTensor& argmax, int64_t first = 0) {
  if (!argmax) return {nullptr, 0};
  auto* const data = static_cast<char*>(argmax->mutable_data_ptr());
  const auto size = static_cast<int>(argmax->element_size());
  return {data + first * argmax->stride(0) * size, size};
}

// Whether they are the same memory.
inline bool same_entries(const Tensor& x, const Tensor& y) {
  return x.const_data_ptr() == y.const_data_ptr();
}

// 16-bit rows as matching.h wants them: whole pieces, aligned. The tensor itself where it is so.
inline Tensor whole_pieces(const Tensor& x) {
  const int64_t missing = round_up(x.size(2), kPiece) - x.size(2);
  auto rows = missing > 0 ? torch::stable::pad(x, {0, missing}) : in_order(x);
  const bool aligned = reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0;
  return aligned ? rows : torch::stable::clone(rows);
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
  Matching(const Tensor& q, const OptionalTensor& v, const Tensor& d, const OptionalTensor& a,
           const std::string& precision, Use use, Way way, const Device& on)
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
    const auto keep = [&](const Tensor& x) {
      return kept(&x, in_order_of_type(x)).template const_data_ptr<scalar>();
    };
    if (!halves || (kind_ == Kind::wide && use != Use::gradients)) {
      problem_.q = keep(q);
      problem_.d = keep(d);
    }
    if (halves && (kind_ == Kind::planes || use != Use::scores)) {
      const auto rows = [&](const Tensor& x) {
        return static_cast<const uint16_t*>(kept(&x, whole_pieces(x)).const_data_ptr());
      };
      problem_.halves = {rows(q), rows(d), round_up(problem_.D, kPiece), q.scalar_type() == kHalf};
    }
    problem_.v = v ? keep(*v) : nullptr;
    problem_.a = a ? keep(*a) : nullptr;
    if (kind_ == Kind::planes) prepare_planes(q);
    if constexpr (type_of<scalar> == kFloat) {
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
    if constexpr (type_of<scalar> == kFloat) {
      if (q_split_) {
        const auto* const of_q = q_split_->const_data_ptr<uint8_t>() + split_bytes(row, p.D);
        const auto* const of_d = d_split_->const_data_ptr<uint8_t>() + split_bytes(candidate, p.D);
        return check(match_split(p, of_q, of_d, T, matches, on_));
      }
    }
    if (narrow()) return check(match_narrow(p, T, matches, on_));
    if constexpr (type_of<scalar> == kFloat) {
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

  // In the order of a contiguous tensor at once: a strided one is copied no more than once.
  static Tensor in_order_of_type(const Tensor& x) {
    if (x.scalar_type() == type_of<scalar>) return in_order(x);
    constexpr auto format = torch::headeronly::MemoryFormat::Contiguous;
    return in_order(torch::stable::to(x, type_of<scalar>, {}, {}, {}, false, false, format));
  }

  // Holds what a kernel will read; it costs memory where it is not the caller's own `x`.
  const Tensor& kept(const Tensor* x, Tensor used) {
    copied_bytes_ += x && same_entries(used, *x) ? 0 : bytes_of(used);
    return kept_.emplace_back(std::move(used));
  }

  void prepare_planes(const Tensor& q) {
    planes_.rows = problem_.N * problem_.R, planes_.S = problem_.S;
    planes_.width = round_up(problem_.D, kPiece);
    if (!scored_again_) {
      planes_.q = problem_.halves.q, planes_.d = problem_.halves.d;
      planes_.float16 = problem_.halves.float16;
      return;
    }
    if constexpr (type_of<scalar> == kFloat) {
      const auto packed = [&](auto pack, int64_t count) {
        const auto& out =
            kept(nullptr, empty({count, planes_.planes * planes_.width}, kBFloat16, q));
        auto* const data = static_cast<uint16_t*>(out.mutable_data_ptr());
        check(pack(problem_, planes_.width, planes_.planes, data, on_));
        return data;
      };
      planes_.q = packed(pack_q, planes_.rows);
      planes_.d = packed(pack_d, problem_.B * problem_.S);
    }
  }

  void prepare_split(const Tensor& q) {
    const int64_t of_q = split_bytes(problem_.N * problem_.R, problem_.D);
    const int64_t of_d = split_bytes(problem_.B * problem_.S, problem_.D);
    q_split_ = kept(nullptr, empty({of_q}, kByte, q));
    d_split_ = kept(nullptr, empty({of_d}, kByte, q));
    check(split_rows(problem_, q_split_->mutable_data_ptr(), d_split_->mutable_data_ptr(), on_));
  }

  Device on_;
  Way way_;
  Kind kind_ = Kind::wide;
  bool scored_again_ = false;  // matches were selected with rounded rows
  Problem<scalar> problem_{};
  Planes planes_{nullptr, nullptr, 0, 0, 0, 0, 1, false};
  OptionalTensor q_split_, d_split_;  // there where rows were split
  int64_t copied_bytes_ = 0;
  std::vector<Tensor> kept_;
};

// Room for a block of images of one side, `length` of them, with all of the other.
struct Block {
  int64_t length = 0;
  OptionalTensor T, value, argmax;

  template <typename scalar>
  scalar* scores() const {
    return T ? T->mutable_data_ptr<scalar>() : nullptr;
  }
  template <typename scalar>
  scalar* values() const {
    return value ? value->mutable_data_ptr<scalar>() : nullptr;
  }
};

// As many images, in whole groups, as `max_memory` or the default holds beside the bytes that the
// caller takes itself: conditioning ones, or scored ones where the softmax runs over d. Where the
// device has less to give, half as many, and again.
template <typename scalar>
Block make_block(const char* op, const Matching<scalar>& matching, const Parts& parts,
                 int64_t beside, std::optional<int64_t> max_memory, const Tensor& like,
                 Over over = Over::q) {
  const auto& p = matching.problem();
  const int64_t all = over == Over::q ? p.B : p.N, others = over == Over::q ? p.N : p.B;
  const int64_t group = over == Over::q ? kImagesOfGroup : kScoredOfGroup;
  const int64_t each = std::max<int64_t>(1, others * matching.bytes_of_pair(parts));
  const int64_t fixed = matching.fixed_bytes() + beside;
  const int64_t room = max_memory.value_or(kBlockBytes + fixed) - fixed;
  EMERGENCE_CHECK(value_error, !max_memory || room >= group * each, op,
                  ": max_memory = ", *max_memory, " bytes holds no block; give at least ",
                  fixed + group * each);
  Block block;
  block.length = std::clamp<int64_t>(room / each / group * group, group,
                                     round_up(std::max<int64_t>(all, 1), group));
  for (;; block.length = larger(group, block.length / 2 / group * group)) {
    const int64_t pairs = std::min(block.length, all) * others;
    const auto places = p.S <= kCompactLimit ? kByte : kInt;
    const auto room_for = [&](bool asked, OptionalTensor& x, Sizes sizes, ScalarType type) {
      if (asked) x = allocate(sizes, type, like);
      return !asked || x;
    };
    if (room_for(parts.scores, block.T, {pairs}, type_of<scalar>) &&
        room_for(parts.values, block.value, {pairs, p.R}, type_of<scalar>) &&
        room_for(parts.matches, block.argmax, {pairs, p.R}, places))
      return block;
    block.T = block.value = block.argmax = std::nullopt;
    EMERGENCE_CHECK(out_of_memory_error, block.length > group, op, ": ", place(like),
                    " has no room for the smallest block, ", pairs * matching.bytes_of_pair(parts),
                    " bytes: ", what_torch_said());
  }
}

}  // namespace emergence_ext::cuda
