// Where any thread leaves work for the polling thread, in order.
// Ownership: holds the items until they are taken. Threading: push from any thread; take by the
// polling thread. Unbounded: its owner limits what is pending.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace fastgpu {

template <typename Item>
class Inbox {
 public:
  void push(Item item) {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
    pushed_.store(pushed() + 1, std::memory_order_release);
  }

  // How many items were ever pushed. Any thread.
  uint64_t pushed() const noexcept { return pushed_.load(std::memory_order_acquire); }

  // The polling thread's, as is take(): whether items wait to be taken.
  bool filled() const noexcept { return pushed() != taken_count_; }

  // Everything pushed since the last call, oldest first; valid until the next call.
  std::vector<Item>& take() {
    taken_.clear();
    const std::lock_guard lock(mutex_);
    taken_.swap(items_);
    taken_count_ += taken_.size();
    return taken_;
  }

 private:
  std::atomic<uint64_t> pushed_{0};
  std::mutex mutex_;         // guards items_, and writes of pushed_
  std::vector<Item> items_;  // pushed, but not taken
  // The polling thread's.
  uint64_t taken_count_ = 0;
  std::vector<Item> taken_;  // keeps its memory for the next take
};

}  // namespace fastgpu
