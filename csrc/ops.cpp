// The library: its ops, and what it tells about its build.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "build_facts.h"
#include "cpu/kernels.h"
#include "cuda/paths.h"
#include "schemas.h"

TORCH_LIBRARY(emergence_ext, m) {
  m.set_python_module("emergence_ext.ops.registration");
  emergence_ext::define_ops(m);
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
  m.def("allow_cuda_ways", [](int device, const std::vector<std::string>& names) {
    using namespace emergence_ext::cuda;
    Ways allowed = 0;
    for (const auto& name : names) {
      const auto* const found = std::find(kWays.begin(), kWays.end(), name);
      if (found == kWays.end()) throw pybind11::value_error("there is no way '" + name + "'");
      allowed |= bit(static_cast<Way>(found - kWays.begin()));
    }
    allowed_ways(device) = allowed;
  });
}
