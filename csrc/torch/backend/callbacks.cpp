#include "torch/backend/callbacks.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "comm/runtime.h"

namespace fastgpu {

// A forked process has none of the parent's threads, so the first call there makes a new object.
CallbackThreads& CallbackThreads::shared() {
  static std::atomic<CallbackThreads*> shared{nullptr};
  CallbackThreads* current = shared.load();
  if (current == nullptr || current->made_at_fork_ != forks()) {
    std::unique_ptr<CallbackThreads> made(new CallbackThreads(forks()));
    if (shared.compare_exchange_strong(current, made.get())) current = made.release();
  }
  return *current;
}

void CallbackThreads::post(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(callback));
  if (stopped_) return;
  posted_.notify_one();
  if (idle_ >= queue_.size() || threads_ >= kMaxThreads) return;
  try {
    add_thread();
  } catch (const OutOfResourcesError& error) {  // a thread that is busy now will run it
    log(LogLevel::kWarn, "no_callback_thread", "reason=" + in_quotes(error.what()));
  }
}

void CallbackThreads::stop(TimeNs deadline) {
  std::unique_lock lock(mutex_);
  all_idle_.wait_for(lock, std::chrono::nanoseconds(deadline - now_ns()),
                     [this] { return queue_.empty() && idle_ == threads_; });
  stopped_ = true;
}

void CallbackThreads::start() {
  const std::lock_guard lock(mutex_);
  if (threads_ == 0) add_thread();
}

void CallbackThreads::add_thread() {
  start_thread("fastgpu-future", [this] { run(); }).detach();
  ++threads_;
}

void CallbackThreads::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    if (queue_.empty() && idle_ == threads_) all_idle_.notify_all();
    posted_.wait(lock, [this] { return !queue_.empty() && !stopped_; });
    --idle_;
    std::function<void()> callback = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    try {
      callback();
    } catch (const std::exception& error) {
      log(LogLevel::kError, "future_callback_failed", "reason=" + in_quotes(error.what()));
    }
    callback = nullptr;  // destroys what it captured while the lock is free
    lock.lock();
  }
}

}  // namespace fastgpu
