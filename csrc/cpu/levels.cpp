// Which level of instruction set runs.

#include <cstring>

#include "../library.h"
#include "kernels.h"

namespace emergence_ext::cpu {
namespace {

struct Levels {
  Level all[kMostInstructionSets];
  int count = 0;
  Level used;
};

Levels find() {
  Levels here;
  const auto add = [&](const char* name, const Kernels<float>* kernels,
                       const Screen* bytes = nullptr, const Screen* pairs = nullptr) {
    here.all[here.count++] = {name, kernels, bytes, pairs};
  };
  add("generic", &generic_float32);
#if defined(__x86_64__)
  // These ask the operating system as well, whether it keeps the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool bytes = avx512 && __builtin_cpu_supports("avx512vnni");
  if (avx2) add("avx2", avx2_float32());
  if (avx512) add("avx512", avx512_float32());
  if (bytes) add("avx512_vnni", avx512_float32(), avx512_bytes());
  if (bytes && __builtin_cpu_supports("avx512bf16"))
    add("avx512_bf16", avx512_float32(), avx512_bytes(), avx512_pairs());
#endif
  here.used = here.all[here.count - 1];
  return here;
}

Levels& state() {
  static Levels here = find();
  return here;
}

}  // namespace

const Level& level() { return state().used; }

int levels(const char* names[]) {
  const Levels& here = state();
  for (int x = 0; x < here.count; ++x) names[x] = here.all[x].name;
  return here.count;
}

bool use_level(const char* name) {
  Levels& here = state();
  for (int x = 0; x < here.count; ++x)
    if (std::strcmp(here.all[x].name, name) == 0) {
      here.used = here.all[x];
      return true;
    }
  return false;
}

}  // namespace emergence_ext::cpu
