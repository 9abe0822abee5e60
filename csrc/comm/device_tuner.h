// Measures the costs of a collective's steps on GPUs, by which algorithms are chosen.
// Thread safety: any thread.
#pragma once

#include "engine/device/host_driven/executor.h"
#include "memory/allocator.h"
#include "plan/cost/constants.h"

namespace fastgpu {

struct DeviceCosts {
  double enqueue_us = 0;          // for the host to enqueue a copy
  double passed_us = 0;           // from then until the host sees that a small one is done
  double copy_us_per_byte = 0;    // within the GPU
  double pinned_us_per_byte = 0;  // to pinned memory
};

// Copies for about a millisecond. Raises OutOfResourcesError, and DeviceError.
DeviceCosts measure_device_costs(DeviceExecutor& executor, Allocator& heap, Allocator& pinned);

inline constexpr std::size_t kMeasuredBytes = std::size_t{1} << 20;

// Microseconds per byte of the fastest of several copies, within the GPU or from what it maps.
double measure_us_per_byte(DeviceExecutor& executor, std::byte* target, const std::byte* source,
                           std::size_t size_bytes = kMeasuredBytes);

// The costs of a group. `host` are those of its links through host memory; `in_place` says whether
// all ranks of a host read each other's memory.
Constants constants_with(const DeviceCosts& costs, const Constants& host, bool in_place);

}  // namespace fastgpu
