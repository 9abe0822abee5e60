// Wraps a channel for tests and makes it fail at random. The same seed gives the same faults.
// Ownership: the wrapper owns the channel. Threading: channel.h.
#pragma once

#include <cstdint>
#include <memory>

#include "transport/channel.h"

namespace fastgpu {

struct FaultPlan {
  uint64_t seed = 0;
  double block_probability = 0;              // that a call does nothing and returns kBlocked
  uint64_t close_after_calls = UINT64_MAX;   // all later calls return kClosed
  uint64_t freeze_after_calls = UINT64_MAX;  // all later calls return kBlocked
  uint64_t corrupt_frame = UINT64_MAX;       // number of the frame whose key gets a flipped bit
};

std::unique_ptr<SendChannel> make_faulty(std::unique_ptr<SendChannel> channel,
                                         const FaultPlan& plan);
std::unique_ptr<RecvChannel> make_faulty(std::unique_ptr<RecvChannel> channel,
                                         const FaultPlan& plan);

}  // namespace fastgpu
