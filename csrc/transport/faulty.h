// A seeded fault decorator for tests: wraps a channel and makes it misbehave, the same way each
// time for the same seed.
#pragma once

#include <cstdint>
#include <memory>

#include "transport/channel.h"

namespace fastgpu {

struct FaultPlan {
  uint64_t seed = 0;
  double block_probability = 0;              // of answering kBlocked though something could move
  uint64_t close_after_calls = UINT64_MAX;   // then kClosed for ever
  uint64_t freeze_after_calls = UINT64_MAX;  // then kBlocked for ever
  uint64_t corrupt_frame = UINT64_MAX;  // this frame's header key has a bit flipped (receivers)
};

std::unique_ptr<SendChannel> make_faulty(std::unique_ptr<SendChannel> channel,
                                         const FaultPlan& plan);
std::unique_ptr<RecvChannel> make_faulty(std::unique_ptr<RecvChannel> channel,
                                         const FaultPlan& plan);

}  // namespace fastgpu
