// Plain arithmetic of the kernels, for the host and the device: which is better, where things lie,
// how numbers are cut.
#pragma once

#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define EMERGENCE_ANYWHERE __host__ __device__ __forceinline__
#else
#define EMERGENCE_ANYWHERE inline
#endif

namespace emergence_ext::cuda {

constexpr int kWarp = 32;

EMERGENCE_ANYWHERE constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
EMERGENCE_ANYWHERE constexpr int64_t round_up(int64_t x, int64_t y) { return ceil_div(x, y) * y; }
EMERGENCE_ANYWHERE constexpr int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
EMERGENCE_ANYWHERE constexpr int64_t larger(int64_t x, int64_t y) { return x > y ? x : y; }

// How many of B conditioning images a block of threads takes one after another: `most`, or fewer
// where that leaves less than `wanted` blocks. `sets` blocks share an image.
EMERGENCE_ANYWHERE constexpr int images_in_turn(int64_t sets, int64_t B, int64_t wanted,
                                                int64_t most) {
  return static_cast<int>(larger(1, smaller(most, sets * B / wanted)));
}

template <typename scalar>
constexpr scalar kLowest = -std::numeric_limits<scalar>::infinity();

// The best product of a region so far, and its candidate. A NaN beats every number, the lowest
// candidate wins a tie.
template <typename scalar>
struct Best {
  scalar value = kLowest<scalar>;
  int place = 0;

  // The next candidate, in ascending order.
  EMERGENCE_ANYWHERE void follow(scalar x, int s) { take(!(x <= value) & (value == value), x, s); }

  // Another share of the candidates, in any order.
  EMERGENCE_ANYWHERE void join(scalar x, int s) {
    const bool nan = value != value, other = x != x;
    const bool first = s < place, equal = (x == value) | (nan & other);
    take(((x > value) & !nan) | (other & !nan) | (equal & first), x, s);
  }

 private:
  EMERGENCE_ANYWHERE void take(bool wins, scalar x, int s) {
    value = wins ? x : value;
    place = wins ? s : place;
  }
};

// x rounded to the nearest bfloat16, ties to even; NaN stays NaN.
EMERGENCE_ANYWHERE uint16_t bits_to_bfloat16(uint32_t bits) {
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The same, but what is finite stays so: the little that rounds to infinity becomes the largest.
EMERGENCE_ANYWHERE uint16_t bits_to_finite_bfloat16(uint32_t bits) {
  const uint16_t rounded = bits_to_bfloat16(bits);
  const bool overflown = (rounded & 0x7fffu) == 0x7f80u && (bits & 0x7fffffffu) < 0x7f800000u;
  return static_cast<uint16_t>(overflown ? rounded - 1 : rounded);
}

// Where 16-byte piece `piece` of a row lies among the eight of a 128-byte row in shared memory, so
// that eight rows read at one piece touch all banks.
EMERGENCE_ANYWHERE constexpr int swizzled(int row, int piece) { return piece ^ (row & 7); }

// Candidates of narrow rows are searched in blocks: the maximum of each is compared once, and the
// winner's is searched again for the place. Of the two lengths the one that leaves less empty.
EMERGENCE_ANYWHERE constexpr int block_length(int64_t S) {
  constexpr int64_t cost_of_block = 1;  // in candidates: a comparison and two moves
  const int64_t seven = ceil_div(S, 7) * (7 + cost_of_block);
  const int64_t fourteen = ceil_div(S, 14) * (14 + cost_of_block);
  return fourteen <= seven ? 14 : 7;
}

}  // namespace emergence_ext::cuda
