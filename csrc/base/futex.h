// Lets a thread sleep until another thread of this process changes a 32-bit word.
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

// Sleeps until a wake or the deadline; returns at once if `word` does not hold `expected`. May also
// return early without a reason.
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
