// The ops' schemas, and the one op that is the same on every device. Contracts are in the header of
// each op; shapes for fake tensors and gradients in emergence_ext/ops/registration.py. Kernels for
// a GPU that are emulated register beside those for the CPU, under a namespace of their own.
#pragma once

#include "tensors.h"

#if defined(EMERGENCE_EMULATED)
#define EMERGENCE_NAMESPACE emergence_emulated
#define EMERGENCE_GPU CPU
#else
#define EMERGENCE_NAMESPACE emergence_ext
#define EMERGENCE_GPU CUDA
#endif

namespace emergence_ext {

// The gradient of an input, formed with the loss, for the loss' own gradient `grad`.
inline Tensor scale_gradient(const Tensor& grad, const Tensor& gradient, const Tensor& of) {
  return as_type(call("aten::mul", "Tensor", grad, gradient), of.scalar_type());
}

inline void define_ops(torch::stable::detail::StableLibrary& m) {
  // maxsim.h
  m.def(
      "maxsim(Tensor q, Tensor d, Tensor? a, Tensor? q_lengths=None, Tensor? d_lengths=None, *, "
      "float empty_score=-1e9, str precision=\"highest\", int? max_memory=None) -> Tensor");
  m.def(
      "maxsim_indices(Tensor q, Tensor d, Tensor? a, Tensor? q_lengths=None, "
      "Tensor? d_lengths=None, *, float empty_score=-1e9, str precision=\"highest\", "
      "int? max_memory=None, bool compact=False) -> (Tensor T, Tensor argmax)");
  m.def(
      "maxsim_backward(Tensor G, Tensor q, Tensor d, Tensor? a, Tensor argmax, bool[3] needs, "
      "Tensor? q_lengths=None, Tensor? d_lengths=None) -> (Tensor dq, Tensor dd, Tensor da)");

  // match_kl.h
  m.def(
      "match_kl(Tensor q, Tensor d, Tensor a, Tensor b, Tensor P, Tensor? exclude, bool[4] needs, "
      "Tensor? q_lengths=None, Tensor? d_lengths=None, *, float empty_score=-1e9, "
      "str over=\"q\", str precision=\"highest\", int? max_memory=None) "
      "-> (Tensor loss, Tensor dq, Tensor dd, Tensor da, Tensor db)");
  m.def(
      "match_kl_scaled(Tensor f, Tensor v, Tensor d, Tensor a, Tensor b, Tensor P, "
      "Tensor? exclude, bool[3] needs, Tensor? q_lengths=None, Tensor? d_lengths=None, *, "
      "float empty_score=-1e9, str over=\"q\", str precision=\"highest\", "
      "int? max_memory=None) "
      "-> (Tensor loss, Tensor dv, Tensor da, Tensor db)");
  m.def("scale_gradient(Tensor grad, Tensor gradient, Tensor of) -> Tensor");
}

}  // namespace emergence_ext
