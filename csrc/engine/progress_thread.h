// The progress thread runs the engine when no caller does. wake() makes it run at once.
// wake_later() makes it check after a delay, and run only if no thread has polled since. Callers
// use wake_later() for work that they are likely to wait for: they pay for a timer at most, not for
// a thread switch.
//
// Invariant: after the last wake() or wake_later() the thread takes a turn before it sleeps for
// good. Both calls write state_, and so does the thread before it sleeps; the later of the two
// writes sees the earlier one.
// Ownership: the engine's. Thread safety: all calls, any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace fastgpu {

class ProgressThread {
 public:
  // The next turn: after the delay, or when woken.
  enum class Next : uint8_t { kPollAgain, kSleep };
  // One turn of the thread; `called`: wake() was called.
  using Turn = std::function<Next(bool called)>;

  explicit ProgressThread(Turn turn);
  ~ProgressThread();
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;

  // Must come before wake() and wake_later(). Raises std::system_error if there is no thread.
  void start();
  // True: the thread slept, and the timer is set now. False: it is awake or the timer was set.
  bool wake_later();
  void wake();
  void set_delay(TimeNs delay) noexcept { delay_.store(delay, std::memory_order_relaxed); }
  TimeNs delay() const noexcept { return delay_.load(std::memory_order_relaxed); }

 private:
  // What state_ holds.
  static constexpr uint32_t kAwake = 0;
  static constexpr uint32_t kAsleep = 1;
  static constexpr uint32_t kTimed = 2;  // asleep, but the timer is set
  static constexpr uint32_t kCalled = 3;

  void run();
  bool fall_asleep();
  void set_timer();

  const Turn turn_;
  const UniqueFd timer_;  // where the thread sleeps
  std::atomic<TimeNs> delay_{0};
  std::atomic<uint32_t> state_{kAsleep};
  std::atomic<bool> watched_{false};
  std::atomic<bool> stopping_{false};
  std::once_flag started_;
  std::thread thread_;
};

}  // namespace fastgpu
