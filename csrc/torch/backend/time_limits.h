// The time that addEphemeralTimeout() adds to the time-outs of later calls. An addition ends when
// the first call after it ends.
// Ownership: shared by the backend and its calls in flight. Thread safety: all calls, any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace fastgpu {

class ExtraTime {
 public:
  void add(int64_t extra_ms) {
    const std::lock_guard lock(mutex_);
    active_ms_ += extra_ms;
  }
  // To be added to the time-out of a new call.
  int64_t active_ms() const { return active_ms_.load(std::memory_order_relaxed); }

  // Returns the time that was added since the last call. Each new call takes this, and its end
  // calls give_back() with the result.
  int64_t take() {
    if (active_ms() == 0) return 0;
    const std::lock_guard lock(mutex_);
    const int64_t taken_ms = active_ms_ - taken_ms_;
    taken_ms_ += taken_ms;
    return taken_ms;
  }
  void give_back(int64_t taken_ms) {
    const std::lock_guard lock(mutex_);
    active_ms_ -= taken_ms;
    taken_ms_ -= taken_ms;
  }

 private:
  std::mutex mutex_;                   // held by all that write
  std::atomic<int64_t> active_ms_{0};  // what was added and has not ended
  int64_t taken_ms_ = 0;               // the part of it that ends with a call in flight
};

}  // namespace fastgpu
