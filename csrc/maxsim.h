// maxsim: T[i, j] = sum_r a[j, r] * max_s <q[j, r], d[i, s]>
//
//   q      [N, R, D]  scored regions                 any strides
//   d      [B, S, D]  conditioning regions           any strides, S >= 1, D >= 1
//   a      [N, R]     weights of the scored regions  any strides, absent for ones
//   T      [B, N]     scores
//   argmax [B, N, R]  the matching s of every region; uint8 for S <= 256, else int32
//
// Types: float32 and float64 are computed as they are; bfloat16 and float16 become float32 before
// the first product, and T is then float32.
// Ties: the lowest s. Maxima start at minus infinity. A NaN among the products of a region is its
// maximum, at its lowest s, so that no T it touches looks plausible.
// Empty: N = 0 or B = 0 give empty results, R = 0 gives zeros.
// Determinism: every sum has one owner and one order, so the bits depend on the inputs alone, not
// on the number of threads. Products are summed over D in ascending order, regions likewise.
// Gradients, from argmax and G = dL/dT [B, N]; argmax itself is not differentiable:
//   u[j, r] = sum_i G[i, j] d[i, argmax[i, j, r]]    dq = a u    da = <q, u>
//   dd[i, s] = sum over (j, r) with argmax[i, j, r] = s of G[i, j] a[j, r] q[j, r]
//
// This header and the kernels that include it know neither torch nor the standard library's
// templates: a file compiled for one instruction set must not leave inline functions to others.
#pragma once

#include <cstdint>

namespace emergence_ext {

constexpr int64_t kCompactLimit = 256;  // largest S whose argmax fits uint8

// Strides are in elements, in the order of the shapes above. `a` may be null, T is contiguous.
template <typename scalar>
struct MaxSim {
  const scalar* q;
  const scalar* d;
  const scalar* a;
  int64_t q_stride[3];
  int64_t d_stride[3];
  int64_t a_stride[2];
  int64_t N, R, B, S, D;
};

// Gradients are contiguous; a null pointer is one that nobody asked for. G and argmax are
// contiguous.
template <typename scalar, typename index>
struct MaxSimGrad {
  MaxSim<scalar> in;
  const scalar* G;      // [B, N]
  const index* argmax;  // [B, N, R]
  scalar* dq;           // [N, R, D]
  scalar* dd;           // [B, S, D]
  scalar* da;           // [N, R]
};

namespace cpu {

// Bytes of scratch that one call of `maxsim_pairs` needs.
template <typename scalar>
int64_t scratch_bytes(const MaxSim<scalar>& in);

// The pairs p in [first, last), p = j * B + i. `argmax` may be null.
template <typename scalar, typename index>
void maxsim_pairs(const MaxSim<scalar>& in, int64_t first, int64_t last, void* scratch, scalar* T,
                  index* argmax);

// dq and da of the scored images j in [first, last); `u` is scratch, [D].
template <typename scalar, typename index>
void maxsim_grad_scored(const MaxSimGrad<scalar, index>& in, int64_t first, int64_t last,
                        scalar* u);

// dd of the conditioning images i in [first, last).
template <typename scalar, typename index>
void maxsim_grad_conditioning(const MaxSimGrad<scalar, index>& in, int64_t first, int64_t last);

}  // namespace cpu

namespace cuda {

// All pairs; inputs contiguous, `argmax` may be null, `stream` is a cudaStream_t. Returns a
// cudaError_t as an int. Has never run on a GPU.
template <typename scalar, typename index>
int maxsim_portable(const MaxSim<scalar>& in, scalar* T, index* argmax, void* stream);

}  // namespace cuda
}  // namespace emergence_ext
