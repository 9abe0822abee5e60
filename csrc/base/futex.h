// Sleep on a 32-bit word until another thread of this process changes it.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>

#include "base/clock.h"

namespace fastgpu {

// Sleeps while `word` holds `expected`, until a wake or `deadline`; may return early for no reason.
inline void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, TimeNs deadline) {
  timespec timeout{};
  timespec* limit = nullptr;
  if (deadline != kNever) {
    const TimeNs left = deadline - now_ns();
    if (left <= 0) return;
    timeout = {.tv_sec = left / kSecond, .tv_nsec = left % kSecond};
    limit = &timeout;
  }
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, limit,
            nullptr, 0);
}

inline void futex_wake_all(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr,
            nullptr, 0);
}

}  // namespace fastgpu
