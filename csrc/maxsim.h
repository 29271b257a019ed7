// maxsim: T[i, j] = sum_r a[j, r] * max_s <q[j, r], d[i, s]>
//
//   q      [N, R, D]  scored regions                 any strides
//   d      [B, S, D]  conditioning regions           any strides, S >= 1, D >= 1
//   a      [N, R]     weights of the scored regions  any strides, absent for ones
//   q_lengths [N], d_lengths [B]  int64 or int32, rows of each image that are there, all if absent
//   T      [B, N]     scores
//   argmax [B, N, R]  the matching s of every region; int64, or compact uint8 for S <= 256, else
//   int32
//
// Packed (maxsim_packed, CPU): q [rows, D] and d [rows, D] hold all images one after the other, and
// offsets [images + 1] where each begins; nothing lies between them, and the bits are those of each
// image alone; or d is a list of [rows, D], one for each image, and of another floating type than q
// (float64 with float64 alone). T of all pairs, or of those that are listed. No gradient. d may be
// int8 with a scale
// [rows], which multiplies it. "medium" then selects the match by products of bytes on machines
// with AVX512_VNNI, each row of q rounded to 127 steps of its largest magnitude m, and gives the
// float32 product of that match: below the true maximum by at most m / 127 max_s |scale_s| sum_k
// |d_sk|; a row whose m is below 1e-36 counts as zeros. Else d is float32 there.
// Into (maxsim_indices_into, CPU): argmax is the caller's memory, of uint8 for S <= 256, int32 or
// int64. No gradient.
// Types: float32 and float64 are computed as they are; bfloat16 and float16 become float32 before
// the first product, and T is then float32.
// Ties: the lowest s. Maxima start at minus infinity. A NaN among the products of a region is its
// maximum, at its lowest s, so that no T it touches looks plausible.
// Empty: N = 0 or B = 0 give empty results, R = 0 gives zeros.
// Lengths: rows beyond them are padding, which may hold anything; results are those of the sets
// without it, argmax and gradients of padding are 0. An image of q without rows scores 0, one of d
// without any gives `empty_score` to every pair and has no gradient. The CPU ops do not read
// padding and give the bits of the sets without it; the CUDA ops fill it with rows that change
// nothing. Determinism: every sum has one owner and one order, so that the bits depend on the
// inputs and the instruction set alone (on CUDA the way to match), not on the number of threads or
// the size of a block. Not finite: the CPU ops name the first entry that is not. The CUDA ops,
// which never wait for the device, hand NaN on; P, exclude, argmax and lengths are taken there as
// they come. Precision: "highest" is float32 arithmetic. "medium" selects the match by bfloat16
// products and gives the float32 product of that match: below the true maximum by at most 2^-6
// sum_k |q_k d_k|, twice the error of a product whose factors are rounded to bfloat16, and 2^-126
// for each product that is smaller. "high" does the same with each factor as the sum of two of
// bfloat16 and three of their four products: by at most 2^-14 sum_k |q_k d_k|. Beside these stands
// the rounding of sums. Where that pays: on the CPU "medium" from D = 64 on machines with
// AVX512_BF16, and never "high", as three such products cost more than one of float32; on CUDA both
// from D = 9. 16-bit inputs take such products, which are then exact, at any precision: bfloat16 on
// such a CPU, both types on CUDA. CUDA's way `split` selects narrow float32 rows to D 2^-21 max_k
// |q_k| max_s,k |d_s,k|. Gradients, from argmax and G = dL/dT [B, N]; argmax itself is not
// differentiable:
//   u[j, r] = sum_i G[i, j] d[i, argmax[i, j, r]]    dq = a u    da = <q, u>
//   dd[i, s] = sum over (j, r) with argmax[i, j, r] = s of G[i, j] a[j, r] q[j, r]
#pragma once

#include <cstdint>

namespace emergence_ext {

constexpr int64_t kCompactLimit = 256;  // largest S whose argmax fits uint8

}  // namespace emergence_ext
