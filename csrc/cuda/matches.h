// Reading and writing matches in their compact types.
#pragma once

#include "device.h"
#include "matching.h"

namespace emergence_ext::cuda {

__device__ __forceinline__ int read_match(const Matches& m, int64_t at) {
  if (m.size == 1) return static_cast<const uint8_t*>(m.data)[at];
  if (m.size == 4) return static_cast<const int32_t*>(m.data)[at];
  return static_cast<int>(static_cast<const int64_t*>(m.data)[at]);
}

__device__ __forceinline__ void write_match(const Matches& m, int64_t at, int place) {
  if (m.size == 1)
    static_cast<uint8_t*>(m.data)[at] = static_cast<uint8_t>(place);
  else if (m.size == 4)
    static_cast<int32_t*>(m.data)[at] = place;
  else
    static_cast<int64_t*>(m.data)[at] = place;
}

}  // namespace emergence_ext::cuda
