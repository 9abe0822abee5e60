#include "engine/failure_latch.h"

#include <string>
#include <utility>

namespace fastgpu {

void FailureLatch::report(Failure failure) { latch(std::move(failure), on_first_); }

void FailureLatch::close(Failure failure) { latch(std::move(failure), {}); }

void FailureLatch::latch(Failure failure, const OnFirst& on_first) {
  const std::lock_guard lock(mutex_);
  if (first_ != nullptr) return;
  if (on_first) on_first(failure);
  first_ = std::make_unique<const Failure>(std::move(failure));
  latched_.store(first_.get(), std::memory_order_release);
}

Failure failure_for(const Failure& first, std::string_view op, int64_t sequence) {
  Failure own = first;
  own.op = op;
  own.sequence = sequence;
  if (own.op != first.op || own.sequence != first.sequence) {
    own.message += " With it failed this rank's " + own.op;
    if (sequence >= 0) own.message += " #" + std::to_string(sequence);
    own.message += '.';
  }
  return own;
}

}  // namespace fastgpu
