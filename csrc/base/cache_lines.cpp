#include "base/cache_lines.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastgpu {
namespace {

bool is_of_amd_descent() noexcept {
#if defined(__x86_64__)
  unsigned highest = 0;
  char vendor[12];
  if (__get_cpuid(0, &highest, reinterpret_cast<unsigned*>(vendor),
                  reinterpret_cast<unsigned*>(vendor + 8),
                  reinterpret_cast<unsigned*>(vendor + 4)) == 0) {
    return false;
  }
  return std::memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0 ||
         std::memcmp(vendor, "HygonGenuine", sizeof vendor) == 0;
#else
  return false;
#endif
}

}  // namespace

bool lines_stay_owned() noexcept {
  static const bool owned = is_of_amd_descent();
  return owned;
}

}  // namespace fastgpu
