#include "engine/work.h"

#include "base/futex.h"

namespace fastgpu {

TimeNs Work::start_time() noexcept {
  TimeNs deadline = deadline_.load();
  if (deadline != kNever || timeout_ns_ == kNever) return deadline;
  const TimeNs wanted = now_ns() + timeout_ns_;
  return deadline_.compare_exchange_strong(deadline, wanted) ? wanted : deadline;
}

void Work::sleep_until_done(TimeNs deadline) noexcept {
  for (;;) {
    uint32_t state = state_.load(std::memory_order_acquire);
    if ((state & kDone) != 0 || now_ns() >= deadline) return;
    if ((state & kSleepers) == 0 &&
        !state_.compare_exchange_weak(state, state | kSleepers, std::memory_order_acq_rel)) {
      continue;
    }
    futex_wait(state_, state | kSleepers, deadline);
  }
}

void Work::on_done(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    // Sequentially consistent on both sides: either finish() sees the flag, or we see it done.
    has_callbacks_.store(true);
    if ((state_.load() & kDone) == 0) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

void Work::complete() noexcept { finish(kDone); }

void Work::fail(Failure failure) noexcept {
  failure_ = std::move(failure);
  finish(kDone | kFailed);
}

void Work::renew() noexcept {
  state_.store(0, std::memory_order_relaxed);
  source_.store(kNoRank, std::memory_order_relaxed);
  codec_ns_.store(0, std::memory_order_relaxed);
  has_callbacks_.store(false, std::memory_order_relaxed);
}

void Work::finish(uint32_t flags) noexcept {
  const uint32_t before = state_.fetch_or(flags);
  if ((before & kSleepers) != 0) futex_wake_all(state_);
  if (!has_callbacks_.load()) return;
  std::vector<std::function<void()>> callbacks;
  {
    const std::lock_guard lock(mutex_);
    callbacks.swap(callbacks_);
  }
  for (auto& callback : callbacks) callback();
}

std::shared_ptr<Work> done_work() {
  static Work* const work = [] {
    auto made = std::make_unique<Work>();
    made->complete();
    return made.release();  // never destroyed: a process may exit while somebody holds it
  }();
  return {std::shared_ptr<void>(), work};
}

}  // namespace fastgpu
