// The completion of one operation: it completes once, ok or with a Failure.
// Ownership: shared by the operation and its waiters. Thread safety: all calls, any thread. A
// thread that sees done() also sees everything that the operation wrote (release and acquire on
// state_).
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
  // `timeout_ns` is for messages, whose time runs only during a wait.
  explicit Work(TimeNs timeout_ns = kNever) : timeout_ns_(timeout_ns) {}
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  bool done() const noexcept { return (state_.load(std::memory_order_acquire) & kDone) != 0; }
  // Only meaningful when done.
  bool ok() const noexcept { return (state_.load(std::memory_order_acquire) & kFailed) == 0; }
  const Failure& failure() const noexcept { return failure_; }
  void raise_if_failed() const {
    if (!ok()) raise(failure_);
  }

  // Somebody waits for the work: its time runs from the first call on. Returns its deadline.
  TimeNs start_time() noexcept;
  TimeNs timeout_ns() const noexcept { return timeout_ns_; }
  // kNever: it has no time-out, or its time does not run yet.
  TimeNs deadline() const noexcept { return deadline_.load(); }

  // Sleeps until done or the deadline. Does not poll the engine: Engine::wait does.
  void sleep_until_done(TimeNs deadline) noexcept;

  // Calls `callback` once: on the completing thread, or at once if the work is done. It must be
  // short and must not block. For a receive from any source, source() is known by then.
  void on_done(std::function<void()> callback);

  void complete() noexcept;
  void fail(Failure failure) noexcept;
  // Makes a work that is done and ok new again. Only the sole owner may call it.
  void renew() noexcept;

  // The sender of the message that a receive from any source got.
  int source() const noexcept { return source_.load(std::memory_order_relaxed); }
  void set_source(int rank) noexcept { source_.store(rank, std::memory_order_relaxed); }
  // The time that this rank's CPU spent on encoding and decoding, summed over its threads.
  TimeNs codec_ns() const noexcept { return codec_ns_.load(std::memory_order_relaxed); }
  void add_codec_time(TimeNs ns) noexcept { codec_ns_.fetch_add(ns, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kDone = 1;
  static constexpr uint32_t kFailed = 2;
  static constexpr uint32_t kSleepers = 4;

  void finish(uint32_t flags) noexcept;

  const TimeNs timeout_ns_;
  std::atomic<uint32_t> state_{0};
  std::atomic<int> source_{kNoRank};
  std::atomic<TimeNs> codec_ns_{0};
  std::atomic<TimeNs> deadline_{kNever};
  Failure failure_;  // written before kFailed is set, constant after
  std::atomic<bool> has_callbacks_{false};
  std::mutex mutex_;  // guards callbacks_
  std::vector<std::function<void()>> callbacks_;
};

// A shared Work that is done and ok. Nobody owns it.
std::shared_ptr<Work> done_work();

}  // namespace fastgpu
