// maxsim for any machine. Rows of the scored image lie in the lanes of one vector register, as wide
// as the flags of this file allow; wider vectors than that the compiler keeps in memory, four times
// slower.

#include "maxsim.h"

namespace emergence_ext::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif
constexpr int kCandidates = 8;  // regions s at once: their sums stay in registers

template <typename scalar>
constexpr int kRows =
    kRegisterBytes / static_cast<int>(sizeof(scalar));  // regions r side by side in the lanes

// An index as wide as the scalar lets maximum and index share one mask.
template <typename scalar>
struct Lanes;
template <>
struct Lanes<float> {
  using index = int32_t;
  typedef float values __attribute__((vector_size(kRegisterBytes)));
  typedef index indices __attribute__((vector_size(kRegisterBytes)));
};
template <>
struct Lanes<double> {
  using index = int64_t;
  typedef double values __attribute__((vector_size(kRegisterBytes)));
  typedef index indices __attribute__((vector_size(kRegisterBytes)));
};

template <typename scalar>
int64_t row_blocks(const MaxSim<scalar>& in) {
  return (in.R + kRows<scalar> - 1) / kRows<scalar>;
}

// q[j] as [row block, D, kRows], the last block filled up with zeros.
template <typename scalar>
void pack_rows(const MaxSim<scalar>& in, int64_t j, scalar* packed) {
  const scalar* q = in.q + j * in.q_stride[0];
  for (int64_t block = 0; block < row_blocks(in); ++block)
    for (int64_t k = 0; k < in.D; ++k)
      for (int lane = 0; lane < kRows<scalar>; ++lane) {
        const int64_t r = block * kRows<scalar> + lane;
        *packed++ = r < in.R ? q[r * in.q_stride[1] + k * in.q_stride[2]] : scalar(0);
      }
}

template <typename scalar>
struct Best {
  typename Lanes<scalar>::values value = {};
  typename Lanes<scalar>::indices where = {};
};

// Takes the regions s .. s + count - 1 into the running maxima of one row block.
template <int count, typename scalar>
inline void take_candidates(const scalar* packed, const scalar* d, const MaxSim<scalar>& in,
                            int64_t s, Best<scalar>& best) {
  using values = typename Lanes<scalar>::values;
  values sum[count] = {};
  for (int64_t k = 0; k < in.D; ++k) {
    values rows;
    __builtin_memcpy(&rows, packed + k * kRows<scalar>, sizeof(rows));
    for (int c = 0; c < count; ++c)
      sum[c] += rows * d[(s + c) * in.d_stride[1] + k * in.d_stride[2]];
  }
  for (int c = 0; c < count; ++c) {
    // Once the maximum is NaN it stays; until then a NaN is taken like a larger value.
    const auto keep = (sum[c] <= best.value) | (best.value != best.value);
    best.value = keep ? best.value : sum[c];
    const typename Lanes<scalar>::indices candidate =
        typename Lanes<scalar>::indices{} + static_cast<typename Lanes<scalar>::index>(s + c);
    best.where = keep ? best.where : candidate;
  }
}

template <typename scalar>
Best<scalar> match_row_block(const MaxSim<scalar>& in, const scalar* packed, const scalar* d) {
  Best<scalar> best;
  best.value -= static_cast<scalar>(__builtin_inf());
  int64_t s = 0;
  for (; s + kCandidates <= in.S; s += kCandidates)
    take_candidates<kCandidates>(packed, d, in, s, best);
  for (; s < in.S; ++s) take_candidates<1>(packed, d, in, s, best);
  return best;
}

}  // namespace

template <typename scalar>
int64_t scratch_bytes(const MaxSim<scalar>& in) {
  return row_blocks(in) * kRows<scalar> * in.D * static_cast<int64_t>(sizeof(scalar));
}

template <typename scalar, typename index>
void maxsim_pairs(const MaxSim<scalar>& in, int64_t first, int64_t last, void* scratch, scalar* T,
                  index* argmax) {
  scalar* packed = static_cast<scalar*>(scratch);
  int64_t packed_image = -1;
  for (int64_t p = first; p < last; ++p) {
    const int64_t j = p / in.B, i = p % in.B;
    if (j != packed_image) pack_rows(in, j, packed);
    packed_image = j;
    scalar score = 0;
    for (int64_t block = 0; block < row_blocks(in); ++block) {
      const auto best =
          match_row_block(in, packed + block * in.D * kRows<scalar>, in.d + i * in.d_stride[0]);
      for (int lane = 0; lane < kRows<scalar> && block * kRows<scalar> + lane < in.R; ++lane) {
        const int64_t r = block * kRows<scalar> + lane;
        score += in.a ? in.a[j * in.a_stride[0] + r * in.a_stride[1]] * best.value[lane]
                      : best.value[lane];
        if (argmax) argmax[(i * in.N + j) * in.R + r] = static_cast<index>(best.where[lane]);
      }
    }
    T[i * in.N + j] = score;
  }
}

template <typename scalar, typename index>
void maxsim_grad_scored(const MaxSimGrad<scalar, index>& grad, int64_t first, int64_t last,
                        scalar* u) {
  const MaxSim<scalar>& in = grad.in;
  for (int64_t j = first; j < last; ++j)
    for (int64_t r = 0; r < in.R; ++r) {
      for (int64_t k = 0; k < in.D; ++k) u[k] = 0;
      for (int64_t i = 0; i < in.B; ++i) {
        const scalar g = grad.G[i * in.N + j];
        const int64_t s = grad.argmax[(i * in.N + j) * in.R + r];
        const scalar* d = in.d + i * in.d_stride[0] + s * in.d_stride[1];
        for (int64_t k = 0; k < in.D; ++k) u[k] += g * d[k * in.d_stride[2]];
      }
      const scalar a = in.a ? in.a[j * in.a_stride[0] + r * in.a_stride[1]] : scalar(1);
      const scalar* q = in.q + j * in.q_stride[0] + r * in.q_stride[1];
      scalar product = 0;
      for (int64_t k = 0; k < in.D; ++k) {
        product += q[k * in.q_stride[2]] * u[k];
        if (grad.dq) grad.dq[(j * in.R + r) * in.D + k] = a * u[k];
      }
      if (grad.da) grad.da[j * in.R + r] = product;
    }
}

template <typename scalar, typename index>
void maxsim_grad_conditioning(const MaxSimGrad<scalar, index>& grad, int64_t first, int64_t last) {
  const MaxSim<scalar>& in = grad.in;
  for (int64_t i = first; i < last; ++i) {
    scalar* dd = grad.dd + i * in.S * in.D;
    for (int64_t x = 0; x < in.S * in.D; ++x) dd[x] = 0;
    for (int64_t j = 0; j < in.N; ++j)
      for (int64_t r = 0; r < in.R; ++r) {
        const scalar a = in.a ? in.a[j * in.a_stride[0] + r * in.a_stride[1]] : scalar(1);
        const scalar weight = grad.G[i * in.N + j] * a;
        const int64_t s = grad.argmax[(i * in.N + j) * in.R + r];
        const scalar* q = in.q + j * in.q_stride[0] + r * in.q_stride[1];
        for (int64_t k = 0; k < in.D; ++k) dd[s * in.D + k] += weight * q[k * in.q_stride[2]];
      }
  }
}

#define EMERGENCE_INSTANTIATE(scalar, index)                                                     \
  template void maxsim_pairs(const MaxSim<scalar>&, int64_t, int64_t, void*, scalar*, index*);   \
  template void maxsim_grad_scored(const MaxSimGrad<scalar, index>&, int64_t, int64_t, scalar*); \
  template void maxsim_grad_conditioning(const MaxSimGrad<scalar, index>&, int64_t, int64_t);
EMERGENCE_INSTANTIATE(float, uint8_t)
EMERGENCE_INSTANTIATE(float, int32_t)
EMERGENCE_INSTANTIATE(double, uint8_t)
EMERGENCE_INSTANTIATE(double, int32_t)
#undef EMERGENCE_INSTANTIATE
template int64_t scratch_bytes(const MaxSim<float>&);
template int64_t scratch_bytes(const MaxSim<double>&);

}  // namespace emergence_ext::cpu
