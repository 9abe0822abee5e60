// The memory of this rank into which peers may put, by window number.
// Ownership: keeps the memory alive until remove(), and while a put arrives. Thread safety: all
// calls, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace fastgpu {

struct WindowMemory {
  std::byte* data = nullptr;
  uint64_t size_bytes = 0;
  std::shared_ptr<void> keep_alive;
};

class WindowTable {
 public:
  void add(uint32_t window, WindowMemory memory) {
    const std::lock_guard lock(mutex_);
    windows_.insert_or_assign(window, std::move(memory));
  }
  void remove(uint32_t window) {
    const std::lock_guard lock(mutex_);
    windows_.erase(window);
  }
  std::optional<WindowMemory> find(uint32_t window) const {
    const std::lock_guard lock(mutex_);
    const auto found = windows_.find(window);
    if (found == windows_.end()) return std::nullopt;
    return found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<uint32_t, WindowMemory> windows_;
};

}  // namespace fastgpu
