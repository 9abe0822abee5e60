// Reduces the cost of cache lines that move between cores.
// Thread safety: pure functions.
#pragma once

#include <cstddef>

namespace fastgpu {

inline constexpr std::size_t kLineBytes = 64;

// Fetches the lines for writing, in the background. Without this hint, a store to a line that
// another core has read must wait until the line is exclusive, which takes as long as moving it.
// Never faults.
inline void prefetch_to_write(std::byte* memory, std::size_t size_bytes) noexcept {
  for (std::size_t at = 0; at < size_bytes; at += kLineBytes) {
#if defined(__x86_64__)
    // With gcc, __builtin_prefetch only reads unless the target has PREFETCHW. Processors that lack
    // the instruction ignore it.
    asm volatile("prefetchw %0" : : "m"(memory[at]));
#else
    __builtin_prefetch(memory + at, 1);
#endif
  }
}

// True on AMD processors: when a core reads a line that another core wrote, the line stays Owned by
// the writer. Rewriting the line then costs the owner 7 to 27 ns, for one line after another, and a
// prefetch does not help.
bool lines_stay_owned() noexcept;

// Writes each line without changing the content. The line is then modified in this core's cache,
// and the next core to write the line gets it at full speed. For a reader of lines that no other
// thread uses meanwhile.
inline void rewrite_lines(std::byte* memory, std::size_t size_bytes) noexcept {
  volatile std::byte* const lines = memory;
  for (std::size_t at = 0; at < size_bytes; at += kLineBytes) lines[at] = lines[at];
}

}  // namespace fastgpu
