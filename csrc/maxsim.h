// maxsim: T[i, j] = sum_r a[j, r] * max_s <q[j, r], d[i, s]>
//
//   q      [N, R, D]  scored regions                 any strides
//   d      [B, S, D]  conditioning regions           any strides, S >= 1, D >= 1
//   a      [N, R]     weights of the scored regions  any strides, absent for ones
//   T      [B, N]     scores
//   argmax [B, N, R]  the matching s of every region; int64, or compact uint8 for S <= 256, else
//   int32
//
// Types: float32 and float64 are computed as they are; bfloat16 and float16 become float32 before
// the first product, and T is then float32.
// Ties: the lowest s. Maxima start at minus infinity. A NaN among the products of a region is its
// maximum, at its lowest s, so that no T it touches looks plausible.
// Empty: N = 0 or B = 0 give empty results, R = 0 gives zeros.
// Determinism: every sum has one owner and one order, so that the bits depend on the inputs and the
// instruction set alone, not on the number of threads or the size of a block.
// Precision: "highest" and "high" are float32 arithmetic on the CPU, where three bfloat16 products
// cost more than one of float32. "medium" selects the match by bfloat16 products where the machine
// has them (AVX512_BF16) and D is at least 64, and gives the float32 product of that match: below
// the true maximum by at most 2^-6 sum_k |q_k d_k|, twice the error of a product whose factors are
// rounded to bfloat16, and 2^-126 for each product that is smaller. bfloat16 inputs of that width
// take the same products, which are then exact, at any precision.
// Gradients, from argmax and G = dL/dT [B, N]; argmax itself is not differentiable:
//   u[j, r] = sum_i G[i, j] d[i, argmax[i, j, r]]    dq = a u    da = <q, u>
//   dd[i, s] = sum over (j, r) with argmax[i, j, r] = s of G[i, j] a[j, r] q[j, r]
#pragma once

#include <cstdint>

namespace emergence_ext {

constexpr int64_t kCompactLimit = 256;  // largest S whose argmax fits uint8

}  // namespace emergence_ext
