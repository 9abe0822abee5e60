// A Task is what a caller asks of the engine: a schedule, the memory it runs on, and the kernels it
// uses. An Operation is a Task on its way through the engine, with the state of its run.
//
// Invariants:
//  1. The caller fills the task before the operation enters its queue. Until the operation ends
//     nobody changes the task.
//  2. When the operation ends, ok or not, release_caller() drops the hooks, so that an operation
//     which is kept for the next call keeps nothing of its caller's alive.
// Ownership: shared by the queue and by all holders of the Work. Threading: the task is constant
// while the engine has it, the Work is for all threads, and the rest is the polling thread's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/call.h"
#include "base/clock.h"
#include "codec/residual.h"
#include "engine/executor.h"
#include "engine/work.h"
#include "memory/scratch_pool.h"
#include "plan/schedule.h"
#include "transport/channel.h"

namespace fastgpu {

struct Task {
  Call call;
  std::string_view op;  // name of the user's call, if this is a part of it; static storage
  std::array<uint64_t, 2> key{};  // the packed call, which every frame carries
  uint32_t element_size = 1;
  int rank = 0;  // mine, for messages
  uint32_t generation = 0;
  TimeNs timeout_ns = kNever;  // counted from the first poll that moves nothing

  std::shared_ptr<const Schedule> schedule;
  uint64_t sent_bytes = 0;  // by the schedule, for the queue's counters
  uint64_t received_bytes = 0;

  const std::byte* input = nullptr;
  std::byte* data = nullptr;
  Residual residual;                   // of the elements of data
  std::optional<uint64_t> random_key;  // of encodings that round stochastically
  std::shared_ptr<ScratchPool> scratch_pool;
  uint64_t single_copy_from_bytes = UINT64_MAX;  // smaller frames are never Outgoing::single_copy

  ReduceKernel reduce = nullptr;           // for schedules that reduce
  ReduceBothKernel reduce_both = nullptr;  // may be absent even if `reduce` is set
  double factor = 1;                       // of the elements that a step completes
  const CodecKernels* codec = nullptr;     // for schedules that encode
  CopyKernel copy = nullptr;               // for results; nullptr: memcpy
  CopyKernel staging_copy = nullptr;       // for scratch that several ranks read; nullptr: memcpy
  bool is_internal = false;                // no user's call: it has the number of the call before
  // For memory that is not the CPU's. The kernels are then set, but not called.
  Executor* executor = nullptr;

  std::function<void()> prologue;    // runs before anything is read
  std::function<void()> epilogue;    // runs after everything is written
  std::shared_ptr<void> keep_alive;  // the caller's memory
};

// The call that the user made, for errors: "all_gather", also for one of its broadcasts.
inline std::string op_of(const Task& task) {
  return std::string(task.op.empty() ? name_of(task.call.shape.collective) : task.op);
}
// "broadcast(count=3, ...) of all_gather"
inline std::string describe(const Task& task) {
  return describe(task.call) + (task.op.empty() ? "" : " of " + op_of(task));
}

struct Operation {
  Task task;
  Work work;

  // The polling thread's.
  uint64_t sequence = 0;  // given by the queue, in the order of the calls
  Scratch scratch;        // large enough for the schedule once the operation has started
  TimeNs deadline = kNever;
  int lanes_left = 0;
  bool started = false;

  void release_caller() {
    task.prologue = nullptr;
    task.epilogue = nullptr;
    task.keep_alive.reset();
  }
  bool lacks_scratch() const noexcept {
    return scratch.size_bytes() < task.schedule->scratch_bytes;
  }
  void take_scratch() {
    if (lacks_scratch()) scratch = Scratch(task.scratch_pool, task.schedule->scratch_bytes);
  }

  const std::byte* source(const Region& region) const {
    return (region.buffer == Buffer::kInput  ? task.input
            : region.buffer == Buffer::kData ? task.data
                                             : scratch.memory()) +
           region.offset_bytes;
  }
  std::byte* target(const Region& region) const {
    return (region.buffer == Buffer::kData ? task.data : scratch.memory()) + region.offset_bytes;
  }
};

// The operation's completion, which keeps the operation alive.
inline std::shared_ptr<Work> work_of(const std::shared_ptr<Operation>& operation) {
  return {operation, &operation->work};
}

}  // namespace fastgpu
