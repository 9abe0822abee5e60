// Makes operations of calls: checks a call, chooses kernels and how frames travel, and adds the
// scaling that AVG and PREMUL_SUM need.
// Ownership: owns the scratch pools of a communicator's operations; `shared` outlives it.
// Thread safety: all calls, any thread, on different operations.
#pragma once

#include <cstdint>
#include <memory>

#include "base/call.h"
#include "comm/calls.h"
#include "comm/options.h"
#include "comm/planner.h"
#include "engine/engine.h"
#include "engine/operation.h"
#include "memory/scratch_pool.h"

namespace fastgpu {

// Whether a call of this shape can have a codec.
bool has_codec(const CallShape& shape);
// The codec of a call in a group whose own is `of_group`. That one is for the calls of programs;
// DistributedDataParallel chooses for itself.
Codec codec_of(const CallShape& shape, Codec of_group);

// A reduction multiplies its inputs by `before`, and its results by `after`. The sum of a narrow
// dtype might overflow, so there an average divides the inputs; elsewhere the results, without a
// loss.
struct Factors {
  double before = 1;
  double after = 1;
};
Factors factors_of(const CollectiveCall& call, int world);

class OperationBuilder {
 public:
  struct Config {
    int rank = 0;
    int world = 1;
    MachineShare machine;
    SingleCopy single_copy = SingleCopy::kAuto;
    Executor* executor = nullptr;  // for operations on memory of a GPU; outlives the builder
  };

  // Scratch that peers read comes from `shared`; without an executor, other scratch is private
  // memory.
  OperationBuilder(const Config& config, Allocator& shared);

  // Raises InvalidArgumentError for a call that cannot be made.
  void check(const CollectiveCall& call) const;
  // Fills in all that follows from the shape of a checked call, then what bind() does.
  void fill(Operation& operation, CollectiveCall& call, const Plan& plan) const;
  // Fills in what is this call's own: memory, deadline and hooks, which are moved out of the call.
  // The operation was filled for a call of the same shape, and has ended.
  void bind(Operation& operation, CollectiveCall& call) const;

 private:
  uint64_t single_copy_from_bytes(Collective collective) const;
  void fill_for_cpu(Task& task, const Plan& plan, bool sums) const;
  void scale_input(Operation& operation, const CollectiveCall& call, double factor) const;

  const Config config_;
  const bool uses_single_copy_;
  // Results of this size would not stay in the caches that the ranks of a machine share.
  const uint64_t streamed_from_bytes_;
  const std::shared_ptr<ScratchPool> shared_scratch_pool_;
  const std::shared_ptr<ScratchPool> scratch_pool_;
};

}  // namespace fastgpu
