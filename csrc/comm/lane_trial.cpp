#include "comm/lane_trial.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "comm/device_tuner.h"
#include "comm/runtime.h"

namespace fastgpu {
namespace {

constexpr int kCalls = 8;
constexpr uint64_t kTimeoutNs = 5'000'000'000;

// The content of a rank's staging memory before the first call; it differs between ranks.
using Sample = std::array<uint32_t, 1024>;
Sample sample_of(int rank) {
  Sample sample;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    sample[i] = static_cast<uint32_t>((static_cast<std::size_t>(rank) + 1) * 0x9E3779B1U + i);
  }
  return sample;
}

class Trial {
 public:
  Trial(Runtime& runtime, LaneMemory& memory, const device::LaneKernels& kernels,
        DeviceExecutor& executor, int rank, int world)
      : runtime_(runtime),
        memory_(memory),
        kernels_(kernels),
        executor_(executor),
        rank_(rank),
        world_(world) {}

  LaneVerdict run() {
    LaneVerdict verdict;
    fill_staging();
    const float mine = static_cast<float>(rank_ + 1);
    const auto value = memory_.upload(&mine, sizeof mine);
    const void* const kernel = kernels_.small(DType::kFloat32, ReduceOp::kSum);
    executor_.load(kernel);
    add_up(kernel, value->get());  // not timed: it waits for ranks that come later
    executor_.synchronize();
    const TimeNs start = now_ns();
    for (int call = 1; call < kCalls; ++call) add_up(kernel, value->get());
    executor_.synchronize();
    verdict.latency_us = static_cast<double>(now_ns() - start) / 1000 / (kCalls - 1);
    verdict.works = memory_.ended(end_) == 0 && is_right(value->get()) && reads_stagings();
    const std::size_t size_bytes = std::min(kMeasuredBytes, memory_.staging_bytes());
    const auto target = memory_.lend(size_bytes);
    for (int peer = 0; peer < world_; ++peer) {
      if (peer == rank_) continue;
      const double found =
          measure_us_per_byte(executor_, target->get(), memory_.staging_of(peer), size_bytes);
      verdict.peer_us_per_byte = std::max(verdict.peer_us_per_byte, found);
    }
    return verdict;
  }

 private:
  void fill_staging() {
    const Sample sample = sample_of(rank_);
    const auto filled = memory_.upload(sample.data(), sizeof sample);
    executor_.copy(memory_.staging(), filled->get(), sizeof sample);
    executor_.synchronize();
  }

  void add_up(const void* kernel, std::byte* value) {
    device::SmallArgs args = memory_.small_args(kTimeoutNs, end_);
    args.input = value;
    args.output = value;
    args.size_bytes = sizeof(float);
    args.factor = 1;
    executor_.launch({.kernel = kernel,
                      .arguments = std::as_bytes(std::span(&args, 1)),
                      .blocks = 1,
                      .threads = kernels_.threads});
  }

  bool is_right(const std::byte* value) {
    float expected = 0;
    for (int rank = 0; rank < world_; ++rank) expected += static_cast<float>(rank + 1);
    for (int call = 1; call < kCalls; ++call) {
      const float before = expected;
      expected = 0;
      for (int rank = 0; rank < world_; ++rank) expected += before;
    }
    const LentMemory pinned(runtime_.pinned_memory(), sizeof expected);
    executor_.copy(pinned.get(), value, sizeof expected);
    executor_.synchronize();
    float found = 0;
    std::memcpy(&found, pinned.get(), sizeof found);
    return found == expected;
  }

  // Whether this rank reads every peer's sample. Comes after a call, so that peers have filled
  // theirs.
  bool reads_stagings() {
    const LentMemory pinned(runtime_.pinned_memory(), sizeof(Sample));
    for (int peer = 0; peer < world_; ++peer) {
      executor_.copy(pinned.get(), memory_.staging_of(peer), sizeof(Sample));
      executor_.synchronize();
      const Sample expected = sample_of(peer);
      if (std::memcmp(pinned.get(), expected.data(), sizeof expected) != 0) return false;
    }
    return true;
  }

  Runtime& runtime_;
  LaneMemory& memory_;
  const device::LaneKernels& kernels_;
  DeviceExecutor& executor_;
  const int rank_;
  const int world_;
  const uint32_t end_ = memory_.take_end();
};

}  // namespace

LaneVerdict try_lanes(Runtime& runtime, LaneMemory& memory, const device::LaneKernels& kernels,
                      DeviceExecutor& executor, int rank, int world) {
  try {
    return Trial(runtime, memory, kernels, executor, rank, world).run();
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "gpu_lanes_off", "reason=" + in_quotes(error.what()));
    return {};
  }
}

}  // namespace fastgpu
