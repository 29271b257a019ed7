// CUDA: checks arguments, allocates results, guards the device, launches on the current stream.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "checks.h"
#include "maxsim.h"

namespace emergence_ext {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

void check_allowed(const char* op) {
  const char* allowed = std::getenv("EMERGENCE_UNTESTED_CUDA");
  TORCH_CHECK_NOT_IMPLEMENTED(
      allowed != nullptr && std::strcmp(allowed, "1") == 0, op,
      ": the CUDA kernels of this version have never run on a GPU and are off by default. "
      "Move the tensors to the CPU, or set EMERGENCE_UNTESTED_CUDA=1 to try them");
}

// Inputs in the type of the arithmetic, contiguous, as the kernel reads them.
struct Inputs {
  at::Tensor q, d;
  OptionalTensor a;

  Inputs(const at::Tensor& q_, const at::Tensor& d_, const OptionalTensor& a_)
      : q(q_.to(compute_type(q_)).contiguous()), d(d_.to(compute_type(q_)).contiguous()) {
    if (a_) a = a_->to(compute_type(q_)).contiguous();
  }

  template <typename scalar>
  MaxSim<scalar> params() const {
    MaxSim<scalar> in{};
    in.q = q.const_data_ptr<scalar>();
    in.d = d.const_data_ptr<scalar>();
    in.a = a ? a->const_data_ptr<scalar>() : nullptr;
    in.N = q.size(0), in.R = q.size(1), in.B = d.size(0), in.S = d.size(1), in.D = q.size(2);
    return in;
  }
};

template <typename scalar, typename index>
void launch(const Inputs& inputs, const at::Tensor& T, index* argmax) {
  const auto stream = c10::cuda::getCurrentCUDAStream(T.device().index());
  const int status = cuda::maxsim_portable(inputs.params<scalar>(), T.mutable_data_ptr<scalar>(),
                                           argmax, stream.stream());
  C10_CUDA_CHECK(static_cast<cudaError_t>(status));
}

void check_forward(const char* op, const at::Tensor& q, const at::Tensor& d,
                   const OptionalTensor& a, const std::string& precision,
                   std::optional<int64_t> max_memory) {
  check_allowed(op);
  check_maxsim(op, q, d, a);
  check_options(op, precision, max_memory);
}

at::Tensor maxsim(const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
                  c10::string_view precision, std::optional<int64_t> max_memory) {
  check_forward("maxsim", q, d, a, std::string(precision), max_memory);
  const c10::cuda::CUDAGuard guard(q.device());
  const Inputs inputs(q, d, a);
  auto T = at::empty({d.size(0), q.size(0)}, inputs.q.options());  // [B, N]
  AT_DISPATCH_FLOATING_TYPES(T.scalar_type(), "maxsim",
                             [&] { launch<scalar_t, uint8_t>(inputs, T, nullptr); });
  return T;
}

std::tuple<at::Tensor, at::Tensor> maxsim_indices(const at::Tensor& q, const at::Tensor& d,
                                                  const OptionalTensor& a,
                                                  c10::string_view precision,
                                                  std::optional<int64_t> max_memory, bool compact) {
  check_forward("maxsim_indices", q, d, a, std::string(precision), max_memory);
  const c10::cuda::CUDAGuard guard(q.device());
  const Inputs inputs(q, d, a);
  const auto options = inputs.q.options();
  auto T = at::empty({d.size(0), q.size(0)}, options);  // [B, N]
  auto argmax = at::empty({d.size(0), q.size(0), q.size(1)},
                          options.dtype(index_type(d, kCompactLimit)));  // [B, N, R]
  AT_DISPATCH_FLOATING_TYPES(T.scalar_type(), "maxsim_indices", [&] {
    if (argmax.scalar_type() == at::kByte)
      launch<scalar_t>(inputs, T, argmax.mutable_data_ptr<uint8_t>());
    else
      launch<scalar_t>(inputs, T, argmax.mutable_data_ptr<int32_t>());
  });
  return {T, compact ? argmax : argmax.to(at::kLong)};
}

[[noreturn]] void not_yet(const char* op) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op,
                              ": there is no CUDA kernel yet; move the tensors to the CPU, or use "
                              "emergence_ext.reference");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> maxsim_backward(const at::Tensor&, const at::Tensor&,
                                                               const at::Tensor&,
                                                               const OptionalTensor&,
                                                               const at::Tensor&,
                                                               std::array<bool, 3>) {
  not_yet("maxsim_backward");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
    const OptionalTensor&, std::array<bool, 4>, c10::string_view, std::optional<int64_t>) {
  not_yet("match_kl");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> match_kl_scaled(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
    const at::Tensor&, const OptionalTensor&, std::array<bool, 3>, c10::string_view,
    std::optional<int64_t>) {
  not_yet("match_kl_scaled");
}

}  // namespace

TORCH_LIBRARY_IMPL(emergence_ext, CUDA, m) {
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
  m.impl("match_kl", &match_kl);
  m.impl("match_kl_scaled", &match_kl_scaled);
}

}  // namespace emergence_ext
