// The threads that complete futures, so that what users chain to one (Python, another collective)
// never runs on the engine's thread.
//
// A callback may wait for another future (torch's PowerSGD hook does), so one that blocks must not
// keep the others from running: there is always a thread for what is posted, up to kMaxThreads
// blocked ones. Ownership: one for the process, never destroyed.
// Thread safety: any thread.
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

  // Runs `callback` on one of the threads; what it throws is logged.
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
