// An operation: a schedule with the memory it runs on, on its way through the engine.
// Ownership: shared by the queue that runs it, its lanes, and whoever holds its Work. Threading:
// filled in by the caller, then handed to the queue; from there on the progress thread's alone, but
// for the Work.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/call.h"
#include "base/clock.h"
#include "engine/work.h"
#include "memory/scratch_pool.h"
#include "plan/schedule.h"
#include "transport/channel.h"

namespace fastgpu {

struct Operation {
  std::shared_ptr<const Schedule> schedule;
  const std::byte* input = nullptr;
  std::byte* data = nullptr;
  std::shared_ptr<ScratchPool> scratch_pool;
  Scratch scratch;  // from wires; enough for the schedule once it has started
  Call call;
  std::array<uint64_t, 2> key{};                 // the packed call, as every frame carries it
  ReduceKernel reduce = nullptr;                 // for schedules that reduce
  ReduceBothKernel reduce_both = nullptr;        // may be absent where reduce is not
  uint64_t single_copy_from_bytes = UINT64_MAX;  // Outgoing::stays
  CopyKernel copy = nullptr;          // for what is stored and not read again; nullptr: memcpy
  CopyKernel staging_copy = nullptr;  // for what several ranks will read in the wire
  uint32_t element_size = 1;
  uint64_t sent_bytes = 0;  // of the schedule, for the queue's counters
  uint64_t received_bytes = 0;
  int rank = 0;           // mine, for messages
  uint64_t sequence = 0;  // given by the queue, in the order of the calls
  uint32_t generation = 0;
  TimeNs timeout_ns = kNever;      // from the first time that nothing could move
  std::function<void()> prologue;  // before anything is read
  std::function<void()> epilogue;  // after everything is written
  std::shared_ptr<void> keep_alive;
  Work work;

  // The progress thread's notes.
  TimeNs deadline = kNever;
  int lanes_left = 0;
  bool started = false;

  // Once it is done, nothing of the caller's is kept alive by it: it may be kept for the next call.
  void release_caller() {
    prologue = nullptr;
    epilogue = nullptr;
    keep_alive.reset();
  }
  void take_scratch() {
    if (lacks_scratch()) scratch = Scratch(scratch_pool, schedule->scratch_bytes);
  }
  bool lacks_scratch() const noexcept { return scratch.size_bytes() < schedule->scratch_bytes; }

  const std::byte* source(const Region& region) const {
    return (region.buffer == Buffer::kInput  ? input
            : region.buffer == Buffer::kData ? data
                                             : scratch.memory()) +
           region.offset_bytes;
  }
  std::byte* target(const Region& region) const {
    return (region.buffer == Buffer::kData ? data : scratch.memory()) + region.offset_bytes;
  }
};

inline std::shared_ptr<Work> work_of(const std::shared_ptr<Operation>& operation) {
  return {operation, &operation->work};
}

}  // namespace fastgpu
