// How a thread waits for another one: it spins, then yields its core between polls, then sleeps.
// Thread safety: constants and pure functions.
#pragma once

#include "base/clock.h"

namespace fastgpu {

// The least time in which a peer that runs on another core answers: spinning is cheaper than a
// system call until then.
inline constexpr TimeNs kSpinNs = 3 * kMicrosecond;
// After that a peer may be waiting for this very core.
inline constexpr TimeNs kYieldNs = 60 * kMicrosecond;
// The same for ranks that share cores. It is longer than a wake-up takes: otherwise, while one rank
// wakes up, the others would go to sleep, and so on in every call.
inline constexpr TimeNs kSharedCoreYieldNs = 500 * kMicrosecond;
// No thread sleeps longer at a time: some events, such as a reason that never arrives, ring no
// doorbell.
inline constexpr TimeNs kLongestSleepNs = kSecond;

// The one rule for sharing cores: with more threads than cores a waiting thread does not spin,
// since that would keep another one from running. 0 cores: unknown, taken as enough.
constexpr bool oversubscribed(int threads, int cores) noexcept {
  return cores > 0 && threads > cores;
}

// One turn of a spinning loop: leaves the core's other hardware thread its share.
inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

}  // namespace fastgpu
