// The first failure of a communicator. Its queues share one latch: once the latch holds a failure,
// every queue fails everything pending with it and refuses every later call.
//
// Invariants:
//  1. The latch takes the first failure that is reported, and keeps it for ever.
//  2. `on_first` has returned before any thread sees the failure: by the time an operation fails,
//     the peers have been told why.
//  3. After report() or close() has returned, on_first does not run any more.
// Ownership: shared by the communicator, its queues and its channels. Thread safety: all calls, any
// thread; on_first runs with the mutex held, so neither it nor its callees may call report() or
// close(). Another thread may; it waits until on_first has returned.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/error.h"

namespace fastgpu {

class FailureLatch {
 public:
  // Called once, by the thread that reports the first failure. Completes the failure's text and
  // stops the communicator.
  using OnFirst = std::function<void(Failure&)>;

  explicit FailureLatch(OnFirst on_first = {}) : on_first_(std::move(on_first)) {}
  FailureLatch(const FailureLatch&) = delete;
  FailureLatch& operator=(const FailureLatch&) = delete;

  // Latches the failure, unless there is one already.
  void report(Failure failure);
  // Like report(), for an orderly end: on_first does not run.
  void close(Failure failure);

  // nullptr if there is none so far. The pointer is valid as long as the latch.
  const Failure* failure() const noexcept { return latched_.load(std::memory_order_acquire); }
  void raise_if_failed() const {
    if (const Failure* first = failure()) raise(*first);
  }

 private:
  void latch(Failure failure, const OnFirst& on_first);

  const OnFirst on_first_;
  std::mutex mutex_;                      // held while a failure is latched
  std::unique_ptr<const Failure> first_;  // guarded by mutex_, constant once set
  std::atomic<const Failure*> latched_{nullptr};
};

// The failure of an operation that was pending when the latch took `first`: the same failure with
// the operation's name and number. The text names that operation if it is not the one of `first`.
Failure failure_for(const Failure& first, std::string_view op, int64_t sequence = -1);

}  // namespace fastgpu
