// Tensors by torch's stable ABI: one library, compiled once, for every torch from 2.11 on. What the
// bindings take from torch is here; other headers of torch are not included anywhere.
#pragma once

#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))
#define USE_CUDA 1  // declares guards and streams; only a backend for CUDA links them

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "errors.h"

// torch 2.13 and later tell what went wrong behind the ABI.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace emergence_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

constexpr auto kByte = ScalarType::Byte, kChar = ScalarType::Char;
constexpr auto kInt = ScalarType::Int, kLong = ScalarType::Long;
constexpr auto kHalf = ScalarType::Half, kBFloat16 = ScalarType::BFloat16;
constexpr auto kFloat = ScalarType::Float, kDouble = ScalarType::Double;

template <typename scalar>
constexpr ScalarType type_of = torch::headeronly::CppTypeToScalarType<scalar>::value;

// For messages: [2, 3], and cpu or cuda:0.
inline std::string shape(Sizes sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}
inline std::string shape(const Tensor& x) { return shape(x.sizes()); }
inline std::string place(const Tensor& x) {
  if (x.is_cpu()) return "cpu";
  const std::string index = std::to_string(x.get_device_index());
  return x.is_cuda() ? "cuda:" + index : "another device, index " + index;
}

inline std::string what_torch_said() {
  const char* const what = torch_exception_get_what_without_backtrace
                               ? torch_exception_get_what_without_backtrace()
                               : nullptr;
  return what ? what : "torch has said why on stderr";
}

// An op of torch by its name and overload. The results come back in the stack.
template <typename... Arguments>
auto stack_of(const char* op, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  if (torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION) != TORCH_SUCCESS)
    raise<runtime_error>(op, " failed: ", what_torch_said());
  return stack;
}
template <typename... Arguments>
Tensor call(const char* op, const char* overload, const Arguments&... arguments) {
  const auto stack = stack_of(op, overload, arguments...);
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline int64_t bytes_of(const Tensor& x) {
  return x.numel() * static_cast<int64_t>(x.element_size());
}

// Room on the device of `like`, if it has any. By its own function of the ABI, as an op of torch
// takes three times as long.
inline OptionalTensor try_empty(Sizes sizes, ScalarType type, const Tensor& like) {
  std::array<int64_t, 4> strides;
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0; stride *= std::max<int64_t>(sizes[dim], 1))
    strides[dim] = stride;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle found;
  const int status =
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                               code, device_type, like.get_device_index(), &found);
  return status == TORCH_SUCCESS ? OptionalTensor(Tensor(found)) : std::nullopt;
}
inline Tensor empty(Sizes sizes, ScalarType type, const Tensor& like) {
  const auto x = try_empty(sizes, type, like);
  if (x) return *x;
  std::ostringstream text;
  text << "no room for " << shape(sizes) << " of " << type << " on " << place(like) << ": "
       << what_torch_said();
  if (like.is_cpu()) runtime_error(text.str());
  out_of_memory_error(text.str());
}

inline Tensor full(Sizes sizes, double value, ScalarType type, const Tensor& like) {
  const auto x = empty(sizes, type, like);
  return torch::stable::fill_(x, value);
}
inline Tensor zeros(Sizes sizes, ScalarType type, const Tensor& like) {
  constexpr int64_t few = 1 << 15;  // bytes that one thread writes sooner than torch is asked
  auto x = empty(sizes, type, like);
  if (!x.is_cpu() || bytes_of(x) > few) return torch::stable::zero_(x);
  if (x.numel() > 0) std::memset(x.mutable_data_ptr(), 0, bytes_of(x));
  return x;
}

// The tensor itself where it is so already.
inline Tensor as_type(const Tensor& x, ScalarType type) {
  return x.scalar_type() == type ? x : torch::stable::to(x, type);
}
inline Tensor in_order(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

inline bool is_floating_point(const Tensor& x) {
  const auto type = x.scalar_type();
  return type == kFloat || type == kDouble || type == kHalf || type == kBFloat16;
}

inline bool same_device(const Tensor& x, const Tensor& y) { return x.device() == y.device(); }

// The lowest and the highest entry of integers on the CPU, of which there is one at least.
inline std::pair<int64_t, int64_t> range_of(const Tensor& x) {
  const auto stack = stack_of("aten::aminmax", "", x, std::nullopt, false);
  const auto entry = [](StableIValue found) {
    const auto one = as_type(torch::stable::detail::to<Tensor>(found), kLong);
    return *one.const_data_ptr<int64_t>();
  };
  const int64_t low = entry(stack[0]);
  return {low, entry(stack[1])};
}

inline int64_t threads() { return torch::stable::get_num_threads(); }

}  // namespace emergence_ext
