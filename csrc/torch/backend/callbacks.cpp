#include "torch/backend/callbacks.h"

#include <pthread.h>

#include <thread>
#include <utility>

#include "base/log.h"

namespace fastgpu {

CallbackThreads& CallbackThreads::shared() {
  static auto* threads = new CallbackThreads;
  return *threads;
}

void CallbackThreads::post(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(callback));
  posted_.notify_one();
  if (idle_ < queue_.size() && threads_ < kMaxThreads) {
    std::thread(&CallbackThreads::run, this).detach();
    ++threads_;
  }
}

void CallbackThreads::run() {
  pthread_setname_np(pthread_self(), "fastgpu-future");
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    posted_.wait(lock, [this] { return !queue_.empty(); });
    --idle_;
    std::function<void()> callback = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    try {
      callback();
    } catch (const std::exception& error) {
      log(LogLevel::kError, "future_callback_failed", "reason=" + quoted(error.what()));
    }
    callback = nullptr;  // destroys what it captured while the lock is free
    lock.lock();
  }
}

}  // namespace fastgpu
