// A tensor [images, rows, columns] of any floating type and any strides, read a few rows at a time
// in the type of the arithmetic: in place where it lies so, else copied into scratch. Images may
// have fewer rows than there is room for; the rest is padding, which is neither counted nor read.
// Or one [rows, columns] of all images, one after the other, without room between them, or one for
// each image; these may be of int8 with a scale for each row.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "../tensors.h"

namespace emergence_ext::cpu {

template <typename scalar>
struct Rows {
  const scalar* data;
  int64_t stride;
};

// Where each image begins among the rows that are there, and the end of the last: [images + 1].
// Empty where every image is full.
inline std::vector<int64_t> starts_of(const OptionalTensor& lengths) {
  std::vector<int64_t> starts;
  if (!lengths) return starts;
  const auto counts = in_order(as_type(*lengths, kLong));
  const int64_t* const count = counts.const_data_ptr<int64_t>();
  starts.resize(counts.numel() + 1);
  for (int64_t image = 0; image < counts.numel(); ++image)
    starts[image + 1] = starts[image] + count[image];
  return starts;
}

class Operand {
 public:
  // `starts` as above, which it does not copy.
  explicit Operand(const Tensor& x, const std::vector<int64_t>& starts = {})
      : Operand(x, {x.size(0), x.size(1), x.size(2)}, {x.stride(0), x.stride(1), x.stride(2)}) {
    if (!starts.empty()) starts_ = starts.data();
  }

  // [images, rows] of one column, as above; [rows] is one image.
  static Operand one_column(const Tensor& x, const std::vector<int64_t>& starts = {}) {
    if (x.dim() == 1) return {x, {1, x.size(0), 1}, {x.size(0) * x.stride(0), x.stride(0), 1}};
    Operand all(x, {x.size(0), x.size(1), 1}, {x.stride(0), x.stride(1), 1});
    if (!starts.empty()) all.starts_ = starts.data();
    return all;
  }

  // Packed: x [rows, columns]; `starts` as above, of as many entries as there are images and one;
  // `scale` [rows] of int8. With `each` [images] their rows lie there, dense; x is one of them.
  static Operand packed(const Tensor& x, const std::vector<int64_t>& starts,
                        const float* scale = nullptr, const char* const* each = nullptr) {
    const int64_t D = x.size(1);
    Operand all{x, {1, x.size(0), D}, {0, each ? D : x.stride(0), each ? 1 : x.stride(1)}};
    all.starts_ = starts.data();
    all.packed_ = true;
    all.scale_ = scale;
    all.each_ = each;
    all.images = static_cast<int64_t>(starts.size()) - 1;
    all.rows = 0;
    for (int64_t image = 0; image < all.images; ++image)
      all.rows = std::max(all.rows, all.length(image));
    return all;
  }

  int64_t images, rows, columns;  // rows: the most that an image may have

  // Rows of an image, and the number of those before it.
  int64_t length(int64_t image) const {
    return starts_ ? starts_[image + 1] - starts_[image] : rows;
  }
  int64_t start(int64_t image) const {
    return starts_ ? starts_[image] - starts_[0] : image * rows;
  }
  bool ragged() const { return starts_ != nullptr; }

  ScalarType type() const { return type_; }

  // `count` images from `first` on; not of packed ones.
  Operand some(int64_t first, int64_t count) const {
    Operand part = *this;
    part.images = count;
    if (starts_) part.starts_ += first;
    part.data_ = static_cast<const char*>(data_) + first * stride_[0] * element_size_;
    return part;
  }

  // Whether the rows of an image lie one after the other, as `stored` gives them from `first` on.
  bool dense() const { return (stride_[2] == 1 || columns == 1) && stride_[1] == columns; }
  const char* stored(int64_t first) const {
    const int64_t image = image_of(first);
    return at(image, first - start(image));
  }
  int64_t row_bytes() const { return columns * element_size_; }
  // Of rows from `first` on, null where they have none.
  const float* scale(int64_t first) const { return scale_ ? scale_ + first : nullptr; }

  // Whether rows can be read without a copy, across the bounds of images as well.
  template <typename scalar>
  bool in_place() const {
    return plain<scalar>() && !each_ &&
           (packed_ || (!starts_ && (images == 1 || stride_[0] == rows * stride_[1])));
  }

  // `count` rows from the row `first` on, of those that are there, columns [k, k + width).
  template <typename scalar>
  Rows<scalar> read(int64_t first, int64_t count, int64_t k, int64_t width, scalar* scratch,
                    const scalar* v = nullptr) const {
    const int64_t image = image_of(first), row = first - start(image);
    const bool one_image = row + count <= length(image);
    if (!v && (in_place<scalar>() || (one_image && plain<scalar>()))) {
      return {reinterpret_cast<const scalar*>(at(image, row)) + k * stride_[2], stride_[1]};
    }
    copy(first, count, k, width, scratch, width, v);
    return {scratch, width};
  }

  // The same into rows of `out_stride` columns, filled up with zeros. With `v` [images, columns]
  // the rows of an image are multiplied by its row of v.
  template <typename scalar>
  void copy(int64_t first, int64_t count, int64_t k, int64_t width, scalar* out, int64_t out_stride,
            const scalar* v = nullptr) const {
    by_element([&](auto zero) {
      using scalar_t = decltype(zero);
      int64_t image = image_of(first), row = first - start(image);
      for (int64_t x = 0; x < count; ++x, ++row, out += out_stride) {
        for (; row >= length(image); ++image) row = 0;
        const auto* const from = reinterpret_cast<const scalar_t*>(at(image, row)) + k * stride_[2];
        if (stride_[2] == 1)
          for (int64_t c = 0; c < width; ++c) out[c] = static_cast<scalar>(from[c]);
        else
          for (int64_t c = 0; c < width; ++c) out[c] = static_cast<scalar>(from[c * stride_[2]]);
        if (v)
          for (int64_t c = 0; c < width; ++c) out[c] *= v[image * columns + k + c];
        if (scale_)
          for (int64_t c = 0; c < width; ++c) out[c] *= static_cast<scalar>(scale_[first + x]);
        for (int64_t c = width; c < out_stride; ++c) out[c] = 0;
      }
    });
  }

 private:
  Operand(const Tensor& x, std::array<int64_t, 3> sizes, std::array<int64_t, 3> strides)
      : images(sizes[0]),
        rows(sizes[1]),
        columns(sizes[2]),
        data_(x.const_data_ptr()),
        type_(x.scalar_type()),
        element_size_(static_cast<int64_t>(x.element_size())),
        stride_{strides[0], strides[1], strides[2]} {}

  // Calls run(zero) with a zero of the type of the entries.
  template <typename function>
  void by_element(function&& run) const {
    switch (type_) {
      case kFloat:
        return run(float{});
      case kDouble:
        return run(double{});
      case kHalf:
        return run(torch::headeronly::Half{});
      case kBFloat16:
        return run(torch::headeronly::BFloat16{});
      case kChar:
        return run(int8_t{});
      default:
        raise<type_error>("rows of ", type_, " cannot be read");
    }
  }

  const char* at(int64_t image, int64_t row) const {
    if (each_) return each_[image] + row * row_bytes();
    const int64_t offset =
        packed_ ? (starts_[image] + row) * stride_[1] : image * stride_[0] + row * stride_[1];
    return static_cast<const char*>(data_) + offset * element_size_;
  }

  // Of a row that is there.
  int64_t image_of(int64_t row) const {
    if (!starts_) return row / rows;
    return std::upper_bound(starts_, starts_ + images, starts_[0] + row) - starts_ - 1;
  }

  template <typename scalar>
  bool plain() const {
    return type_ == type_of<scalar> && (stride_[2] == 1 || columns == 1);
  }

  const void* data_;
  ScalarType type_;
  int64_t element_size_;
  const int64_t* starts_ = nullptr;
  int64_t stride_[3];
  bool packed_ = false;
  const float* scale_ = nullptr;
  const char* const* each_ = nullptr;
};

}  // namespace emergence_ext::cpu
