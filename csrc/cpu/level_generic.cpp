// The level that every machine has, and the only one for float64.

#include "kernels_impl.h"

namespace emergence_ext::cpu {

extern const Kernels<float> generic_float32;
extern const Kernels<double> generic_float64;
const Kernels<float> generic_float32 = make_kernels<float>();
const Kernels<double> generic_float64 = make_kernels<double>();

}  // namespace emergence_ext::cpu
