// The table of contents: every op of the library, and what it tells about its build.
// Contracts are in the header of each op; shapes for fake tensors and gradients in ops.py.

#include <pybind11/pybind11.h>
#include <torch/library.h>

#include "build_facts.h"

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
      "int? max_memory=None) -> (Tensor T, Tensor argmax)",
      tags);
  m.def(
      "maxsim_backward(Tensor G, Tensor q, Tensor d, Tensor? a, Tensor argmax, bool[3] needs) "
      "-> (Tensor dq, Tensor dd, Tensor da)",
      tags);
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Loading this module registers the ops of the namespace emergence_ext.";
  m.def("build_info", [] { return pybind11::module_::import("json").attr("loads")(kBuildFacts); });
}
