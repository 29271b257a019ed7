// What the library of the ops offers beside them, for the module that hands it to Python.
#pragma once

#include <cstdint>

#define EMERGENCE_OFFERED __attribute__((visibility("default")))

namespace emergence_ext {

// What the build recorded, as JSON.
EMERGENCE_OFFERED const char* build_facts();

constexpr int kMostInstructionSets = 5;

// Levels of cpu/kernels.h: their names, lowest first, of which it returns the number; the one in
// use; a switch to another, false where there is no such level here.
EMERGENCE_OFFERED int instruction_sets(const char* names[kMostInstructionSets]);
EMERGENCE_OFFERED const char* instruction_set();
EMERGENCE_OFFERED bool use_instruction_set(const char* name);

// The ways of cuda/paths.h that a device may take, a bit for each.
EMERGENCE_OFFERED void allow_cuda_ways(int device, uint32_t ways);

}  // namespace emergence_ext
