// One operation's completion: once, ok or with a Failure.
// Ownership: shared by the operation and everyone who asks. Thread safety: all calls, any thread;
// completion publishes everything the operation wrote (release/acquire on state_).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/error.h"

namespace fastgpu {

class Work {
 public:
  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  bool done() const noexcept { return (state_.load(std::memory_order_acquire) & kDone) != 0; }
  // Of a done work.
  bool ok() const noexcept { return (state_.load(std::memory_order_acquire) & kFailed) == 0; }
  const Failure& failure() const noexcept { return failure_; }
  void raise_if_failed() const {
    if (!ok()) raise(failure_);
  }

  // Sleeps until done or the deadline. Does not help: Engine::wait does.
  void sleep_until_done(TimeNs deadline) noexcept;

  // Called once when done, on the completing thread (or here and now when it is done already): keep
  // it short and never block in it. For a receive from any source, source() is known by then.
  void on_done(std::function<void()> callback);

  void complete() noexcept;
  void fail(Failure failure) noexcept;
  // Makes a work that is done and was ok new again; only for its sole owner.
  void renew() noexcept;

  // The rank a receive from any source got its message from.
  int source() const noexcept { return source_.load(std::memory_order_relaxed); }
  void set_source(int rank) noexcept { source_.store(rank, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kDone = 1;
  static constexpr uint32_t kFailed = 2;
  static constexpr uint32_t kSleepers = 4;

  void finish(uint32_t flags) noexcept;

  std::atomic<uint32_t> state_{0};
  std::atomic<int> source_{kNoRank};
  Failure failure_;  // written before kFailed is set, constant after
  std::atomic<bool> has_callbacks_{false};
  std::mutex mutex_;  // guards callbacks_
  std::vector<std::function<void()>> callbacks_;
};

// One that is done and ok, for all that are; nobody owns it.
std::shared_ptr<Work> done_work();

}  // namespace fastgpu
