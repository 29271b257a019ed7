// The module _C: what is no op. It is of one Python and of any torch, which it does not know.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../cuda/paths.h"
#include "../library.h"

namespace {

std::vector<std::string> instruction_sets() {
  const char* names[emergence_ext::kMostInstructionSets];
  const int count = emergence_ext::instruction_sets(names);
  return {names, names + count};
}

void allow_cuda_ways(int device, const std::vector<std::string>& names) {
  using namespace emergence_ext::cuda;
  Ways allowed = 0;
  for (const auto& name : names) {
    const auto* const found = std::find(kWays.begin(), kWays.end(), name);
    if (found == kWays.end()) throw pybind11::value_error("there is no way '" + name + "'");
    allowed |= bit(static_cast<Way>(found - kWays.begin()));
  }
  emergence_ext::allow_cuda_ways(device, allowed);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "What the library of the ops tells about itself, and its switches.";
  m.def("build_info", [] {
    return pybind11::module_::import("json").attr("loads")(emergence_ext::build_facts());
  });
  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", &emergence_ext::instruction_set);
  m.def("use_instruction_set", &emergence_ext::use_instruction_set);
  m.def("allow_cuda_ways", &allow_cuda_ways);
}
