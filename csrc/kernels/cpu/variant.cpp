#include "kernels/cpu/variant.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

namespace fastgpu::cpu {
namespace {

constexpr std::array<std::string_view, 3> kNames{"base", "avx2", "avx512"};

}  // namespace

std::vector<const Variant*> usable_variants() {
  std::vector<const Variant*> usable{&kBaseVariant};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c"))
    return usable;
  usable.push_back(&kAvx2Variant);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    usable.push_back(&kAvx512Variant);
#endif
  return usable;
}

const Variant& choose(const char* wanted) {
  const std::vector<const Variant*> usable = usable_variants();
  if (wanted == nullptr || *wanted == '\0') return *usable.back();
  for (std::size_t level = 0; level < kNames.size(); ++level) {
    if (kNames[level] == wanted) return *usable[std::min(level, usable.size() - 1)];
  }
  raise(ErrorKind::kInvalidArgument,
        "FASTGPU_SIMD is '" + std::string(wanted) + "'; allowed are avx512, avx2 and base");
}

const Variant& in_use() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing of this library writes the environment
  static const Variant& chosen = choose(std::getenv("FASTGPU_SIMD"));
  return chosen;
}

}  // namespace fastgpu::cpu
