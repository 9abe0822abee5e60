// Monotonic time. All deadlines in the library are points on this clock, in nanoseconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>

namespace fastgpu {

using TimeNs = int64_t;
inline constexpr TimeNs kNever = std::numeric_limits<TimeNs>::max();
inline constexpr TimeNs kMicrosecond = 1'000;
inline constexpr TimeNs kMillisecond = 1'000'000;
inline constexpr TimeNs kSecond = 1'000'000'000;

inline TimeNs now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The time `timeout_ms` from now; kNever for a negative timeout.
inline TimeNs deadline_after_ms(int64_t timeout_ms) {
  if (timeout_ms < 0 || timeout_ms > kNever / kMillisecond / 2) return kNever;
  return now_ns() + timeout_ms * kMillisecond;
}

}  // namespace fastgpu
