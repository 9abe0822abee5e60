// The size of the kernel's memory pages: 4 KiB on x86, up to 64 KiB on ARM.
// Thread safety: pure functions.
#pragma once

#include <unistd.h>

#include <cstddef>

namespace fastgpu {

inline std::size_t page_bytes() noexcept {
  static const auto size_bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size_bytes;
}

}  // namespace fastgpu
