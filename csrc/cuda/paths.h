// The ways to match on a GPU, which one rows take, and which of them a device may take: at first
// none. The Python layer allows what has proved itself on that very device.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace emergence_ext::cuda {

// The first three are portable: any row takes one of them. The others stand in for `narrow` and
// `planes` where they apply.
enum class Way { narrow, wide, planes, split, hopper };

constexpr std::array<const char*, 5> kWays = {"narrow", "wide", "planes", "split", "hopper"};

using Ways = uint32_t;  // a bit for each

constexpr Ways bit(Way way) { return Ways{1} << static_cast<unsigned>(way); }

constexpr Ways kPortableWays = bit(Way::narrow) | bit(Way::wide) | bit(Way::planes);
constexpr Ways kAllWays = kPortableWays | bit(Way::split) | bit(Way::hopper);

// Rows of a matching: whether they live in registers, how their numbers are held, whether v scales
// them, and whether the match is selected in the type of the arithmetic.
struct RowsOfMatching {
  bool narrow, float64, half, scaled, highest;
};

// As portable_way() of emergence_ext/ops/ways.py.
constexpr Way portable_way(const RowsOfMatching& rows) {
  if (rows.narrow) return Way::narrow;
  if (rows.float64) return Way::wide;
  // The products of 16-bit numbers are exact, unless they are scaled first.
  const bool exact = rows.half && !rows.scaled;
  return exact || !rows.highest ? Way::planes : Way::wide;
}

// What a device may take. Index 0 stands for a tensor without one, as on an emulated device.
inline std::atomic<Ways>& allowed_ways(int device) {
  static std::array<std::atomic<Ways>, 128> allowed{};  // more than torch knows devices
  return allowed.at(static_cast<size_t>(device < 0 ? 0 : device));
}

}  // namespace emergence_ext::cuda
