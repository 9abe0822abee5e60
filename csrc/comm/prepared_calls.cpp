#include "comm/prepared_calls.h"

#include <utility>

namespace fastgpu {

// Counts are often multiples of large powers of two, so the high bits of a product tell them apart.
std::size_t PreparedCalls::slot_of(const CallShape& shape) noexcept {
  const uint64_t kind =
      static_cast<uint64_t>(shape.collective) << 8 | static_cast<uint8_t>(shape.dtype);
  return ((shape.count ^ kind << 48) * 0x9E3779B97F4A7C15U) >> (64 - kSlotBits);
}

bool PreparedCalls::Slot::fits(const CollectiveCall& call) const {
  return plan != nullptr && plan->shape == call.shape && plan->send_counts == call.send_counts &&
         plan->recv_counts == call.recv_counts;
}

bool PreparedCalls::Slot::is_idle() const {
  if (operation == nullptr || operation.use_count() != 1) return false;
  return !operation->work.done() || operation->work.ok();  // not done: run alone, work untouched
}

const std::shared_ptr<Operation>& PreparedCalls::prepare(CollectiveCall& call) {
  Slot& slot = slots_[slot_of(call.shape)];
  try {
    if (slot.is_idle() && slot.fits(call)) {
      if (slot.operation->work.done()) slot.operation->work.renew();
      builder_.bind(*slot.operation, call);
    } else {
      refill(slot, call);
    }
  } catch (const InvalidArgumentError&) {
    throw;
  } catch (...) {
    slot = {};  // it may hold the caller's memory
    throw;
  }
  return slot.operation;
}

void PreparedCalls::refill(Slot& slot, CollectiveCall& call) {
  if (!slot.fits(call)) {
    builder_.check(call);
    slot.plan = planner_.plan(call);
  }
  slot.operation = std::make_shared<Operation>();
  builder_.fill(*slot.operation, call, *slot.plan);
}

}  // namespace fastgpu
