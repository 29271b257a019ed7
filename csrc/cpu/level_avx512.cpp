// The kernels for AVX-512 (F, BW, VL, DQ). The target holds to the end of the file, where templates
// are compiled.

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
// The undefined registers of its own header, GCC bug 105593.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define EMERGENCE_AVX512
#include "kernels_impl.h"

namespace emergence_ext::cpu {
namespace {
constexpr Kernels<float> kernels = make_kernels<float>();
}
const Kernels<float>* avx512_float32() { return &kernels; }
}  // namespace emergence_ext::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace emergence_ext::cpu {
const Kernels<float>* avx512_float32() { return nullptr; }
}  // namespace emergence_ext::cpu
#endif
