// The table of contents: every op of the library, and what it tells about its build.
// Contracts are in the header of each op; shapes for fake tensors and gradients in ops.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include "build_facts.h"
#include "cpu/kernels.h"

TORCH_LIBRARY(emergence_ext, m) {
  m.set_python_module("emergence_ext.ops");
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};

  // maxsim.h
  m.def(
      "maxsim(Tensor q, Tensor d, Tensor? a, *, str precision=\"highest\", "
      "int? max_memory=None) -> Tensor",
      tags);
  m.def(
      "maxsim_indices(Tensor q, Tensor d, Tensor? a, *, str precision=\"highest\", "
      "int? max_memory=None, bool compact=False) -> (Tensor T, Tensor argmax)",
      tags);
  m.def(
      "maxsim_backward(Tensor G, Tensor q, Tensor d, Tensor? a, Tensor argmax, bool[3] needs) "
      "-> (Tensor dq, Tensor dd, Tensor da)",
      tags);

  // match_kl.h
  m.def(
      "match_kl(Tensor q, Tensor d, Tensor a, Tensor b, Tensor P, Tensor? exclude, bool[4] needs, "
      "*, str precision=\"highest\", int? max_memory=None) "
      "-> (Tensor loss, Tensor dq, Tensor dd, Tensor da, Tensor db)",
      tags);
  m.def(
      "match_kl_scaled(Tensor f, Tensor v, Tensor d, Tensor a, Tensor b, Tensor P, "
      "Tensor? exclude, bool[3] needs, *, str precision=\"highest\", int? max_memory=None) "
      "-> (Tensor loss, Tensor dv, Tensor da, Tensor db)",
      tags);
  m.def("scale_gradient(Tensor grad, Tensor gradient, Tensor of) -> Tensor", tags);
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Loading this module registers the ops of the namespace emergence_ext.";
  m.def("build_info", [] { return pybind11::module_::import("json").attr("loads")(kBuildFacts); });
  m.def("instruction_sets", [] {
    const char* names[4];
    const int count = emergence_ext::cpu::levels(names);
    return std::vector<std::string>(names, names + count);
  });
  m.def("instruction_set", [] { return emergence_ext::cpu::level().name; });
  m.def("use_instruction_set", &emergence_ext::cpu::use_level);
}
