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

// A timeout in nanoseconds; a negative one, or one of centuries, is kNever.
inline TimeNs ns_of_ms(int64_t timeout_ms) {
  return timeout_ms < 0 || timeout_ms > kNever / kMillisecond / 2 ? kNever
                                                                  : timeout_ms * kMillisecond;
}

// The point `timeout_ms` from now.
inline TimeNs deadline_after_ms(int64_t timeout_ms) {
  const TimeNs timeout_ns = ns_of_ms(timeout_ms);
  return timeout_ns == kNever ? kNever : now_ns() + timeout_ns;
}

}  // namespace fastgpu
