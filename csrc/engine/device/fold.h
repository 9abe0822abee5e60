// fold(): merges the steps of a lane that receive or copy onto one target into one n-way step. It
// sums in registers, in the same order and with the same roundings, instead of reading and writing
// the target for each source.
//
// Invariants:
//  1. The result has the bits of the unfolded lane.
//  2. No step moves across a send. A send may tell a peer that this rank has read the peer's frame,
//     and that proves that the peer may write again.
//
// Ownership: plain values. Threading: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/schedule.h"

namespace fastgpu::device {

// Frame `frame` - 1 of `peer`, or a region of this rank if `frame` is 0.
struct FoldSource {
  Region region;          // in the peer's memory or in mine
  bool relative = false;  // see Place::kRelative
  int peer = -1;
  uint32_t frame = 0;

  bool is_local() const { return frame == 0; }
};

// A send if there are no sources. Otherwise target = source op source ..., in order.
struct FoldStep {
  Region region;  // of a send: what is sent; else the target
  std::vector<FoldSource> sources{};
  bool completes = false;  // the target then holds the reduction over all ranks
  int peer = -1;           // of a send
  uint32_t frame = 0;

  bool is_send() const { return sources.empty(); }
};

void fold(std::vector<FoldStep>& lane);

}  // namespace fastgpu::device
