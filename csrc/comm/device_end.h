// Where the work of an operation ends on its GPU. The operation's Work object is done earlier, when
// all of that is enqueued. By then the end is set.
// Thread safety: all calls, any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/device/host_driven/executor.h"

namespace fastgpu {

class DeviceEnd {
 public:
  void set(std::shared_ptr<DeviceExecutor> executor, uint64_t mark) {
    const std::lock_guard lock(mutex_);
    executor_ = std::move(executor);
    mark_ = mark;
  }
  // Whether the GPU has done the work. Raises DeviceError.
  bool has_passed() const {
    const auto [executor, mark] = get();
    return executor != nullptr && executor->passed() >= mark;
  }
  // Later work in `stream` runs after the operation's. Raises DeviceError.
  void finish_before(StreamHandle stream) const {
    const auto [executor, mark] = get();
    if (executor != nullptr) executor->finish_before(stream, mark);
  }

 private:
  std::pair<std::shared_ptr<DeviceExecutor>, uint64_t> get() const {
    const std::lock_guard lock(mutex_);
    return {executor_, mark_};
  }

  mutable std::mutex mutex_;                  // guards what follows
  std::shared_ptr<DeviceExecutor> executor_;  // nullptr: not set
  uint64_t mark_ = 0;
};

}  // namespace fastgpu
