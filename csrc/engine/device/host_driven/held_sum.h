// A sum that an executor holds back until its last source is known. One launch then reads every
// source once and writes the target once, with the bits of a launch for each source: it adds in the
// order of the calls, and rounds after each.
//
// Until the launch, nothing else may touch the target, or write a source.
// Ownership: plain values. Threading: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "device/runtime.h"
#include "engine/executor.h"

namespace fastgpu {

class HeldSum {
 public:
  bool empty() const noexcept { return size_bytes_ == 0; }
  bool full() const noexcept { return count_ == kMostReduced; }

  // copy = original, before the sum overwrites the original. If the sum adds the copy, it reads the
  // original instead, and nothing is copied. Precondition: empty().
  void set_aside(std::byte* copy, const std::byte* original, std::size_t size_bytes);
  // target = source, as the first step of a sum. start() and add() return false, and do nothing, if
  // the step does not continue the held sum. An empty sum takes any step.
  bool start(std::byte* target, const std::byte* source, std::size_t size_bytes);
  // target = (target op source) * factor
  bool add(std::byte* target, const std::byte* source, std::size_t size_bytes,
           const Reduction& reduction);

  void launch(DeviceRuntime& runtime, StreamHandle stream) const;

 private:
  bool overwrites(const std::byte* source) const;

  std::byte* target_ = nullptr;
  std::size_t size_bytes_ = 0;
  std::array<const std::byte*, kMostReduced> sources_{};
  std::size_t count_ = 0;                // of sources_
  Reduction reduction_;                  // if there are several sources
  std::byte* aside_ = nullptr;           // the copy of set_aside(), until it is made or added
  const std::byte* original_ = nullptr;  // of aside_
};

// target = (sources[0] op sources[1] op ...) * factor
void launch_reduction(DeviceRuntime& runtime, StreamHandle stream, std::byte* target,
                      std::span<const std::byte* const> sources, std::size_t size_bytes,
                      const Reduction& reduction);

}  // namespace fastgpu
