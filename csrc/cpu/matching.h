// Matching and its gradients over many images: work dealt out to torch's threads, scratch per
// thread, no memory that grows with the number of pairs. The contract is in maxsim.h.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.h"
#include "operand.h"

namespace emergence_ext::cpu {

template <typename scalar>
struct Problem {
  Operand q, d;     // or f for q
  const scalar* v;  // [N, D], null unless q[j, r] = v[j] f[j, r]
  const scalar* a;  // [N, R], or [R] for every scored image where `one_a`
  bool one_a;
  scalar empty;  // score of a pair whose conditioning image has no regions
  const Kernels<scalar>* kernels;
  const Screen* screen;  // null where products are of `scalar`
  bool stored;           // whether it takes d as it is stored

  // R and S are the most regions of an image; q and d know how many each has.
  int64_t N() const { return q.images; }
  int64_t R() const { return q.rows; }
  int64_t S() const { return d.rows; }
  int64_t D() const { return q.columns; }
  const scalar* weights(int64_t j) const { return one_a ? a : a + j * R(); }
};

// argmax by the bytes of an entry: 1 for uint8, 4 for int32, 8 for int64 (which gradients don't
// take).
struct Matches {
  char* data;  // [images, N, R], null where nobody asked; 0 for what has no match
  int size;
};

// Gradients are added to, and zero at first; a null pointer is one that nobody asked for.
template <typename scalar>
struct Gradients {
  scalar* dq;  // [N, R, D]
  scalar* dd;  // [B, S, D]
  scalar* da;  // [N, R]
  scalar* dv;  // [N, D]
};

// The largest magnitude in x: infinite or NaN where an entry is.
double largest_magnitude(const Operand& x);

// Sets the level's kernels for these inputs. The vector levels rely on sums that stay finite; where
// sums could overflow, and for float64, the generic level runs, which carries NaN through. The
// largest magnitude of q is that of v f where rows are scaled.
template <typename scalar>
void choose_kernels(Problem<scalar>& problem, const std::string& precision, double largest_q,
                    double largest_d);

// Images [first, last) of d: T [last - first, N], and the matches. Where `largest` is given, it
// becomes the largest magnitude that was read of d, as `largest_magnitude` gives it: each image is
// looked at while it is in a cache, which spares a short q half of the time.
template <typename scalar>
void match_images(const Problem<scalar>& problem, int64_t first, int64_t last, scalar* T,
                  Matches matches, double* largest = nullptr);

// Pairs (j, i), `count` of them, one after the other: T [count]. `largest` as above.
template <typename scalar>
void match_pairs(const Problem<scalar>& problem, const int64_t* pairs, int64_t count, scalar* T,
                 double* largest);

// The gradients that these images give, from G = dL/dT [last - first, N]. `first` must be a
// multiple of kGroup, so that sums do not depend on how the images are dealt into blocks.
template <typename scalar>
void add_gradients(const Problem<scalar>& problem, int64_t first, int64_t last, const scalar* G,
                   Matches matches, const Gradients<scalar>& out);

// Bytes of scratch that the functions above use at once, over all threads.
template <typename scalar>
int64_t scratch_bytes(const Problem<scalar>& problem, bool gradients);

}  // namespace emergence_ext::cpu
