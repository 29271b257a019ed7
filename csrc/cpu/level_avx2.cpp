// The kernels for AVX2 and FMA. The target holds to the end of the file, where templates are
// compiled.

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define EMERGENCE_AVX2
#include "kernels_impl.h"

namespace emergence_ext::cpu {
namespace {
constexpr Kernels<float> kernels = make_kernels<float>();
}
const Kernels<float>* avx2_float32() { return &kernels; }
}  // namespace emergence_ext::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace emergence_ext::cpu {
const Kernels<float>* avx2_float32() { return nullptr; }
}  // namespace emergence_ext::cpu
#endif
