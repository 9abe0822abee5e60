#include "kernels/cpu/variant.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastgpu::cpu {
namespace {

constexpr std::array<std::string_view, 4> kNames{"base", "avx2", "avx512", "avx512fp16"};

#if defined(__x86_64__)
// Not by __builtin_cpu_supports, because some compilers do not know the name; likewise below.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// The caller checks AVX-512 F, which implies that the system saves the registers.
bool has_avx512fp16() {
  constexpr unsigned kAvx512Fp16 = 1u << 23;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAvx512Fp16) != 0;
}
#endif

}  // namespace

std::vector<const Variant*> usable_variants() {
  std::vector<const Variant*> usable{&kBaseVariant};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
    return usable;
  usable.push_back(&kAvx2Variant);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    usable.push_back(&kAvx512Variant);
  const bool has_avx512 = usable.back() == &kAvx512Variant;
  if (kAvx512Fp16Variant != nullptr && has_avx512 && has_avx512fp16())
    usable.push_back(kAvx512Fp16Variant);
#endif
  return usable;
}

const Variant& choose_variant(const char* wanted) {
  const std::vector<const Variant*> usable = usable_variants();
  if (wanted == nullptr || *wanted == '\0') return *usable.back();
  for (std::size_t level = 0; level < kNames.size(); ++level) {
    if (kNames[level] == wanted) return *usable[std::min(level, usable.size() - 1)];
  }
  raise(ErrorKind::kInvalidArgument,
        "FASTGPU_SIMD is '" + std::string(wanted) +
            "', which is not allowed; set it to: avx512fp16, avx512, avx2, base");
}

const Variant& active_variant() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing of this library writes the environment
  static const Variant& chosen = choose_variant(std::getenv("FASTGPU_SIMD"));
  return chosen;
}

}  // namespace fastgpu::cpu
