#include "comm/calls.h"

namespace fastgpu {

bool DeviceEnd::has_passed() const {
  const std::lock_guard lock(mutex_);
  return executor_ != nullptr && executor_->passed() >= mark_;
}

void DeviceEnd::finish_before(StreamHandle stream) const {
  const std::lock_guard lock(mutex_);
  if (executor_ != nullptr) executor_->finish_before(stream);
}

}  // namespace fastgpu
