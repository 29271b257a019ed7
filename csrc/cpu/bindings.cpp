// CPU: checks arguments, allocates results, deals out the work to torch's threads.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <array>
#include <memory>
#include <tuple>

#include "checks.h"
#include "maxsim.h"

namespace emergence_ext {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kGrain = 1 << 16;  // multiplications below which a thread is not worth waking

int64_t grain(int64_t work_per_item) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work_per_item));
}

// The inputs in the type of the arithmetic: no copy for float32 and float64.
struct Inputs {
  at::Tensor q, d;
  OptionalTensor a;

  Inputs(const at::Tensor& q_, const at::Tensor& d_, const OptionalTensor& a_)
      : q(q_.to(compute_type(q_))), d(d_.to(compute_type(q_))) {
    if (a_) a = a_->to(compute_type(q_));
  }

  template <typename scalar>
  MaxSim<scalar> params() const {
    MaxSim<scalar> in{};
    in.q = q.const_data_ptr<scalar>();
    in.d = d.const_data_ptr<scalar>();
    in.a = a ? a->const_data_ptr<scalar>() : nullptr;
    for (int x = 0; x < 3; ++x) in.q_stride[x] = q.stride(x), in.d_stride[x] = d.stride(x);
    for (int x = 0; a && x < 2; ++x) in.a_stride[x] = a->stride(x);
    in.N = q.size(0), in.R = q.size(1), in.B = d.size(0), in.S = d.size(1), in.D = q.size(2);
    return in;
  }
};

template <typename scalar, typename index>
void forward(const MaxSim<scalar>& in, scalar* T, index* argmax) {
  at::parallel_for(0, in.N * in.B, grain(in.R * in.S * in.D), [&](int64_t first, int64_t last) {
    const std::unique_ptr<char[]> scratch(new char[cpu::scratch_bytes(in)]);
    cpu::maxsim_pairs(in, first, last, scratch.get(), T, argmax);
  });
}

template <typename scalar, typename index>
void backward(const MaxSimGrad<scalar, index>& grad) {
  const auto& in = grad.in;
  if (grad.dq || grad.da)
    at::parallel_for(0, in.N, grain(in.R * in.B * in.D), [&](int64_t first, int64_t last) {
      const std::unique_ptr<scalar[]> u(new scalar[in.D]);
      cpu::maxsim_grad_scored(grad, first, last, u.get());
    });
  if (grad.dd)
    at::parallel_for(0, in.B, grain(in.N * in.R * in.D), [&](int64_t first, int64_t last) {
      cpu::maxsim_grad_conditioning(grad, first, last);
    });
}

void check_forward(const char* op, const at::Tensor& q, const at::Tensor& d,
                   const OptionalTensor& a, const std::string& precision,
                   std::optional<int64_t> max_memory) {
  check_maxsim(op, q, d, a);
  check_options(op, precision, max_memory);
  check_finite(op, "q", q);
  check_finite(op, "d", d);
  if (a) check_finite(op, "a", *a);
}

at::Tensor maxsim(const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
                  c10::string_view precision, std::optional<int64_t> max_memory) {
  check_forward("maxsim", q, d, a, std::string(precision), max_memory);
  const Inputs inputs(q, d, a);
  auto T = at::empty({d.size(0), q.size(0)}, inputs.q.options());  // [B, N]
  AT_DISPATCH_FLOATING_TYPES(T.scalar_type(), "maxsim", [&] {
    forward<scalar_t, uint8_t>(inputs.params<scalar_t>(), T.mutable_data_ptr<scalar_t>(), nullptr);
  });
  return T;
}

std::tuple<at::Tensor, at::Tensor> maxsim_indices(const at::Tensor& q, const at::Tensor& d,
                                                  const OptionalTensor& a,
                                                  c10::string_view precision,
                                                  std::optional<int64_t> max_memory) {
  check_forward("maxsim_indices", q, d, a, std::string(precision), max_memory);
  const Inputs inputs(q, d, a);
  const auto options = inputs.q.options();
  auto T = at::empty({d.size(0), q.size(0)}, options);  // [B, N]
  auto argmax = at::empty({d.size(0), q.size(0), q.size(1)},
                          options.dtype(index_type(d, kCompactLimit)));  // [B, N, R]
  AT_DISPATCH_FLOATING_TYPES(T.scalar_type(), "maxsim_indices", [&] {
    const auto in = inputs.params<scalar_t>();
    auto* scores = T.mutable_data_ptr<scalar_t>();
    if (argmax.scalar_type() == at::kByte)
      forward(in, scores, argmax.mutable_data_ptr<uint8_t>());
    else
      forward(in, scores, argmax.mutable_data_ptr<int32_t>());
  });
  return {T, argmax};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> maxsim_backward(
    const at::Tensor& G, const at::Tensor& q, const at::Tensor& d, const OptionalTensor& a,
    const at::Tensor& argmax, std::array<bool, 3> needs) {
  check_maxsim_backward(G, q, d, a, argmax, kCompactLimit);
  const Inputs inputs(q, d, a);
  const auto options = inputs.q.options();
  const auto empty = [&](bool need, at::IntArrayRef sizes) {
    return need ? at::empty(sizes, options) : at::empty({0}, options);
  };
  auto dq = empty(needs[0], q.sizes());
  auto dd = empty(needs[1], d.sizes());
  auto da = empty(needs[2], q.sizes().slice(0, 2));
  const auto scores = G.contiguous();
  const auto indices = argmax.contiguous();
  AT_DISPATCH_FLOATING_TYPES(dq.scalar_type(), "maxsim_backward", [&] {
    const auto run = [&](auto* matches) {
      using index = std::remove_const_t<std::remove_pointer_t<decltype(matches)>>;
      const auto out = [](const at::Tensor& x, bool need) {
        return need ? x.mutable_data_ptr<scalar_t>() : nullptr;
      };
      backward(MaxSimGrad<scalar_t, index>{
          inputs.params<scalar_t>(), scores.const_data_ptr<scalar_t>(), matches, out(dq, needs[0]),
          out(dd, needs[1]), out(da, needs[2])});
    };
    if (indices.scalar_type() == at::kByte)
      run(indices.const_data_ptr<uint8_t>());
    else
      run(indices.const_data_ptr<int32_t>());
  });
  const auto type = q.scalar_type();
  return {dq.to(type), dd.to(type), da.to(type)};
}

}  // namespace

TORCH_LIBRARY_IMPL(emergence_ext, CPU, m) {
  m.impl("maxsim", &maxsim);
  m.impl("maxsim_indices", &maxsim_indices);
  m.impl("maxsim_backward", &maxsim_backward);
}

}  // namespace emergence_ext
