#include "comm/device_tuner.h"

#include <algorithm>
#include <limits>

#include "base/clock.h"

namespace fastgpu {
namespace {

constexpr int kRounds = 8;
constexpr double kLeastUsPerByte = 1e-7;  // 10 TB/s

// The cost of a reduction beside that of a copy: a GPU adds while it copies, for next to nothing.
constexpr double kReduceShare = 0.05;

double us_since(TimeNs start) { return static_cast<double>(now_ns() - start) / 1000; }

struct Times {
  double enqueue_us = std::numeric_limits<double>::infinity();
  double passed_us = std::numeric_limits<double>::infinity();
};

// The least times of several copies: the first may load a kernel, others may be disturbed.
Times time_copies(DeviceExecutor& executor, std::byte* target, const std::byte* source,
                  std::size_t size_bytes) {
  Times least;
  for (int round = 0; round < kRounds; ++round) {
    const TimeNs start = now_ns();
    executor.copy(target, source, size_bytes);
    const uint64_t mark = executor.mark();
    const double enqueue_us = us_since(start);
    while (executor.passed() < mark) {
    }
    least.enqueue_us = std::min(least.enqueue_us, enqueue_us);
    least.passed_us = std::min(least.passed_us, us_since(start));
  }
  return least;
}

}  // namespace

double measure_us_per_byte(DeviceExecutor& executor, std::byte* target, const std::byte* source,
                           std::size_t size_bytes) {
  const Times small = time_copies(executor, target, source, sizeof(float));
  const Times large = time_copies(executor, target, source, size_bytes);
  return std::max((large.passed_us - small.passed_us) / static_cast<double>(size_bytes),
                  kLeastUsPerByte);
}

DeviceCosts measure_device_costs(DeviceExecutor& executor, Allocator& heap, Allocator& pinned) {
  const LentMemory source(heap, kMeasuredBytes);
  const LentMemory target(heap, kMeasuredBytes);
  const LentMemory chunk(pinned, kMeasuredBytes);
  const Times small = time_copies(executor, target.get(), source.get(), sizeof(float));
  return {.enqueue_us = small.enqueue_us,
          .passed_us = small.passed_us,
          .copy_us_per_byte = measure_us_per_byte(executor, target.get(), source.get()),
          .pinned_us_per_byte = measure_us_per_byte(executor, chunk.get(), source.get())};
}

Constants constants_with(const DeviceCosts& costs, const Constants& host, bool in_place) {
  Constants constants = host;
  constants.is_gpu = true;
  constants.copy_us_per_byte = costs.copy_us_per_byte;
  constants.reduce_us_per_byte = costs.copy_us_per_byte * kReduceShare;
  for (LinkCosts* link : {&constants.same_host, &constants.between_hosts}) {
    // A frame is announced when the work before it is seen to be done.
    link->alpha_us += costs.passed_us;
    link->overhead_us += costs.enqueue_us;
    link->beta_us_per_byte = std::max(link->beta_us_per_byte, costs.pinned_us_per_byte);
  }
  if (in_place) {
    constants.same_host.beta_us_per_byte = costs.copy_us_per_byte;
    constants.same_host.cpu_us_per_byte = costs.copy_us_per_byte;  // of the rank's one stream
  }
  return constants;
}

}  // namespace fastgpu
