// Tries the kernels of a group's ranks on their memory before any call relies on them, and measures
// what they cost.
// Threading: a collective call, on a caller's thread.
#pragma once

#include <cstdint>

#include "comm/lane_memory.h"
#include "engine/device/host_driven/executor.h"
#include "engine/device/lane_code.h"

namespace fastgpu {

// What a rank has found; the ranks exchange it.
struct LaneVerdict {
  uint64_t works = 0;
  double latency_us = 0;        // of the smallest all_reduce, one after another
  double peer_us_per_byte = 0;  // out of the slowest peer's memory
};

// Writes to the staging memory. All ranks' kernels wait for each other, some seconds at most.
LaneVerdict try_lanes(Runtime& runtime, LaneMemory& memory, const device::LaneKernels& kernels,
                      DeviceExecutor& executor, int rank, int world);

}  // namespace fastgpu
