#include "base/cache_lines.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastgpu {
namespace {

bool is_amd() noexcept {
#if defined(__x86_64__)
  unsigned highest = 0;
  std::array<unsigned, 3> vendor{};  // 12 characters
  if (__get_cpuid(0, &highest, &vendor[0], &vendor[2], &vendor[1]) == 0) return false;
  return std::memcmp(vendor.data(), "AuthenticAMD", sizeof vendor) == 0 ||
         std::memcmp(vendor.data(), "HygonGenuine", sizeof vendor) == 0;
#else
  return false;
#endif
}

}  // namespace

bool lines_stay_owned() noexcept {
  static const bool owned = is_amd();
  return owned;
}

}  // namespace fastgpu
