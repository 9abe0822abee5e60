// An operation: a schedule with the memory it runs on, on its way through the engine.
// Ownership: shared by the queue that runs it and its lanes. Threading: filled in by the caller,
// then handed to the queue; from there on the runner's alone, but for the Work.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/call.h"
#include "base/clock.h"
#include "engine/work.h"
#include "plan/schedule.h"
#include "transport/channel.h"

namespace fastgpu {

struct Operation {
  std::shared_ptr<const Schedule> schedule;
  const std::byte* input = nullptr;
  std::byte* data = nullptr;
  std::byte* wire = nullptr;
  std::shared_ptr<void> wire_owner;
  Call call;
  ReduceKernel reduce = nullptr;  // for schedules that reduce
  uint32_t element_size = 1;
  int rank = 0;           // mine, for messages
  uint64_t sequence = 0;  // given by the queue, in the order of the calls
  uint32_t generation = 0;
  TimeNs deadline = kNever;
  std::function<void()> prologue;  // before anything is read
  std::function<void()> epilogue;  // after everything is written
  std::shared_ptr<void> keep_alive;
  std::shared_ptr<Work> work;

  // The runner's notes.
  int lanes_left = 0;
  bool started = false;

  const std::byte* source(const Region& region) const {
    return (region.buffer == Buffer::kInput  ? input
            : region.buffer == Buffer::kData ? data
                                             : wire) +
           region.offset_bytes;
  }
  std::byte* target(const Region& region) const {
    return (region.buffer == Buffer::kData ? data : wire) + region.offset_bytes;
  }
};

}  // namespace fastgpu
