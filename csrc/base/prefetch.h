// Asks for cache lines that are about to be written.
#pragma once

#include <cstddef>

namespace fastgpu {

// Takes the lines for this core's own, in the background: else a store to a line that another core
// has read must first take it back, which takes as long as to send it. A hint that never faults.
inline void prefetch_to_write(std::byte* memory, std::size_t size_bytes) noexcept {
  constexpr std::size_t kLineBytes = 64;
  for (std::size_t at = 0; at < size_bytes; at += kLineBytes) {
#if defined(__x86_64__)
    // gcc makes __builtin_prefetch a read where the target has no PREFETCHW, which is no more than
    // an operation that does nothing on processors that lack it.
    asm volatile("prefetchw %0" : : "m"(memory[at]));
#else
    __builtin_prefetch(memory + at, 1);
#endif
  }
}

}  // namespace fastgpu
