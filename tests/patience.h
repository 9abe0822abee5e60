// How long a test waits for what should happen soon. Long, so that a busy machine does not fail it.
#pragma once

#include <poll.h>

#include <chrono>
#include <thread>

#include "base/clock.h"

namespace fastgpu::test {

inline constexpr TimeNs kPatience = 60 * kSecond;

// Whether `condition` holds within kPatience.
template <typename Condition>
bool comes_true(Condition condition) {
  for (const TimeNs end = now_ns() + kPatience; now_ns() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return false;
}

// Whether `socket` has one of `events` (of poll) within kPatience.
inline bool is_ready(int socket, short events) {
  pollfd wanted{.fd = socket, .events = events, .revents = 0};
  return ::poll(&wanted, 1, static_cast<int>(kPatience / kMillisecond)) == 1;
}

}  // namespace fastgpu::test
