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

namespace fastgpu {

class CallbackThreads {
 public:
  static CallbackThreads& shared();
  CallbackThreads(const CallbackThreads&) = delete;
  CallbackThreads& operator=(const CallbackThreads&) = delete;

  // Runs `callback` on one of the threads. Exceptions that it throws are logged.
  void post(std::function<void()> callback);

 private:
  static constexpr std::size_t kMaxThreads = 64;

  CallbackThreads() = default;
  void run();

  std::mutex mutex_;  // guards all below
  std::condition_variable posted_;
  std::deque<std::function<void()>> queue_;
  std::size_t idle_ = 0;
  std::size_t threads_ = 0;
};

}  // namespace fastgpu
