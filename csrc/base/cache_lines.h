// What it costs that a cache line goes from core to core, and how to make it cost less.
// Thread safety: pure functions; lines_stay_owned() looks once.
#pragma once

#include <cstddef>

namespace fastgpu {

inline constexpr std::size_t kLineBytes = 64;

// Takes the lines for this core's own, in the background: else a store to a line that another core
// has read must first take it back, which takes as long as to send it. A hint that never faults.
inline void prefetch_to_write(std::byte* memory, std::size_t size_bytes) noexcept {
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

// Whether a line that one core has written stays that core's when others read it (the state "owned"
// of AMD's processors). It is passed on without a way to memory; but to write it again takes its
// owner 7 to 27 ns a line, one after another, and no prefetch helps.
bool lines_stay_owned() noexcept;

// Writes to each line what it holds, so that it is this core's, from which its next writer gets it
// as fast as any other. For readers of lines that nobody else touches meanwhile.
inline void take_over(std::byte* memory, std::size_t size_bytes) noexcept {
  volatile std::byte* const lines = memory;
  for (std::size_t at = 0; at < size_bytes; at += kLineBytes) lines[at] = lines[at];
}

}  // namespace fastgpu
