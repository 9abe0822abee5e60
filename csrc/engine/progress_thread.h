// The engine's own thread: it stands by while callers run the engine themselves, and takes over
// where nobody does. It can be called at once; or asked to watch, for what its caller may well wait
// for soon: it looks after a delay, and takes over if nobody has run the engine meanwhile. So a
// thread that issues and waits pays for no thread switch: it only sets a timer, and not each time.
//
// Invariant: it never sleeps for good without a look after the last watch() or call(). Both write
// state_, and so does it before it sleeps: the later one sees what the earlier one wrote.
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
  enum class Next : uint8_t { kPollAgain, kSleep };  // after the delay; when asked
  // The thread's turn; `called`: somebody wants it to take over.
  using Turn = std::function<Next(bool called)>;

  explicit ProgressThread(Turn turn);
  ~ProgressThread();
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;

  // Before anything is asked of it. Raises what a thread that cannot be started raises.
  void start();
  // True: it was asleep, and will look after the delay. Else it will look soon anyway.
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
