// The pinned chunks of one channel, through which payloads pass between a device and a channel of
// host memory. They take turns: chunk n of a channel is in place n mod kChunks.
//
// Ownership: owns its memory, which it allocates at first use; runtime and executor outlive it.
// Threading: the polling thread.
#pragma once

#include <array>
#include <cstdint>

#include "device/runtime.h"
#include "engine/device/host_driven/executor.h"

namespace fastgpu {

// One for the copy, one on the wire, one for the reduction.
inline constexpr std::size_t kChunks = 3;
inline constexpr uint64_t kMostChunkBytes = uint64_t{4} << 20;

class PinnedChunks {
 public:
  // `chunk_bytes` is a multiple of 16, so that chunks hold whole elements.
  PinnedChunks(DeviceRuntime& runtime, DeviceExecutor& executor, uint64_t chunk_bytes)
      : runtime_(runtime), executor_(executor), chunk_bytes_(chunk_bytes) {}
  ~PinnedChunks() {
    if (memory_ == nullptr) return;
    executor_.keep({memory_, [&runtime = runtime_](std::byte* memory) {
                      runtime.free_pinned(memory);  // once no work uses it
                    }});
  }
  PinnedChunks(const PinnedChunks&) = delete;
  PinnedChunks& operator=(const PinnedChunks&) = delete;

  uint64_t chunk_bytes() const noexcept { return chunk_bytes_; }
  // Raises DeviceError.
  std::byte* at(uint64_t chunk) {
    if (memory_ == nullptr) memory_ = allocate();
    return memory_ + chunk % kChunks * chunk_bytes_;
  }

 private:
  std::byte* allocate() {
    try {
      return runtime_.allocate_pinned(kChunks * chunk_bytes_);
    } catch (const CommError& error) {
      throw DeviceError(error.failure());
    }
  }

  DeviceRuntime& runtime_;
  DeviceExecutor& executor_;
  const uint64_t chunk_bytes_;
  std::byte* memory_ = nullptr;
};

}  // namespace fastgpu
