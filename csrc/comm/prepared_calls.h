// A small cache of ready operations. The next call with the same shape needs no plan, no kernels
// and no checks. It allocates nothing either, provided that the last operation has ended and its
// Work is dropped.
// Ownership: owns the cached operations; planner and builder outlive it. Threading: by the thread
// that holds the engine's progress lock.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "comm/calls.h"
#include "comm/operation_builder.h"
#include "comm/planner.h"
#include "engine/operation.h"

namespace fastgpu {

class PreparedCalls {
 public:
  PreparedCalls(Planner& planner, const OperationBuilder& builder)
      : planner_(planner), builder_(builder) {}

  // An operation for the call, ready to enter its queue; valid until the next call of prepare().
  // Raises InvalidArgumentError for a call that cannot be made.
  const std::shared_ptr<Operation>& prepare(CollectiveCall& call);
  // For when the planner has changed its plans.
  void clear() { slots_ = {}; }

 private:
  static constexpr int kSlotBits = 4;
  struct Slot {
    std::shared_ptr<Operation> operation;
    std::shared_ptr<const Plan> plan;  // the operation was filled for it

    bool fits(const CollectiveCall& call) const;
    // The operation has ended without failure, and only this slot holds it.
    bool is_idle() const;
  };

  static std::size_t slot_of(const CallShape& shape) noexcept;
  void refill(Slot& slot, CollectiveCall& call);

  Planner& planner_;
  const OperationBuilder& builder_;
  std::array<Slot, std::size_t{1} << kSlotBits> slots_;
};

}  // namespace fastgpu
