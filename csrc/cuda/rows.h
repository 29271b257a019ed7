// Rows that are gathered one here, one there, in the type that they are stored in: a gather is
// bound by the bytes that it moves. Their arithmetic is in float32, or in double.
#pragma once

#include <type_traits>

#include "arithmetic.h"
#include "device.h"
#include "matching.h"

namespace emergence_ext::cuda {

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <typename stored>
struct Rows {
  const stored *q, *d;
  int64_t width;  // entries from one row to the next: D, or more and even in 16 bits
};

template <typename rows>
using stored_of = std::remove_const_t<std::remove_pointer_t<decltype(std::decay_t<rows>::q)>>;

// Calls run(Rows<stored>) with the rows as they are stored.
template <typename function>
int by_stored(const Halves& halves, function run) {
  if (halves.float16)
    return run(Rows<Float16>{reinterpret_cast<const Float16*>(halves.q),
                             reinterpret_cast<const Float16*>(halves.d), halves.width});
  return run(Rows<Bfloat16>{reinterpret_cast<const Bfloat16*>(halves.q),
                            reinterpret_cast<const Bfloat16*>(halves.d), halves.width});
}

template <typename scalar, typename function>
int by_stored(const Problem<scalar>& p, function run) {
  if constexpr (sizeof(scalar) == sizeof(float)) {
    if (p.halves.d) return by_stored(p.halves, run);
  }
  return run(Rows<scalar>{p.q, p.d, p.D});
}

__device__ __forceinline__ float number(float x) { return x; }
__device__ __forceinline__ double number(double x) { return x; }
__device__ __forceinline__ float number(Float16 x) { return from_float16(x.bits); }
__device__ __forceinline__ float number(Bfloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

template <typename scalar>
struct alignas(2 * sizeof(scalar)) Pair {
  scalar x[2];
};

// Two entries as they are stored: one word where they are of 16 bits, the first of them the lower.
template <typename stored>
using Packed = std::conditional_t<sizeof(stored) == 2, uint32_t, Pair<stored>>;

template <typename stored>
__device__ __forceinline__ auto unpack(const Packed<stored>& x) {
  if constexpr (std::is_same_v<stored, Bfloat16>)
    return Pair<float>{__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)};
  else if constexpr (std::is_same_v<stored, Float16>)
    return Pair<float>{from_float16(static_cast<uint16_t>(x)),
                       from_float16(static_cast<uint16_t>(x >> 16))};
  else
    return x;
}

// Neighbours in memory. `second` says whether there are two; else the second is zero, as what rows
// of 16 bits are filled up with: they are always there, and aligned.
template <typename stored>
__device__ __forceinline__ auto read_pair(const stored* at, bool second) {
  if constexpr (sizeof(stored) == 2)
    return unpack<stored>(*reinterpret_cast<const uint32_t*>(at));
  else
    return Pair<stored>{at[0], second ? at[1] : 0};
}

}  // namespace emergence_ext::cuda
