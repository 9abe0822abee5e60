// A small cache of ready operations. The next call with the same shape, and in an all_to_all with
// the same counts, needs no plan, no kernels and no checks. If the cached operation has ended and
// its Work was dropped, the call allocates nothing.
// Ownership: owns the cached operations; planner and builder outlive it. Threading: the polling
// thread's.
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
  // Drops all operations. Call it when the planner's plans have changed.
  void clear() { slots_ = {}; }

 private:
  static constexpr int kSlotBits = 4;
  struct Slot {
    std::shared_ptr<Operation> operation;
    std::shared_ptr<const Plan> plan;  // the plan that `operation` follows

    bool fits(const CollectiveCall& call) const;
    // The operation has ended without failure, and nobody else holds it. (The Work of an operation
    // that ended alone was never completed.)
    bool is_idle() const;
  };

  static std::size_t slot_of(const CallShape& shape) noexcept;
  void refill(Slot& slot, CollectiveCall& call);

  Planner& planner_;
  const OperationBuilder& builder_;
  std::array<Slot, std::size_t{1} << kSlotBits> slots_;
};

}  // namespace fastgpu
