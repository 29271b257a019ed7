// A tensor [images, rows, columns] of any floating type and any strides, read a few rows at a time
// in the type of the arithmetic: in place where it lies so, else copied into scratch.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <cstring>

namespace emergence_ext::cpu {

template <typename scalar>
struct Rows {
  const scalar* data;
  int64_t stride;
};

class Operand {
 public:
  explicit Operand(const at::Tensor& x)
      : images(x.size(0)),
        rows(x.size(1)),
        columns(x.size(2)),
        data_(x.const_data_ptr()),
        type_(x.scalar_type()),
        stride_{x.stride(0), x.stride(1), x.stride(2)} {}

  int64_t images, rows, columns;

  at::ScalarType type() const { return type_; }

  // `count` images from `first` on.
  Operand some(int64_t first, int64_t count) const {
    Operand part = *this;
    part.images = count;
    part.data_ = static_cast<const char*>(data_) +
                 first * stride_[0] * static_cast<int64_t>(c10::elementSize(type_));
    return part;
  }

  // Whether rows can be read without a copy, across the bounds of images as well.
  template <typename scalar>
  bool in_place() const {
    return plain<scalar>() && (images == 1 || stride_[0] == rows * stride_[1]);
  }

  // `count` rows from the flat row `first` on, columns [k, k + width).
  template <typename scalar>
  Rows<scalar> read(int64_t first, int64_t count, int64_t k, int64_t width, scalar* scratch,
                    const scalar* v = nullptr) const {
    const bool one_image = first / rows == (first + count - 1) / rows;
    if (!v && (in_place<scalar>() || (one_image && plain<scalar>()))) {
      const int64_t offset = first / rows * stride_[0] + first % rows * stride_[1] + k * stride_[2];
      return {static_cast<const scalar*>(data_) + offset, stride_[1]};
    }
    copy(first, count, k, width, scratch, width, v);
    return {scratch, width};
  }

  // The same into rows of `out_stride` columns, filled up with zeros. With `v` [images, columns]
  // the rows of an image are multiplied by its row of v.
  template <typename scalar>
  void copy(int64_t first, int64_t count, int64_t k, int64_t width, scalar* out, int64_t out_stride,
            const scalar* v = nullptr) const {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type_, "read_rows", [&] {
      for (int64_t x = first; x < first + count; ++x, out += out_stride) {
        const int64_t image = x / rows, row = x % rows;
        const scalar_t* from = static_cast<const scalar_t*>(data_) + image * stride_[0] +
                               row * stride_[1] + k * stride_[2];
        if (stride_[2] == 1)
          for (int64_t c = 0; c < width; ++c) out[c] = static_cast<scalar>(from[c]);
        else
          for (int64_t c = 0; c < width; ++c) out[c] = static_cast<scalar>(from[c * stride_[2]]);
        if (v)
          for (int64_t c = 0; c < width; ++c) out[c] *= v[image * columns + k + c];
        for (int64_t c = width; c < out_stride; ++c) out[c] = 0;
      }
    });
  }

 private:
  template <typename scalar>
  bool plain() const {
    return type_ == c10::CppTypeToScalarType<scalar>::value && (stride_[2] == 1 || columns == 1);
  }

  const void* data_;
  at::ScalarType type_;
  int64_t stride_[3];
};

}  // namespace emergence_ext::cpu
