// arithmetic.h for the tests, by ctypes.

#include "arithmetic.h"

using namespace emergence_ext::cuda;

extern "C" {

void arithmetic_to_bfloat16(const uint32_t* bits, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bits_to_bfloat16(bits[i]);
}

int arithmetic_swizzled(int row, int piece) { return swizzled(row, piece); }

int arithmetic_block_length(int64_t S) { return block_length(S); }

// The best of `count` values: shares of `length` neighbours follow one another, and are joined in
// the order of `shares`.
int arithmetic_best(const float* values, int count, int length, const int* shares, float* value) {
  Best<float> best;
  for (int i = 0; i * length < count; ++i) {
    Best<float> share;
    const int begin = shares[i] * length;
    share.place = begin;
    for (int s = begin; s < begin + length && s < count; ++s) share.follow(values[s], s);
    if (i == 0)
      best = share;
    else
      best.join(share.value, share.place);
  }
  *value = best.value;
  return best.place;
}
}
