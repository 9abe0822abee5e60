// Launches the kernels of a plan, with the copies between tensors and staging memory around them.
//
// A tensor is used in place if the peers' kernels know its segment of the heap. In a call of
// several pieces, a tensor of several blocks is always copied: its part of a piece is not
// contiguous. A piece uses the staging memory of the one before: when a kernel ends, every peer
// has read what it needs of this rank's.
//
// Ownership: the arguments of the constructor outlive it, and a plan outlives its launches.
// Threading: any thread; calls for one stream must not overlap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "comm/lane_memory.h"
#include "comm/lane_plans.h"
#include "comm/mapped_peers.h"
#include "comm/operation_builder.h"
#include "device/runtime.h"

namespace fastgpu {

struct LaneLaunch {
  const LanePlan& plan;
  const std::byte* input;
  std::byte* data;
  Factors factors;
  uint64_t timeout_ns;
  uint32_t end;  // from LaneMemory::take_end(), or LaneMemory::kEndInGraphs
};

class LaneLauncher {
 public:
  LaneLauncher(DeviceRuntime& devices, LaneMemory& memory, MappedPeers& peers,
               const device::LaneKernels& kernels)
      : devices_(devices), memory_(memory), peers_(peers), kernels_(kernels) {}

  void enqueue(StreamHandle stream, const LaneLaunch& launch);

 private:
  struct Range;
  struct KernelBuffer;

  void enqueue_small(StreamHandle stream, const LaneLaunch& launch);
  void enqueue_piece(StreamHandle stream, const LaneLaunch& launch, const LanePiece& piece,
                     uint64_t first_element);
  KernelBuffer buffer_for(const Range& range, uint64_t staging_at);
  void copy_in(StreamHandle stream, const LaneLaunch& launch, std::byte* memory,
               const Range& range);
  void copy_out(StreamHandle stream, const LaneLaunch& launch, const std::byte* memory,
                const Range& range);

  DeviceRuntime& devices_;
  LaneMemory& memory_;
  MappedPeers& peers_;
  const device::LaneKernels kernels_;
};

}  // namespace fastgpu
