// The threads that complete futures. Code that users attach to a future (Python callbacks, another
// collective) runs here, never on the engine's thread.
//
// A callback may wait for another future, as torch's PowerSGD hook does, and must not keep the
// others from running. So a new thread starts when every thread is busy, up to kMaxThreads.
// Ownership: one object per process, never destroyed. Thread safety: any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>

#include "base/clock.h"

namespace fastgpu {

class CallbackThreads {
 public:
  static CallbackThreads& shared();
  CallbackThreads(const CallbackThreads&) = delete;
  CallbackThreads& operator=(const CallbackThreads&) = delete;

  // Starts the first thread, before the first post(). Raises OutOfResourcesError.
  void start();
  // Runs `callback` on one of the threads. Exceptions that it throws are logged.
  void post(std::function<void()> callback);
  // Waits until everything that was posted has run, but not past the deadline. After that no
  // callback starts, and none is destroyed, because both may need Python.
  void stop(TimeNs deadline);

 private:
  static constexpr std::size_t kMaxThreads = 64;

  explicit CallbackThreads(int made_at_fork) : made_at_fork_(made_at_fork) {}
  void add_thread();
  void run();

  const int made_at_fork_;
  std::mutex mutex_;  // guards all below
  std::condition_variable posted_;
  std::condition_variable all_idle_;
  std::deque<std::function<void()>> queue_;
  std::size_t idle_ = 0;
  std::size_t threads_ = 0;
  bool stopped_ = false;
};

}  // namespace fastgpu
